"""The request loop: one thread reads and answers; what has to wait does so elsewhere.

A handler is plain code over what is here now. Where something has to be fetched first it raises Later, as a page fault
would: a thread of a pool does that work, and then the same request is handled again from its beginning. Work that waits
for something remote, or for a user's program, has places of its own, so that work on this host never waits behind it.
So handlers never block, and no two of them run at once: they need no locks of their own. More request threads would
only hand the interpreter's lock around (measured: two halve the rate).
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cachesync.fuse import wire
from cachesync.fuse.device import Device
from cachesync.fuse.places import Places
from cachesync.fuse.wire import Init, Op

logger = logging.getLogger(__name__)

_ROUNDS = 16
"""How often one request may find that it has to wait, before it is given up: somebody undoes what it waits for."""

_HERE = {"most": 64, "each": 16}
_REMOTE = {"most": 128, "each": 32}
_HELD = {"most": 64, "each": 8}
"""Threads for work on this host, for work that waits for something remote, and for what waits for a user's program, in
all and for one party."""

_ALWAYS = (
    Init.ASYNC_READ | Init.ATOMIC_O_TRUNC | Init.BIG_WRITES | Init.DONT_MASK | Init.FLOCK_LOCKS
    | Init.READDIRPLUS | Init.READDIRPLUS_AUTO
    | Init.ASYNC_DIO | Init.PARALLEL_DIROPS | Init.MAX_PAGES | Init.CACHE_SYMLINKS | Init.HANDLE_KILLPRIV_V2
    | Init.EXTENDED | Init.DIRECT_IO_ALLOW_MMAP | Init.POSIX_ACL | Init.SETXATTR_EXT
)  # fmt: skip


_ASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_HARMLESS = frozenset({Op.LOOKUP, Op.GETATTR, Op.OPEN, Op.READ, Op.READDIR, Op.READDIRPLUS, Op.FSYNC, Op.FLUSH})


class Request:
    """One request. ``buffer`` holds all of it, header included, and is overwritten by the next one: a handler that
    keeps something copies it."""

    __slots__ = ("buffer", "end", "gid", "node", "op", "pid", "uid", "unique")

    def __init__(self, buffer: bytearray | bytes) -> None:
        self.buffer = buffer
        self.end = self.op = self.unique = self.node = self.uid = self.gid = self.pid = 0

    def text(self, start: int = 0) -> bytes:
        """The bytes from ``start`` of its own part to its end, without the 0 that ends a name."""
        return bytes(self.buffer[wire.HEADER + start : self.end - 1])

    def kept(self) -> Request:
        """A copy that stays."""
        copy = Request(bytes(self.buffer[: self.end]))
        copy.end, copy.op, copy.unique = self.end, self.op, self.unique
        copy.node, copy.uid, copy.gid, copy.pid = self.node, self.uid, self.gid, self.pid
        return copy


_LEADING_NUMBER = frozenset({Op.FORGET, Op.BATCH_FORGET, Op.INTERRUPT})

Handler = Callable[[Request], bytes]
"""Answers one request, or raises OSError (its errno is the answer) or Later."""


class Unreachable(OSError):
    """Something remote does not answer. All that is queued for something remote gets the same error at once."""


class Later(Exception):
    """No error: the request has to wait. ``work`` is done first, in another thread; an OSError of it is the answer.

    Then the request is handled again; or, if ``then`` is given, that answers it, as a handler does. The thread counts
    for ``party`` (places.Places). ``remote`` says that the work waits for something that is not on this host.
    """

    def __init__(
        self,
        work: Callable[[], None],
        then: Callable[[], bytes] | None = None,
        *,
        party: bytes = b"",
        remote: bool = False,
    ) -> None:
        super().__init__()
        self.work = work
        self.then = then
        self.party = party
        self.remote = remote

    def followed_by(self, then: Callable[[], bytes]) -> Later:
        """The same work, and ``then`` after it."""
        return Later(self.work, then, party=self.party, remote=self.remote)


class Held(Later):
    """No error: the request waits for a program of a user's, which may take its time. It has places of its own, so that
    no other work waits for that program, and is handled again then."""


class Parked(Exception):
    """No error: the request is answered when another one lets ``Loop.again`` handle it."""


@dataclass(slots=True, eq=False)
class _Wait:
    """A request that waits: what it waits for now (None: for ``again``), how often it had to, and the thread that works
    for it."""

    request: Request
    handler: Handler
    later: Later | None = None
    rounds: int = 0
    thread: int = 0


class Loop:
    """Serves one mount until it is unmounted. ``lock`` is held while a handler runs; who changes what handlers see from
    another thread takes it too. ``abandon`` is given the number of a thread whose work nobody waits for any more, and
    makes it end, if it can; perhaps more than once."""

    def __init__(
        self,
        device: Device,
        forget: Callable[[int, int], None],
        abandon: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.lock = threading.Lock()
        self.passthrough = False
        self.setxattr_ext = False
        """SETXATTR is laid out as wire.SETXATTR_EXT_IN."""
        self._device = device
        self._handlers: dict[int, Handler] = {}
        self._forget = forget
        self._abandon = abandon
        self._waiting: dict[int, _Wait] = {}
        self._interrupted: set[int] = set()
        self._leaving: set[int] = set()
        """Threads at work for requests that were interrupted."""
        self._here: Places[_Wait] = Places("here", self._finish, **_HERE)
        self._remote: Places[_Wait] = Places("remote", self._finish, **_REMOTE)
        self._held: Places[_Wait] = Places("held", self._finish, **_HELD)

    def handle(self, handlers: Mapping[Op, Handler]) -> None:
        """Set who answers what. What nobody answers, the kernel takes for not implemented."""
        self._handlers = {int(op): handler for op, handler in handlers.items()}

    def greet(self, *, passthrough: bool, depth: int) -> None:
        """Take the kernel's INIT, and answer it. ``passthrough`` asks for it; the attribute says what was granted."""
        buffer = bytearray(wire.MAX_WRITE + 8192)
        os.readv(self._device.descriptor, [buffer])
        _, op, unique, *_ = wire.IN.unpack_from(buffer)
        offered = wire.offer(memoryview(buffer)[wire.HEADER :])
        if op != Op.INIT or (offered.major, offered.minor) < wire.VERSION:
            self._device.refuse(unique, errno.EPROTO)
            raise OSError(errno.EPROTO, f"the kernel speaks FUSE {offered.major}.{offered.minor}")
        wanted = (_ALWAYS | Init.PASSTHROUGH if passthrough else _ALWAYS) & offered.flags
        self.passthrough = bool(wanted & Init.PASSTHROUGH)
        self.setxattr_ext = bool(wanted & Init.SETXATTR_EXT)
        self._device.send(wire.answer(unique, wire.init_out(offered, wanted, depth if self.passthrough else 0)))

    def serve(self) -> None:
        """Answer until the mount is gone."""
        buffer = bytearray(wire.MAX_WRITE + 8192)
        request, views = Request(buffer), [memoryview(buffer)]
        descriptor, send, readv, unpack = self._device.descriptor, self._device.send, os.readv, wire.IN.unpack_from
        handlers, lock, pack = self._handlers, self.lock, wire.OUT.pack
        while True:
            try:
                request.end = readv(descriptor, views)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    break
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                raise
            if not request.end:
                break  # the other end is closed
            _, op, unique, request.node, request.uid, request.gid, request.pid, _, _ = unpack(buffer)
            request.op, request.unique = op, unique
            handler = handlers.get(op)
            if handler is None:
                self._housekeeping(request)
                continue
            with lock:
                try:
                    payload = handler(request)
                except (Later, Parked) as reason:
                    self._put_off(_Wait(request.kept(), handler), reason)
                    continue
                except OSError as error:
                    payload = None
                    number = error.errno or errno.EIO
                except Exception:
                    logger.exception("a request failed: %s", Op(op).name)
                    payload, number = None, errno.EIO
            send(pack(16, -number, unique) if payload is None else pack(16 + len(payload), 0, unique) + payload)
        self._here.close()
        self._remote.close()
        self._held.close()

    def _housekeeping(self, request: Request) -> None:
        """Requests that no handler of the file system's is for."""
        buffer, op = request.buffer, request.op
        if op in _LEADING_NUMBER and request.end < wire.HEADER + wire.U64.size:
            return  # a message without its number: nothing is forgotten, nobody is interrupted, and none is answered
        if op == Op.FORGET:
            with self.lock:
                self._forget(request.node, wire.U64.unpack_from(buffer, wire.HEADER)[0])
        elif op == Op.BATCH_FORGET:
            count, _ = wire.TWO_U32.unpack_from(buffer, wire.HEADER)
            with self.lock:
                # As many as there are, whatever it says: behind them is what an earlier request left.
                for number in range(min(count, (request.end - wire.HEADER - 8) // wire.TWO_U64.size)):
                    self._forget(*wire.TWO_U64.unpack_from(buffer, wire.HEADER + 8 + 16 * number))
        elif op == Op.INTERRUPT:
            self._interrupted.add(wire.U64.unpack_from(buffer, wire.HEADER)[0])
            self.let_go()
        elif op == Op.DESTROY:
            self._device.send(wire.answer(request.unique, b""))
        else:
            self._device.refuse(request.unique, errno.ENOSYS)

    def let_go(self) -> None:
        """Answer those that wait, and whose program is to end. To be called from time to time: the kernel tells of a
        request's first signal only, which may have been one that changes nothing."""
        with self.lock:
            self._interrupted &= self._waiting.keys()
            ending = [unique for unique in self._interrupted if _is_ending(self._waiting[unique].request)]
            threads = {self._waiting.pop(unique).thread for unique in ending}
            self._leaving |= threads - {0}
            for thread in self._leaving:
                self._abandon(thread)
        for unique in ending:
            self._device.refuse(unique, errno.EINTR)

    # -- what has to wait ----------------------------------------------------------------------------------------------

    def again(self, unique: int) -> None:
        """Handle a request that is parked, if it still is. The caller is a handler, or holds the lock."""
        wait = self._waiting.pop(unique, None)
        if wait is None:
            return
        try:
            payload = wait.handler(wait.request)
        except Parked:
            self._waiting[unique] = wait
        except OSError as error:
            self._device.refuse(unique, error.errno or errno.EIO)
        else:
            self._device.send(wire.answer(unique, payload))

    def is_waiting(self, unique: int) -> bool:
        """Whether a request is not answered yet. The caller holds the lock."""
        return unique in self._waiting

    def _put_off(self, wait: _Wait, reason: Later | Parked) -> None:
        """Let a request wait. The caller holds the lock."""
        self._waiting[wait.request.unique] = wait
        if isinstance(reason, Later):
            wait.later = reason
            local = self._held if isinstance(reason, Held) else self._here
            (self._remote if reason.remote else local).submit(reason.party, wait)

    def _finish(self, wait: _Wait) -> None:
        """Do the work and answer, if nobody has interrupted it; in a thread of a pool."""
        request, later, thread = wait.request, wait.later, threading.get_ident()
        with self.lock:
            if later is None or request.unique not in self._waiting:
                return
            wait.thread = thread
        refused = self._tried(later.work, request)
        with self.lock:
            wait.thread = 0
            self._leaving.discard(thread)
            if self._waiting.pop(request.unique, None) is None:
                return
            payload = None
            if refused is None:
                try:
                    payload = wait.handler(request) if later.then is None else later.then()
                except Later as again:
                    wait.rounds += 1
                    if wait.rounds < _ROUNDS:
                        self._put_off(wait, again)
                        return
                    refused = errno.EIO
                except OSError as error:
                    refused = error.errno or errno.EIO
                except Exception:
                    logger.exception("a request failed: %s", Op(request.op).name)
                    refused = errno.EIO
        if payload is None:
            self._device.refuse(request.unique, refused or errno.EIO)
        else:
            self._device.send(wire.answer(request.unique, payload))

    def _tried(self, work: Callable[[], None], request: Request) -> int | None:
        """Do ``work``; the errno that it ended with, or None."""
        try:
            work()
        except Unreachable as error:
            self._refuse_queued(error.errno or errno.EIO)
            return error.errno or errno.EIO
        except OSError as error:
            return error.errno or errno.EIO
        except Exception:
            logger.exception("waiting failed: %s", Op(request.op).name)
            return errno.EIO
        return None

    def _refuse_queued(self, number: int) -> None:
        """Answer everything that is queued for something remote."""
        with self.lock:
            queued = [wait.request.unique for wait in self._remote.take_queued()]
            refused = [unique for unique in queued if self._waiting.pop(unique, None) is not None]
        for unique in refused:
            self._device.refuse(unique, number)


def _is_ending(request: Request) -> bool:
    """Whether the program that asked is being killed, or, where nothing is changed by what it asked, asked to end.

    Any signal interrupts a request, also one that a program does not notice on a disk: of a timer, a child, a window
    that changes its size. Programs that are told EINTR by open or rename take it for a failure. Waiting for a lock ends
    with each signal, and the kernel begins it anew if the program wants that.
    """
    if request.op == Op.SETLKW:
        return True
    try:
        with open(f"/proc/{request.pid}/status", "rb") as file:
            lines = [line.split() for line in file if line.startswith((b"SigPnd:", b"ShdPnd:"))]
    except OSError:
        return True
    pending = 0
    for _, mask in lines:
        pending |= int(mask, 16)
    signals = (*_ASKED, signal.SIGKILL) if request.op in _HARMLESS else (signal.SIGKILL,)
    return any(pending >> (number - 1) & 1 for number in signals)
