"""Blocking calls for an event loop: each in a thread of its own, so many at once and no more. Where calls are short, a
thread that is done waits for another one: to start a thread takes longer than that.

Not ThreadPoolExecutor: the interpreter waits for its threads at exit, and a flush may wait for minutes. These are
daemon threads, so a process that has decided to stop stops. A call that nobody waits for any more (the client is gone,
the server stops) runs to its end all the same.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from cachesync.model.errors import DaemonUnavailable

T = TypeVar("T")
Call = tuple[Callable[[], Any], "asyncio.Future[Any]"]


class Lane:
    """At most ``limit`` calls at once. Those above it wait for a place at most ``wait`` seconds, or are refused. A
    thread waits ``idle`` seconds for its next call.

    Lives in one event loop: make it there, call it there.
    """

    def __init__(self, name: str, limit: int, wait: float, *, idle: float = 0.0) -> None:
        self._name = name
        self._limit = limit
        self._wait = wait
        self._places = asyncio.Semaphore(limit)
        self._waiting: set[asyncio.Future[Any]] = set()
        self._idle_for = idle
        self._idle: list[SimpleQueue[Call]] = []

    async def run(self, work: Callable[[], T]) -> T:
        """What ``work`` returns or raises; DaemonUnavailable if there is no place for it or the server stops."""
        try:
            async with asyncio.timeout(self._wait):
                await self._places.acquire()
        except TimeoutError:
            raise DaemonUnavailable(
                self._name, cause=f"{self._limit} others are under way already", hint="try again in a moment"
            ) from None
        answer: asyncio.Future[T | BaseException] = asyncio.get_running_loop().create_future()
        try:
            self._hand_out((work, answer))
        except RuntimeError as error:  # no more threads
            self._places.release()
            raise DaemonUnavailable(self._name, cause=error) from None
        self._waiting.add(answer)
        try:
            outcome = await asyncio.shield(answer)
        finally:
            self._waiting.discard(answer)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def waiting(self) -> set[asyncio.Future[Any]]:
        """The answers that somebody waits for."""
        return set(self._waiting)

    def give_up(self) -> None:
        """Answer everybody who waits with DaemonUnavailable."""
        for answer in list(self._waiting):
            if not answer.done():
                answer.set_result(DaemonUnavailable(self._name, cause="the daemon stops", hint="see cachesync status"))

    def _hand_out(self, call: Call) -> None:
        """Give a call to a thread that waits for one, or to a new one. Raises RuntimeError if none is to be had."""
        try:
            inbox = self._idle.pop()
        except IndexError:
            inbox = SimpleQueue()
            thread = threading.Thread(target=self._work, args=(inbox,), name=f"control-{self._name}", daemon=True)
            thread.start()
        inbox.put(call)

    def _work(self, inbox: SimpleQueue[Call]) -> None:
        call: Call | None = inbox.get()
        while call is not None:
            self._call(*call)
            del call  # so that nothing of it is kept until the next one
            call = self._next(inbox)

    def _next(self, inbox: SimpleQueue[Call]) -> Call | None:
        """The next call for a thread, or None if there is none in time."""
        if not self._idle_for:
            return None
        self._idle.append(inbox)
        try:
            return inbox.get(timeout=self._idle_for)
        except Empty:
            try:
                self._idle.remove(inbox)
            except ValueError:  # it was taken just now: a call comes
                return inbox.get()
            return None

    def _call(self, work: Callable[[], T], answer: asyncio.Future[T | BaseException]) -> None:
        outcome: T | BaseException
        try:
            outcome = work()
        except BaseException as error:  # noqa: BLE001  # raised again in the loop
            outcome = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            answer.get_loop().call_soon_threadsafe(self._done, answer, outcome)

    def _done(self, answer: asyncio.Future[T | BaseException], outcome: T | BaseException) -> None:
        self._places.release()
        if not answer.done():
            answer.set_result(outcome)
