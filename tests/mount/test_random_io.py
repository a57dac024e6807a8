"""Random reads and writes through the mount, compared with a model in memory, as fsx does it; on files that stay here,
that are evicted meanwhile, and that are brought again. At the end the bucket holds what the model does."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cachesync.fuse import linux
from tests.mount.conftest import MakeMounted
from tests.mount.mounted import MountedHost
from tests.promises.host import eventually

pytestmark = [pytest.mark.s3, pytest.mark.timeout(120)]

SECONDS = 6.0
PAGE = 4096
KEEP_SIZE, PUNCH, ZERO = 1, 2, 16
SESSION = "s"
WEATHER = {
    "local": (),
    "evicted": (("evict", SESSION), ("evict", SESSION), ("close", SESSION)),
    "hydrating": (("evict", SESSION), ("open", SESSION)),
}
"""What happens to the session over and over while a program works in it."""


@dataclass(eq=False)
class Content:
    """What a file holds; names that are links of one another share one. ``version`` counts changes."""

    data: bytearray = field(default_factory=bytearray)
    version: int = 0

    def put(self, offset: int, data: bytes) -> None:
        self.resize(max(len(self.data), offset + len(data)))
        self.data[offset : offset + len(data)] = data

    def resize(self, size: int) -> None:
        self.version += 1
        self.data = self.data[:size].ljust(size, b"\0")


@dataclass(eq=False)
class Handle:
    """An open file. ``seen`` is the version that was current when it was opened."""

    descriptor: int
    content: Content
    flags: int
    seen: int

    @property
    def writable(self) -> bool:
        return bool(self.flags & os.O_RDWR)


class Exerciser:
    """Works in one session, and checks each byte that it gets."""

    def __init__(self, top: Path, seed: int, weather: str, size: int = 150_000) -> None:
        self.top = top
        self.random = random.Random(seed)
        self.weather = weather
        self.size = size
        self.files: dict[str, Content] = {}
        self.handles: list[Handle] = []
        self.done: deque[str] = deque(maxlen=40)
        self.counted = 0
        for folder in ("", "d", "d/e"):
            (top / folder).mkdir(parents=True, exist_ok=True)
        self.names = [f"{folder}f{n}" for folder in ("", "d/", "d/e/") for n in range(3)]

    def run(self, seconds: float) -> None:
        """Work for so long."""
        work: list[tuple[int, Callable[[], object]]] = [
            (6, self.open), (6, self.close), (10, self.read), (10, self.write), (3, self.append), (4, self.truncate),
            (3, self.truncate_name), (3, self.map), (2, self.punch), (2, self.allocate), (2, self.copy_range),
            (3, self.rename), (2, self.exchange), (2, self.link), (3, self.unlink), (3, self.write_whole),
            (6, self.read_whole), (2, self.replace), (2, self.direct), (2, self.stat), (1, self.listing),
            (1, self.sync), (1, self.close_all),
        ]  # fmt: skip
        until = time.monotonic() + seconds
        try:
            while time.monotonic() < until:
                (what,) = self.random.choices([call for _, call in work], [weight for weight, _ in work])
                self.done.append(what.__name__)
                what()
                self.counted += 1
            self.close_all()
            for name in self.names:
                self.check(name)
            self.listing()
        except BaseException as error:
            error.add_note("the last of " + str(self.counted) + ":\n" + "\n".join(self.done))
            raise
        finally:
            self.close_all()

    def at(self, name: str) -> Path:
        return self.top / name

    # -- choosing ------------------------------------------------------------------------------------------------------

    def say(self, *what: object) -> None:
        self.done[-1] += " " + " ".join(map(str, what))

    def some_name(self) -> str | None:
        name = self.random.choice(sorted(self.files)) if self.files else None
        self.say(name)
        return name

    def free_name(self) -> str | None:
        free = [name for name in self.names if name not in self.files]
        name = self.random.choice(free) if free else None
        self.say(name)
        return name

    def handle(self, *, writable: bool) -> Handle | None:
        fit = [h for h in self.handles if h.writable >= writable and not h.flags & (os.O_APPEND | os.O_DIRECT)]
        return self.random.choice(fit) if fit else None

    def some(self, most: int) -> bytes:
        return self.random.randbytes(self.random.randrange(1, most))

    # -- opening and closing -------------------------------------------------------------------------------------------

    def open(self) -> None:
        if len(self.handles) > 5:
            return
        name = self.random.choice(self.names)
        flags = self.random.choice((os.O_RDONLY, os.O_RDWR, os.O_RDWR, os.O_RDWR | os.O_APPEND))
        new = name not in self.files
        if new:
            flags |= os.O_RDWR | os.O_CREAT | (self.random.choice((0, os.O_EXCL)) if self.weather == "local" else 0)
        if flags & os.O_RDWR and self.random.random() < 0.2:
            flags |= os.O_TRUNC
        self.say(name, oct(flags))
        descriptor = os.open(self.at(name), flags, 0o644)
        content = self.files.setdefault(name, Content())
        if flags & os.O_TRUNC:
            content.resize(0)
        self.handles.append(Handle(descriptor, content, flags, content.version))

    def close(self) -> None:
        if self.handles:
            os.close(self.handles.pop(self.random.randrange(len(self.handles))).descriptor)

    def close_all(self) -> None:
        while self.handles:
            os.close(self.handles.pop().descriptor)
        if self.weather != "local" and self.random.random() < 0.5:
            time.sleep(self.random.random() * 0.3)  # now it can be evicted

    # -- by descriptor -------------------------------------------------------------------------------------------------

    def read(self) -> None:
        if (h := self.handle(writable=False)) is None:
            return
        offset = self.random.randrange(len(h.content.data) + 100)
        length = self.random.randrange(1, self.size)
        self.say(offset, length)
        found = os.pread(h.descriptor, length, offset)
        if h.writable or self.weather == "local" or h.seen == h.content.version:
            self.same(found, bytes(h.content.data[offset : offset + length]), f"read at {offset}")
            assert os.fstat(h.descriptor).st_size == len(h.content.data)

    def write(self) -> None:
        if (h := self.handle(writable=True)) is None:
            return
        offset, data = self.random.randrange(self.size), self.some(self.size // 3)
        self.say(offset, len(data))
        assert os.pwrite(h.descriptor, data, offset) == len(data)
        h.content.put(offset, data)

    def append(self) -> None:
        fit = [h for h in self.handles if h.flags & os.O_APPEND]
        if not fit or len((h := self.random.choice(fit)).content.data) > self.size * 2:
            return
        data = self.some(self.size // 5)
        self.say(len(data))
        os.write(h.descriptor, data)
        h.content.put(len(h.content.data), data)

    def truncate(self) -> None:
        if (h := self.handle(writable=True)) is not None:
            size = self.random.randrange(self.size)
            self.say(size)
            os.ftruncate(h.descriptor, size)
            h.content.resize(size)

    def map(self) -> None:
        if (h := self.handle(writable=True)) is None or not h.content.data:
            return
        with mmap.mmap(h.descriptor, len(h.content.data)) as mapped:
            offset = self.random.randrange(len(h.content.data))
            data = self.some(self.size // 3)[: len(h.content.data) - offset]
            self.say(offset, len(data))
            mapped[offset : offset + len(data)] = data
            h.content.put(offset, data)
            self.same(mapped[:], bytes(h.content.data), "a mapping")
            if self.random.random() < 0.5:
                mapped.flush()

    def punch(self) -> None:
        if (h := self.handle(writable=True)) is None:
            return
        mode = self.random.choice((PUNCH | KEEP_SIZE, ZERO | KEEP_SIZE, ZERO))
        offset, length = self.random.randrange(self.size), self.random.randrange(1, self.size // 3)
        self.say(mode, offset, length)
        linux.fallocate(h.descriptor, mode, offset, length)
        size = len(h.content.data)
        h.content.put(offset, bytes(length))
        if mode & KEEP_SIZE:
            h.content.resize(size)

    def allocate(self) -> None:
        if (h := self.handle(writable=True)) is not None:
            offset, length = self.random.randrange(self.size), self.random.randrange(1, self.size // 3)
            self.say(offset, length)
            os.posix_fallocate(h.descriptor, offset, length)
            h.content.resize(max(len(h.content.data), offset + length))

    def copy_range(self) -> None:
        source, target = self.handle(writable=True), self.handle(writable=True)
        if source is None or target is None or source.content is target.content or not source.content.data:
            return
        offset, at = self.random.randrange(len(source.content.data)), self.random.randrange(self.size)
        self.say(offset, at)
        copied = os.copy_file_range(source.descriptor, target.descriptor, self.size, offset, at)
        assert copied > 0
        target.content.put(at, bytes(source.content.data[offset : offset + copied]))

    def sync(self) -> None:
        if (h := self.handle(writable=True)) is not None:
            os.fsync(h.descriptor)

    # -- by name -------------------------------------------------------------------------------------------------------

    def read_whole(self) -> None:
        if (name := self.some_name()) is not None:
            self.check(name)

    def write_whole(self) -> None:
        name, data = self.random.choice(self.names), self.some(self.size)
        self.say(name, len(data))
        self.at(name).write_bytes(data)
        content = self.files.setdefault(name, Content())
        content.resize(0)
        content.put(0, data)

    def replace(self) -> None:
        """As editors and agents save: a new file, renamed over."""
        name, data = self.random.choice(self.names), self.some(self.size)
        self.say(name, len(data))
        self.at(name + ".tmp").write_bytes(data)
        os.replace(self.at(name + ".tmp"), self.at(name))
        self.files[name] = Content(bytearray(data))

    def truncate_name(self) -> None:
        if (name := self.some_name()) is not None:
            size = self.random.choice((0, self.random.randrange(self.size)))
            self.say(size)
            os.truncate(self.at(name), size)
            self.files[name].resize(size)

    def rename(self) -> None:
        if (name := self.some_name()) is not None:
            target = self.random.choice(self.names)
            self.say(target)
            same = self.files[name] is self.files.get(target)
            os.rename(self.at(name), self.at(target))
            if not same:
                self.files[target] = self.files.pop(name)

    def exchange(self) -> None:
        one, other = self.some_name(), self.some_name()
        if one is not None and other is not None and one != other:
            paths = os.fsencode(self.at(one)), os.fsencode(self.at(other))
            linux.rename(*paths, linux.RENAME_EXCHANGE)
            self.files[one], self.files[other] = self.files[other], self.files[one]

    def link(self) -> None:
        """Where files are evicted, two names of one file are two files afterwards: there it has one name again."""
        if (name := self.some_name()) is None or (new := self.free_name()) is None:
            return
        os.link(self.at(name), self.at(new))
        self.files[new] = self.files[name]
        if self.weather != "local":
            os.unlink(self.at(name))
            del self.files[name]

    def unlink(self) -> None:
        if (name := self.some_name()) is not None:
            os.unlink(self.at(name))
            del self.files[name]
            self.check(name)

    def direct(self) -> None:
        if (name := self.some_name()) is None:
            return
        content = self.files[name]
        offset = self.random.randrange(self.size // PAGE) * PAGE
        descriptor = os.open(self.at(name), os.O_RDWR | os.O_DIRECT)
        try:
            with mmap.mmap(-1, 2 * PAGE) as buffer:
                data = self.random.randbytes(2 * PAGE)
                buffer[:] = data
                self.say(offset)
                assert os.pwritev(descriptor, [buffer], offset) == 2 * PAGE
                content.put(offset, data)
                read = os.preadv(descriptor, [buffer], offset)
                self.same(buffer[:read], data, "read past the cache")
        finally:
            os.close(descriptor)

    def stat(self) -> None:
        if (name := self.some_name()) is not None:
            found = os.stat(self.at(name))
            assert found.st_size == len(self.files[name].data), found

    def listing(self) -> None:
        def refuse(error: OSError) -> None:
            raise error

        def listed() -> bool:
            walk = os.walk(self.top, onerror=refuse)
            paths = [os.path.join(folder, name) for folder, _, names in walk for name in names]
            found, files = {os.path.relpath(path, self.top) for path in paths}, set(self.files)
            assert found == files, f"too many: {found - files}, missing: {files - found}"
            return True

        self.soon(listed, "the names are the model's")

    def check(self, name: str) -> None:
        """A name's file is as the model has it."""
        if name in self.files:
            self.same(self.at(name).read_bytes(), bytes(self.files[name].data), name)
        else:
            self.soon(lambda: not os.path.lexists(self.at(name)), f"{name} is not there")

    def soon(self, check: Callable[[], bool], what: str) -> None:
        """At once, where nothing is evicted; else a name that was removed while it was, may show for a moment."""
        eventually(check, 0.0 if self.weather == "local" else 2.0, what)

    def same(self, found: bytes, expected: bytes, what: str) -> None:
        if found != expected:
            at = next((n for n, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), -1)
            raise AssertionError(f"{what}: {len(found)} bytes for {len(expected)}, the first other one at {at}")


@contextlib.contextmanager
def weather(host: MountedHost, kind: str) -> Iterator[None]:
    """Evict, close and open the session over and over, from another thread."""
    over, complaints = threading.Event(), list[str]()

    def blow() -> None:
        for number in range(10**9):
            if not WEATHER[kind] or over.wait(0.01):
                return
            done = host.run(*WEATHER[kind][number % len(WEATHER[kind])])
            if done.code not in (0, 1, 4):  # what is open or dirty stays, and is told
                complaints.append(f"{done.code}: {done.out}{done.err}")

    thread = threading.Thread(target=blow)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not complaints


def exercise(host: MountedHost, seed: int, kind: str, seconds: float, size: int) -> Exerciser:
    """Work, and check the bucket at the end."""
    at_work = Exerciser(host.mnt / SESSION, seed, kind, size)
    with weather(host, kind):
        at_work.run(seconds)
    flushed = host.stored(SESSION)
    assert flushed["conflicts"] == []
    expected = {name: bytes(content.data) for name, content in at_work.files.items()}
    stored = {path: data for path, data in host.objects(SESSION).items() if not path.startswith(".cachesync/")}
    assert stored.keys() == expected.keys()
    assert [path for path in stored if stored[path] != expected[path]] == []
    verified = host.run("verify", SESSION)
    assert verified.code == 0, verified.out + verified.err
    return at_work


@pytest.mark.parametrize("seed", [1, 2, None])
@pytest.mark.parametrize("kind", WEATHER)
def test_random_io_is_what_a_model_says(make_mounted: MakeMounted, kind: str, seed: int | None) -> None:
    seed = secrets.randbits(32) if seed is None else seed
    print(f"seed {seed}")  # noqa: T201 -- pytest shows it when the test fails
    done = exercise(make_mounted().mount(), seed, kind, SECONDS, 2_000_000 if kind == "hydrating" else 150_000)
    assert done.counted > 100
