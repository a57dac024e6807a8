"""Requests that change or list a session's names, each in its turn (journal.turns): none while the daemon brings or
drops files of the session, which it does for some milliseconds at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from cachesync.fuse import Handler, Later, Request, wire
from cachesync.journal.session_lock import HeldTurn, SharedTurns
from cachesync.mount.nodes import Nodes, session_of

_NONE = b""


class InTurn:
    """Makes handlers that wait for their turn. What they wait for by themselves (Later) is not done in it, or it would
    wait for them; what they do then is, in another one."""

    def __init__(self, turns: SharedTurns, nodes: Nodes) -> None:
        self._turns = turns
        self._nodes = nodes

    def handler(self, handler: Handler) -> Handler:
        """For requests about a node, or a name in a directory."""
        return self._with(handler, lambda r: session_of(self._nodes[r.node]))

    def opening(self, handler: Handler) -> Handler:
        """For OPEN: who only reads needs no turn."""

        def session(r: Request) -> bytes:
            (flags,) = wire.U32.unpack_from(r.buffer, wire.HEADER)
            reading = flags & (os.O_ACCMODE | os.O_TRUNC) == os.O_RDONLY
            return _NONE if reading else session_of(self._nodes[r.node])

        return self._with(handler, session)

    def renaming(self, handler: Handler) -> Handler:
        """For requests about two directories: the number of the second is what they begin with."""

        def other(r: Request) -> bytes:
            (number,) = wire.U64.unpack_from(r.buffer, wire.HEADER)
            session = session_of(self._nodes[number])
            return _NONE if session == session_of(self._nodes[r.node]) else session

        return self.handler(self._with(handler, other))

    def _with(self, handler: Handler, session_of_request: Callable[[Request], bytes]) -> Handler:
        turns = self._turns

        def handle(r: Request) -> bytes:
            session = session_of_request(r)
            if session == _NONE:
                return handler(r)
            if not turns.take(session):
                raise self._later(session, partial(handler, r.kept()))
            try:
                return handler(r)
            except Later as later:
                raise self._then(session, later) from None
            finally:
                turns.give_back(session)

        return handle

    def _later(self, session: bytes, then: Callable[[], bytes]) -> Later:
        """Wait, and call ``then`` while the turn is held: taken anew it might be the daemon's again. If the program is
        killed meanwhile nobody calls it, and the turn ends as the last that knows of it is dropped."""
        held: list[HeldTurn] = []

        def answer() -> bytes:
            with held.pop():
                try:
                    return then()
                except Later as later:
                    raise self._then(session, later) from None

        return Later(lambda: held.append(self._turns.wait(session)), answer, party=session)

    def _then(self, session: bytes, later: Later) -> Later:
        """What was to be waited for, and then to be done in a turn."""
        then = later.then
        if then is None:
            return later  # it is handled again, from its beginning

        def answer() -> bytes:
            if not self._turns.take(session):
                raise self._later(session, then)
            try:
                return then()
            except Later as again:
                raise self._then(session, again) from None
            finally:
                self._turns.give_back(session)

        return later.followed_by(answer)
