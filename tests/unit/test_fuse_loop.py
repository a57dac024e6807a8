"""The request loop, with a socket in the kernel's place: it, too, hands over one message a read."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from cachesync.fuse import Device, Held, Later, Loop, Parked, Request, Unreachable, wire
from cachesync.fuse.wire import Init, Op

NOBODY = 2**31 - 1
"""The number of no process: one that has ended."""


class Kernel:
    """The other end: asks, and hears answers."""

    def __init__(self, abandon: Callable[[int], None] = lambda _: None) -> None:
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.settimeout(10)
        self.device = Device(theirs.detach())
        self.forgotten: list[tuple[int, int]] = []
        self.loop = Loop(self.device, lambda node, count: self.forgotten.append((node, count)), abandon)
        self.thread: threading.Thread | None = None

    def serve(self, handlers) -> None:
        self.loop.handle(handlers)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.ours.close()
        self.device.close()
        if self.thread is not None:
            self.thread.join(10)

    def _serve(self) -> None:
        with contextlib.suppress(OSError, struct.error):  # a socket ends otherwise than a mount
            self.loop.serve()

    def ask(self, op: int, unique: int, body: bytes = b"", node: int = 1, pid: int = NOBODY) -> None:
        self.ours.send(wire.IN.pack(wire.HEADER + len(body), op, unique, node, 5, 6, pid, 0, 0) + body)

    def hear(self) -> tuple[int, int, bytes]:
        """Unique, errno and payload of the next answer."""
        message = self.ours.recv(1 << 17)
        length, number, unique = wire.OUT.unpack_from(message)
        assert length == len(message)
        return unique, -number, message[wire.OUT.size :]


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = Kernel()
    yield kernel
    kernel.close()


def test_an_answer_an_errno_and_a_defect(kernel, caplog):
    def fails(_request: Request) -> bytes:
        raise OSError(errno.ENOTEMPTY, "")

    def breaks(_request: Request) -> bytes:
        raise ZeroDivisionError

    kernel.serve({Op.LOOKUP: lambda r: r.text() + b"!", Op.RMDIR: fails, Op.UNLINK: breaks})
    kernel.ask(Op.LOOKUP, 2, b"name\0")
    assert kernel.hear() == (2, 0, b"name!")
    kernel.ask(Op.RMDIR, 4, b"d\0")
    assert kernel.hear() == (4, errno.ENOTEMPTY, b"")
    kernel.ask(Op.UNLINK, 6, b"f\0")
    assert kernel.hear() == (6, errno.EIO, b"")
    assert "UNLINK" in caplog.text
    kernel.ask(Op.LOOKUP, 8, b"on\0")
    assert kernel.hear() == (8, 0, b"on!")


def test_what_nobody_answers_is_not_implemented(kernel):
    kernel.serve({})
    kernel.ask(39, 2)  # IOCTL
    assert kernel.hear() == (2, errno.ENOSYS, b"")


def test_a_handler_learns_who_asks(kernel):
    kernel.serve({Op.GETATTR: lambda r: b"%d %d %d" % (r.node, r.uid, r.gid)})
    kernel.ask(Op.GETATTR, 2, node=9)
    assert kernel.hear() == (2, 0, b"9 5 6")


def test_forgetting_is_not_answered(kernel):
    kernel.serve({Op.GETATTR: lambda r: b""})
    kernel.ask(Op.FORGET, 2, wire.U64.pack(3), node=7)
    kernel.ask(Op.BATCH_FORGET, 4, wire.TWO_U32.pack(2, 0) + wire.TWO_U64.pack(8, 1) + wire.TWO_U64.pack(9, 2))
    kernel.ask(Op.GETATTR, 6)
    assert kernel.hear() == (6, 0, b"")
    assert kernel.forgotten == [(7, 3), (8, 1), (9, 2)]


def test_who_waits_holds_up_nobody_and_is_handled_again(kernel):
    fetched = threading.Event()

    def read(r: Request) -> bytes:
        if not fetched.is_set():
            raise Later(lambda: assert_in_time(fetched))
        return b"fetched for " + r.text()

    kernel.serve({Op.LOOKUP: read, Op.GETATTR: lambda r: b"meanwhile"})
    kernel.ask(Op.LOOKUP, 2, b"first\0")
    kernel.ask(Op.GETATTR, 4, b"overwrites the buffer")
    assert kernel.hear() == (4, 0, b"meanwhile")
    fetched.set()
    assert kernel.hear() == (2, 0, b"fetched for first")


def assert_in_time(event: threading.Event) -> None:
    if not event.wait(10):
        raise OSError(errno.ETIMEDOUT, "")


def test_what_it_waits_for_may_be_its_answer_or_its_error(kernel):
    def fsync(_request: Request) -> bytes:
        raise Later(lambda: None, lambda: b"synced")

    def open_(_request: Request) -> bytes:
        def work() -> None:
            raise OSError(errno.ENOSPC, "")

        raise Later(work)

    def breaks(_request: Request) -> bytes:
        def work() -> None:
            raise ZeroDivisionError

        raise Later(work)

    kernel.serve({Op.FSYNC: fsync, Op.OPEN: open_, Op.READ: breaks})
    kernel.ask(Op.FSYNC, 2)
    assert kernel.hear() == (2, 0, b"synced")
    kernel.ask(Op.OPEN, 4)
    assert kernel.hear() == (4, errno.ENOSPC, b"")
    kernel.ask(Op.READ, 6)
    assert kernel.hear() == (6, errno.EIO, b"")


def test_a_signal_that_ends_nothing_does_not_interrupt_who_waits(kernel):
    go = threading.Event()
    answers = iter([Later(lambda: assert_in_time(go))])

    def rename(_request: Request) -> bytes:
        if (later := next(answers, None)) is not None:
            raise later
        return b"renamed"

    kernel.serve({Op.RENAME: rename, Op.GETATTR: lambda r: b""})
    kernel.ask(Op.RENAME, 2, pid=os.getpid())
    kernel.ask(Op.INTERRUPT, 3, wire.U64.pack(2))
    kernel.ask(Op.GETATTR, 4)
    assert kernel.hear() == (4, 0, b"")
    kernel.loop.let_go()
    go.set()
    assert kernel.hear() == (2, 0, b"renamed")


def test_who_waits_can_be_interrupted_and_is_answered_once(kernel):
    go, handled = threading.Event(), []

    def open_(_request: Request) -> bytes:
        handled.append(1)
        raise Later(lambda: assert_in_time(go))

    kernel.serve({Op.OPEN: open_, Op.GETATTR: lambda r: b""})
    kernel.ask(Op.OPEN, 2)
    kernel.ask(Op.INTERRUPT, 3, wire.U64.pack(2))
    assert kernel.hear() == (2, errno.EINTR, b"")
    go.set()
    kernel.ask(Op.INTERRUPT, 5, wire.U64.pack(2))  # it is over: nothing is said
    kernel.ask(Op.GETATTR, 6)
    assert kernel.hear() == (6, 0, b"")
    assert handled == [1]


def test_work_here_does_not_wait_behind_what_is_remote(kernel):
    go = threading.Event()

    def read(_request: Request) -> bytes:
        raise Later(lambda: assert_in_time(go), bytes, party=b"s", remote=True)

    def fsync(_request: Request) -> bytes:
        raise Later(lambda: None, lambda: b"synced", party=b"s")

    kernel.serve({Op.READ: read, Op.FSYNC: fsync})
    for number in range(500):
        kernel.ask(Op.READ, 2 * number + 2)
    kernel.ask(Op.FSYNC, 2000)
    assert kernel.hear() == (2000, 0, b"synced")
    go.set()
    assert {kernel.hear()[0] for _ in range(500)} == {2 * number + 2 for number in range(500)}


def test_no_work_waits_behind_what_waits_for_a_program(kernel):
    go = threading.Event()

    def open_(request: Request) -> bytes:
        if go.is_set():
            return b"opened"
        raise Held(lambda: assert_in_time(go), party=b"%d" % (request.node % 20))

    def fsync(_request: Request) -> bytes:
        raise Later(lambda: None, lambda: b"synced", party=b"1")

    kernel.serve({Op.OPEN: open_, Op.FSYNC: fsync})
    for number in range(500):
        kernel.ask(Op.OPEN, 2 * number + 2, node=number + 1)
    kernel.ask(Op.FSYNC, 2000)
    assert kernel.hear() == (2000, 0, b"synced")
    go.set()
    answers = {kernel.hear() for _ in range(500)}
    assert answers == {(2 * number + 2, 0, b"opened") for number in range(500)}


def test_one_outage_is_the_answer_for_all_that_are_queued(kernel):
    go = threading.Event()

    def read(_request: Request) -> bytes:
        def work() -> None:
            assert_in_time(go)
            raise Unreachable(errno.EIO, "no answer")

        raise Later(work, party=b"s", remote=True)

    kernel.serve({Op.READ: read})
    for number in range(100):
        kernel.ask(Op.READ, 2 * number + 2)
    go.set()
    assert {kernel.hear() for _ in range(100)} == {(2 * number + 2, errno.EIO, b"") for number in range(100)}


def test_a_thread_whose_reader_is_gone_is_abandoned_until_it_ends():
    begun, abandoned, ended = threading.Event(), threading.Event(), threading.Event()
    kernel = Kernel(lambda _thread: abandoned.set())

    def open_(_request: Request) -> bytes:
        def work() -> None:
            begun.set()
            assert_in_time(abandoned)
            ended.set()

        raise Later(work)

    kernel.serve({Op.OPEN: open_, Op.GETATTR: lambda r: b""})
    kernel.ask(Op.OPEN, 2)
    assert begun.wait(10)
    kernel.ask(Op.INTERRUPT, 3, wire.U64.pack(2))
    assert kernel.hear() == (2, errno.EINTR, b"")
    assert ended.wait(10)
    kernel.close()


def test_what_is_parked_is_answered_when_another_request_says_so(kernel):
    free: list[int] = []

    def lock(r: Request) -> bytes:
        if not free:
            raise Parked
        return b"locked"

    def unlock(_request: Request) -> bytes:
        free.append(1)
        for unique in (2, 4, 99):
            kernel.loop.again(unique)
        return b"unlocked"

    kernel.serve({Op.SETLKW: lock, Op.SETLK: unlock})
    kernel.ask(Op.SETLKW, 2)
    kernel.ask(Op.SETLKW, 4)
    kernel.ask(Op.INTERRUPT, 5, wire.U64.pack(4))
    assert kernel.hear() == (4, errno.EINTR, b"")
    kernel.ask(Op.SETLK, 6)
    assert [kernel.hear(), kernel.hear()] == [(2, 0, b"locked"), (6, 0, b"unlocked")]


def test_what_is_undone_again_and_again_is_given_up(kernel):
    def open_(_request: Request) -> bytes:
        raise Later(lambda: None)

    kernel.serve({Op.OPEN: open_})
    kernel.ask(Op.OPEN, 2)
    assert kernel.hear() == (2, errno.EIO, b"")


def test_greeting_takes_what_is_offered_and_no_more(kernel):
    offered = Init.ASYNC_READ | Init.READDIRPLUS | Init.EXTENDED
    kernel.ask(Op.INIT, 2, wire.INIT_IN.pack(7, 40, 131072, offered, 0))
    kernel.loop.greet(passthrough=True, depth=1)
    _, _, told = kernel.hear()
    major, minor, _, flags, *_, more, depth, _ = wire.INIT_OUT.unpack(told)
    assert (major, minor, flags, more, depth) == (7, 40, offered, 0, 0)
    assert not kernel.loop.passthrough


def test_passthrough_is_asked_for_where_there_is_any(kernel):
    kernel.ask(Op.INIT, 2, wire.INIT_IN.pack(7, 45, 131072, Init.EXTENDED, Init.PASSTHROUGH >> 32))
    kernel.loop.greet(passthrough=True, depth=2)
    *_, more, depth, _ = wire.INIT_OUT.unpack(kernel.hear()[2])
    assert (more, depth) == (Init.PASSTHROUGH >> 32, 2)
    assert kernel.loop.passthrough


@pytest.mark.parametrize("version", [(7, 30), (6, 40)])
def test_a_kernel_that_is_too_old_is_refused(kernel, version):
    kernel.ask(Op.INIT, 2, wire.INIT_IN.pack(*version, 131072, 0, 0))
    with pytest.raises(OSError, match="FUSE"):
        kernel.loop.greet(passthrough=True, depth=1)
    assert kernel.hear()[1] == errno.EPROTO
