"""P2, P3, P8: whatever programs do to names, directories, times and pages, the store follows, unasked and at a flush.

CACHESYNC_RENAMES (20000): renames in one storm; a million takes minutes.
CACHESYNC_MOVES (150): moves of directories inside, into, out of and between two sessions.
CACHESYNC_DEPTH (50): directories one in another.
CACHESYNC_FILES_IN_ONE (4000): files in one directory; 10,000 take a processor half a minute.
CACHESYNC_ODD_WRITERS (8): files for each way of changing bytes with few traces.
CACHESYNC_CAMPAIGN_SEED (1): of the random ones.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.faults.conftest import Recorder
from tests.faults.harness import Bench, Bucket, Zygote, until
from tests.faults.proxy import SLOW_DOWN, Action, Proxy, Rule, delay, lost_reply

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify")

RENAMES = int(os.environ.get("CACHESYNC_RENAMES", "20000"))
MOVES = int(os.environ.get("CACHESYNC_MOVES", "150"))
DEPTH = int(os.environ.get("CACHESYNC_DEPTH", "50"))
FILES = int(os.environ.get("CACHESYNC_FILES_IN_ONE", "4000"))
ODD = int(os.environ.get("CACHESYNC_ODD_WRITERS", "8"))
SEED = int(os.environ.get("CACHESYNC_CAMPAIGN_SEED", "1"))

_AT_FDCWD, _RENAME_EXCHANGE, _AT_SYMLINK_FOLLOW = -100, 2, 0x400
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def bench(tmp_path: Path, zygote: Zygote, objects: Bucket) -> Iterator[Bench]:
    """No guard: these programs delete most of what they have."""
    bench = Bench(tmp_path, zygote, objects, delete_guard=10_000_000)
    yield bench
    bench.close()


def stored(bench: Bench, session: str) -> dict[str, str]:
    """Path to SHA-256. Raises ClientError if an object goes between the listing and the look at it."""
    found = bench.bucket.digests(bench.bucket.session(session))
    found.pop(".cachesync/manifest.json", None)
    return found


def follows(bench: Bench, *sessions: str, within: float = 40, besides: str = "") -> None:
    """The store is as the disk, unasked; then a flush says so, and is right."""

    def same() -> bool:
        with contextlib.suppress(ClientError):
            return all(stored(bench, session) == bench.local(session) for session in sessions)
        return False

    until(same, f"the store follows {besides}: {bench.tail(4)}", within=within, pause=0.1)
    flushed(bench, *sessions)


def flushed(bench: Bench, *sessions: str) -> None:
    for session in sessions:
        report = bench.flush(session, 60)
        assert report.stored, (report, bench.tail())
        assert report.conflicts == []
        assert bench.differences(session) == [], bench.tail()


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(120 + RENAMES // 200)
def test_p02_a_storm_of_renames(bench: Bench) -> None:
    chance = random.Random(SEED)
    top = bench.root / "s"
    names = [f"d{number % 20}/n{number}" for number in range(600)]
    for number in range(20):
        (top / f"d{number}").mkdir(parents=True)
    there = names[:200]
    for name in there:
        bench.write("s", name, name.encode())
    bench.start()
    follows(bench, "s")
    for _ in range(RENAMES):
        at, new = chance.randrange(len(there)), chance.choice(names)
        old = there[at]
        os.rename(top / old, top / new)
        if new != old:
            if new in there:  # it was replaced
                there.remove(new)
                there[there.index(old)] = new
            else:
                there[at] = new
        if len(there) < 100:
            name = next(name for name in names if name not in there)
            bench.write("s", name, b"%d" % chance.randrange(10**9))
            there.append(name)
    follows(bench, "s", within=60 + RENAMES / 2000)


def spent(rule: Rule) -> bool:
    """Whether it has hit as often as it was to."""
    return rule.hits == rule.times


class Mover:
    """Makes, moves, changes and removes directories in ``tops``, and moves them to ``out`` and back."""

    def __init__(self, chance: random.Random, tops: list[Path], out: Path) -> None:
        self.chance = chance
        self.tops = tops
        self.out = out
        self.made = 0

    def step(self) -> None:
        here, away = self._folders(), sorted(self.out.iterdir())
        kinds = [self._make] * 7
        kinds += [self._move] * 6 + [self._leave] * 2 + [self._change, self._remove] if here else []
        kinds += [self._come] * 3 if away else []
        with contextlib.suppress(OSError):  # a directory into itself
            self.chance.choice(kinds)()

    def _folders(self) -> list[Path]:
        return [path for top in self.tops for path in top.rglob("*") if path.is_dir() and path.name != "stays"]

    def _one(self) -> Path:
        return self.chance.choice(self._folders())

    def _place(self) -> Path:
        self.made += 1
        return self.chance.choice([*self.tops, *self._folders()]) / f"n{self.made}"

    def _make(self) -> None:
        new = self._place()
        (new / "deep/er").mkdir(parents=True)
        for name in ("f", "deep/f", "deep/er/f"):
            (new / name).write_bytes(self.chance.randbytes(self.chance.choice([0, 10, 3000])))

    def _move(self) -> None:
        self._one().rename(self._place())

    def _leave(self) -> None:
        self.made += 1
        self._one().rename(self.out / f"o{self.made}")

    def _come(self) -> None:
        self.chance.choice(sorted(self.out.iterdir())).rename(self._place())

    def _change(self) -> None:
        (self._one() / "late").write_bytes(self.chance.randbytes(9))

    def _remove(self) -> None:
        shutil.rmtree(self._one())


@pytest.mark.timeout(120 + MOVES // 5)
def test_p02_directories_move_inside_in_out_and_across_sessions(bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    tops = [bench.root / "s", bench.root / "t"]
    for top in tops:
        (top / "stays").mkdir(parents=True)
        (top / "stays/f").write_bytes(top.name.encode())
    bench.start()
    mover = Mover(random.Random(SEED), tops, out)
    for _ in range(MOVES):
        mover.step()
    follows(bench, "s", "t")
    assert mover.made > MOVES // 2


def test_p02_fifty_directories_one_in_another(bench: Bench, tmp_path: Path) -> None:
    bench.write("s", "first", b"first")
    bench.start()
    assert bench.flush("s").stored
    top = bench.root / "s"
    deep = [str(Path(*(f"d{level}" for level in range(end + 1)))) for end in range(DEPTH)]
    (top / deep[-1]).mkdir(parents=True)
    for level, folder in enumerate(deep):
        (top / folder / "f").write_bytes(b"%d" % level)
    follows(bench, "s")
    (top / deep[0]).rename(top / "moved")
    (top / "moved" / Path(deep[-1]).relative_to("d0") / "late").write_bytes(b"late")
    follows(bench, "s", besides="the whole moved")
    half = top / "moved" / Path(deep[DEPTH // 2]).relative_to("d0")
    half.rename(tmp_path / "half")
    follows(bench, "s", besides="its lower half moved out")
    (tmp_path / "half").rename(top / "back")
    for below in [path for path in (top / "back").rglob("*") if path.is_dir()]:
        (below / "f").write_bytes(b"changed " + below.name.encode())
    follows(bench, "s", besides="it came back")


@pytest.mark.timeout(120 + FILES // 30)
def test_p02_many_files_in_one_directory(bench: Bench) -> None:
    bench.write("s", "one/first", b"first")
    bench.start()
    assert bench.flush("s").stored
    top, prefix = bench.root / "s/one", bench.bucket.session("s")
    for number in range(FILES):
        (top / f"f{number}").write_bytes(b"%d" % number)
    wanted = {f"one/{name}" for name in os.listdir(top)}

    def names() -> set[str]:
        return {key.removeprefix(prefix) for key in bench.bucket.objects(prefix)} - {".cachesync/manifest.json"}

    def done() -> bool:
        (row,) = bench.client.status("s").sessions
        return (row.files, row.dirty) == (FILES + 1, 0)

    until(done, bench.tail(3), within=60 + FILES / 100, pause=0.5)
    assert names() == wanted
    for number in range(0, FILES, 100):
        (top / f"f{number}").unlink()
        (top / f"f{number + 1}").write_bytes(b"again %d" % number)
    report = bench.flush("s", 60 + FILES / 500)
    assert report.stored, report
    rows = json.loads(bench.bucket.body(f"{prefix}.cachesync/manifest.json"))["entries"]
    listed = {row["path"]: row for row in rows if row["type"] == "file"}
    local = bench.local("s")
    assert {path: row["sha256"] for path, row in listed.items()} == local
    etags = bench.bucket.objects(prefix)
    del etags[f"{prefix}.cachesync/manifest.json"]
    assert {key: etag.strip('"') for key, etag in etags.items()} == {
        prefix + path: row["version"] for path, row in listed.items()
    }
    for path in random.Random(SEED).sample(sorted(local), 50):
        assert hashlib.sha256(bench.bucket.body(prefix + path)).hexdigest() == local[path]


# -- bytes that change with few traces ---------------------------------------------------------------------------------


def sly(path: Path) -> None:
    """Other bytes, the same size, and the time of before."""
    before = path.stat()
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def to_the_past(path: Path) -> None:
    """Other bytes, the same size, and a time from before the last one."""
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, (1, 1))


def exchanged(path: Path) -> None:
    """With a file of the same size and time, in one step."""
    other = path.with_name(path.name + "-other")
    other.write_bytes(bytes(byte ^ 2 for byte in path.read_bytes()))
    stat = path.stat()
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    done = _libc.renameat2(_AT_FDCWD, os.fsencode(other), _AT_FDCWD, os.fsencode(path), _RENAME_EXCHANGE)
    assert done == 0, os.strerror(ctypes.get_errno())


def by_another_name(path: Path) -> None:
    """Through a hard link outside of the root: no event tells of that."""
    other = path.parents[3] / f"link-{path.parent.name}-{path.name}"
    if not other.exists():
        os.link(path, other)
    with open(other, "r+b") as file:
        file.write(bytes(byte ^ 4 for byte in path.read_bytes()))


def nameless(path: Path) -> None:
    """Made without a name and given one at the end."""
    descriptor = os.open(path.parent, os.O_TMPFILE | os.O_RDWR)
    try:
        os.write(descriptor, b"nameless " + path.name.encode())
        path.unlink(missing_ok=True)
        source = f"/proc/self/fd/{descriptor}".encode()
        done = _libc.linkat(_AT_FDCWD, source, _AT_FDCWD, os.fsencode(path), _AT_SYMLINK_FOLLOW)
        assert done == 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(descriptor)


def mapped(path: Path) -> None:
    """A page that is changed again after it was read, and a descriptor that is closed before."""
    with open(path, "r+b") as file:
        page = mmap.mmap(file.fileno(), 0)
    page[:] = bytes(byte ^ 8 for byte in page[:])
    page.close()


def punched(path: Path) -> None:
    """A hole in its middle."""
    with open(path, "r+b") as file:
        file.truncate(40_000)
        done = _libc.fallocate(file.fileno(), 3, ctypes.c_long(8192), ctypes.c_long(8192))
        assert done == 0, os.strerror(ctypes.get_errno())


def sparse(path: Path) -> None:
    """Nothing but its end."""
    with open(path, "r+b") as file:
        file.seek(300_000, os.SEEK_END)
        file.write(b"end")


def copied_in(path: Path) -> None:
    """By the kernel."""
    with open(path, "r+b") as file, open(__file__, "rb") as source:
        os.copy_file_range(source.fileno(), file.fileno(), 5000, 100)


WAYS = (sly, to_the_past, exchanged, by_another_name, nameless, mapped, punched, sparse, copied_in)


def test_p03_changes_with_few_traces(tmp_path: Path, zygote: Zygote, objects: Bucket) -> None:
    bench = Bench(tmp_path, zygote, objects, scan_interval="2s")
    with contextlib.closing(bench), contextlib.ExitStack() as stack:
        paths = [(way, bench.root / "s" / way.__name__ / f"f{number}") for way in WAYS for number in range(ODD)]
        for _, path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(path.name.encode() * 3000)
        (bench.root / "s/hard").mkdir()
        for number in range(ODD):
            os.link(paths[number][1], bench.root / f"s/hard/h{number}")  # two names that change together
        bench.start()
        follows(bench, "s")
        for way, path in paths:
            way(path)
        flushed(bench, "s")
        for way, path in paths:
            way(path)
        follows(bench, "s", within=20, besides="by the next scan")
        # Pages that stay mapped: only the first store to each leaves a trace.
        pages = []
        for number in range(ODD):
            bench.write("s", f"pages/p{number}", b"A" * 8192)
            file = stack.enter_context(open(bench.root / f"s/pages/p{number}", "r+b"))
            pages.append(stack.enter_context(mmap.mmap(file.fileno(), 8192)))
        for turn in range(1, 4):
            for page in pages:
                page[:] = bytes([turn]) * 8192
            flushed(bench, "s")


# -- clocks ------------------------------------------------------------------------------------------------------------

STEPPED = """
import signal, sys, time
from pathlib import Path
real, step, offset = time.time, Path(sys.argv.pop(1)), 0.0
def set_clock(*_):
    global offset
    offset = float(step.read_text())
    step.with_name("set").touch()
signal.signal(signal.SIGUSR1, set_clock)
time.time = lambda: real() + offset
from cachesync.cli import main
sys.exit(main())
"""
"""The command with a wall clock that can be set; that of the disk stays where it is."""

DAY = 86_400.0


def test_p02_the_clock_is_set(tmp_path: Path, zygote: Zygote, objects: Bucket, proxy: Proxy) -> None:
    bench = Bench(tmp_path, zygote, objects, endpoint=proxy.endpoint, transfer_timeout="3s", max_dirty_age="1s")
    step = tmp_path / "step"
    with (
        open(bench.log, "ab") as log,
        subprocess.Popen(
            [sys.executable, "-c", STEPPED, str(step), "run"],
            env=os.environ | bench.environ, cwd=tmp_path, stdout=log, stderr=log,
        ) as daemon,
    ):  # fmt: skip
        try:
            until(lambda: daemon.poll() is not None or bench.client.is_serving(), bench.tail())
            for number in range(10):
                bench.write("s", f"old{number}", b"old")
            follows(bench, "s")
            for turn, offset in enumerate((DAY, -DAY, 3650 * DAY, -3650 * DAY, 0.0)):
                spoiled = proxy.add(SLOW_DOWN, "PutObject", rf".*/waits{turn}", times=3)
                bench.write("s", f"waits{turn}", b"to be tried again by a clock that is another one by then")
                until(partial(spent, spoiled), "it was tried", within=10)
                with open(bench.root / f"s/held{turn}", "wb", buffering=0) as held:
                    held.write(b"held open")
                    step.write_text(str(offset))
                    daemon.send_signal(signal.SIGUSR1)
                    until((tmp_path / "set").exists, "the clock is set")
                    (tmp_path / "set").unlink()
                    bench.write("s", f"new{turn}", b"%d" % turn)
                    bench.write("s", "old0", b"changed %d" % turn)
                    (bench.root / f"s/old{turn + 1}").unlink()
                    held.write(b", and written")
                    follows(bench, "s", within=10, besides=f"{offset} s away")
        finally:
            daemon.terminate()
            code = daemon.wait(30)
    assert code == 0, bench.tail()


# -- while it is being sent --------------------------------------------------------------------------------------------


def replaced(path: Path) -> None:
    """By another of the same size and time."""
    stat = path.stat()
    beside = path.with_name("beside.tmp")
    beside.write_bytes(path.read_bytes()[::-1])
    os.utime(beside, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    beside.rename(path)


def rewritten(path: Path) -> None:
    path.write_bytes(b"rewritten")


def appended(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def truncated(path: Path) -> None:
    os.truncate(path, 10)


def deleted(path: Path) -> None:
    path.unlink()


def made_again(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


def renamed(path: Path) -> None:
    path.rename(path.with_name(f"{path.name}-new"))


def moved_with_its_directory(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))


def to_another_session(path: Path) -> None:
    target = path.parents[2] / "t" / path.name
    target.parent.mkdir(exist_ok=True)
    path.rename(target)


def a_directory_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "below").write_bytes(b"below")


def a_link_in_its_place(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


DURING: tuple[Callable[[Path], None], ...] = (
    replaced, rewritten, appended, truncated, deleted, made_again, renamed, moved_with_its_directory,
    to_another_session, a_directory_in_its_place, a_link_in_its_place, sly, exchanged,
)  # fmt: skip


@pytest.mark.parametrize(
    ("size", "known"),
    [(2000, False), (2000, True), (17 * 1024 * 1024, True)],
    ids=["new", "stored before", "in parts"],
)
@pytest.mark.parametrize("how", [delay(0.4), lost_reply], ids=["slow", "lost reply"])
def test_p04_files_change_while_they_are_sent(
    remote: Bench,
    proxy: Proxy,
    how: Action,
    known: bool,  # noqa: FBT001
    size: int,
    record_property: Recorder,
) -> None:
    ways = DURING if size == 2000 else (replaced, deleted)
    bench, paths = remote, {way: remote.root / "s" / way.__name__ / "f" for way in ways}
    bench.write("s", "first", b"first")
    if known:
        for way in ways:
            bench.write("s", f"{way.__name__}/f", b"before " + way.__name__.encode())
    bench.start()
    follows(bench, "s")
    operation = "PutObject" if size == 2000 else "UploadPart"
    rules = {way: proxy.add(how, operation, rf".*/{way.__name__}/f", times=1) for way in ways}
    for way in ways:
        bench.write("s", f"{way.__name__}/f", way.__name__.encode().ljust(size, b"."))
    for way, path in paths.items():
        until(partial(spent, rules[way]), f"{way.__name__} is on its way", within=20, pause=0.001)
        way(path)
    (bench.root / "t").mkdir(exist_ok=True)
    follows(bench, "s", "t")
    assert sum(rule.hits for rule in rules.values()) == len(ways)
    bench.kill()
    assert bench.falsely_clean("s", "t") == []
