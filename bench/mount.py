"""The mount, measured: ``python -m bench.mount [--runs 3] [--modes pinned] [--work names open]``. Needs root.

On a fresh journaled ext4 image, in turn: plain ext4; the root of a daemon that uploads at once, written to directly;
the same root through the mount; and libfuse's passthrough_ll, one thread, with the options that the mount has (built if
gcc and libfuse3-dev are there). "quiet" is a session that is ignored, so that nothing is uploaded beside the work.

A virtual processor that idles is slow to wake up, which any FUSE pays for: "pinned" has client and server on one
processor, "polling" lets idle processors poll (guest_halt_poll_ns, set back afterwards).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.file_work import make_tar, metadata, mixed, seconds, sequential, write
from bench.raw import Getter, Signer
from cachesync.control.client import ControlClient
from cachesync.devserver import DevServer

POLL = Path("/sys/module/haltpoll/parameters/guest_halt_poll_ns")
EXAMPLE = Path("/usr/share/doc/libfuse3-dev/examples/passthrough_ll.c")
MODES = ("default", "pinned", "polling")
WORK = ("names", "sequential", "mixed", "small", "open")
SMALL = {"500 x 50 KiB": (500, 50 * 1024), "1,000 x 4 KiB": (1000, 4096)}
Figures = dict[tuple[str, str, str], list[float]]
"""By mode, work and who: one figure a run."""


@dataclass
class Bench:
    """What is mounted, and what was measured. ``quiet`` and ``loud`` are directories by the name of who has them: what
    is written below a loud one is uploaded, or nobody would do so. ``servers`` are the processes that answer."""

    folder: Path
    server: DevServer
    client: ControlClient
    tar: Path
    meta: Path | None
    quiet: dict[str, Path]
    loud: dict[str, Path]
    servers: list[int]
    figures: Figures = field(default_factory=lambda: defaultdict(list))
    mode: str = "default"
    _sessions: int = 0

    def note(self, who: str, took: dict[str, float], of: str = "") -> None:
        """Keep figures."""
        for name, value in took.items():
            self.figures[self.mode, f"{of}{name}", who].append(value)

    def session(self) -> str:
        """A name that was not there."""
        self._sessions += 1
        return f"s{self._sessions}"

    def run(self, options: argparse.Namespace) -> None:
        """Everything once, in this mode."""
        with _awake(self.mode, self.servers):
            for work in options.work:
                getattr(self, f"_{work}")(options)

    def _names(self, options: argparse.Namespace) -> None:
        if self.meta is not None:
            for who, folder in self.quiet.items():
                forget = 1.1 if who in ("mount", "C") else 0.0
                self.note(who, metadata(self.meta, folder / "names", options.files, forget))

    def _sequential(self, options: argparse.Namespace) -> None:
        for who, folder in self.quiet.items():
            self.note(who, sequential(folder / "sequential", options.mib))

    def _mixed(self, _options: argparse.Namespace) -> None:
        for who, folder in self.quiet.items():
            self.note(who, mixed(folder / "mixed", self.tar), "mixed, quiet: ")
            shutil.rmtree(folder / "mixed")
        for who, folder in self.loud.items():
            session = self.session()
            self.note(who, mixed(folder / session, self.tar), "mixed: ")
            self._stored(who, session)
            shutil.rmtree(folder / session)

    def _small(self, _options: argparse.Namespace) -> None:
        for name, (count, size) in SMALL.items():
            for who, folder in self.loud.items():
                self._write(who, folder, name, count, os.urandom(size))

    def _write(self, who: str, folder: Path, name: str, count: int, body: bytes) -> None:
        session, begun = self.session(), time.perf_counter()
        self.note(who, {f"{name}, written": write(folder / session, count, body)})
        self._stored(who, session)
        if who != "ext4":
            self.note(who, {f"{name}, stored": time.perf_counter() - begun})
        shutil.rmtree(folder / session)

    def _stored(self, who: str, session: str) -> None:
        if who == "ext4":
            os.sync()
        elif not (report := self.client.flush(session, timeout=300)).stored:
            raise RuntimeError(f"not everything was stored: {report.json()}")

    def _open(self, options: argparse.Namespace) -> None:
        session, signer, count = self.session(), Signer(self.server, "bench"), options.opens
        write(self.loud["mount"] / session, count, os.urandom(50 * 1024))
        self.client.flush(session, timeout=60)
        deadline = time.monotonic() + 60
        while (report := self.client.lifecycle.evict(session)) and any((self.loud["no mount"] / session).glob("*.bin")):
            if time.monotonic() > deadline:
                raise RuntimeError(f"not everything was evicted: {report.json()}")
            time.sleep(0.1)
        targets = [signer.sign("get_object", f"sessions/{session}/{i}.bin") for i in range(count)]
        opened, got = [], []
        with contextlib.closing(Getter(self.server)) as getter:
            getter.get(targets[0])
            for i, target in enumerate(targets):
                opened.append(seconds(Path.read_bytes, self.loud["mount"] / session / f"{i}.bin"))
                got.append(seconds(getter.get, target))
        self.note("mount", {"first open, evicted": statistics.median(opened)})
        self.note("GET", {"first open, evicted": statistics.median(got)})
        shutil.rmtree(self.loud["mount"] / session)


@contextlib.contextmanager
def _awake(mode: str, servers: list[int]) -> Iterator[None]:
    """Let the processors wake up as the mode says."""
    everywhere = os.sched_getaffinity(0)
    before = POLL.read_text() if mode == "polling" else ""
    try:
        if before:
            POLL.write_text("200000")
        if mode == "pinned":
            _pin(servers, {min(everywhere)})
        yield
    finally:
        if before:
            POLL.write_text(before)
        _pin(servers, everywhere)


def _pin(servers: list[int], processors: set[int]) -> None:
    for pid in servers:
        for task in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(task), processors)
    os.sched_setaffinity(0, processors)


@contextlib.contextmanager
def stage(folder: Path) -> Iterator[Bench]:
    """Everything that is measured, mounted side by side."""
    disk = folder / "disk"
    with contextlib.ExitStack() as stack:
        stack.enter_context(_image(folder / "disk.img", disk))
        server = DevServer(folder / "s3")
        server.start()
        stack.callback(server.stop)
        server.make_bucket("bench")
        root, mount = disk / "root", folder / "mount"
        for made in (disk / "ext4", root / "quiet", mount):
            made.mkdir(parents=True)
        (root / ".cachesyncignore").write_text("/quiet/\n")
        answering = stack.enter_context(_mounted(root, mount, server))
        quiet = {"ext4": disk / "ext4", "no mount": root / "quiet", "mount": mount / "quiet"}
        loud = {"ext4": disk / "ext4", "no mount": root, "mount": mount}
        servers = [answering]
        if (built := _built(EXAMPLE, folder / "passthrough_ll", "fuse3")) is not None:
            quiet["C"] = folder / "c"
            servers.append(stack.enter_context(_passthrough(built, root / "quiet" / "c", folder / "c")))
        make_tar(folder / "tree.tar")
        meta = _built(Path(__file__).with_name("metadata.c"), folder / "metadata")
        client = ControlClient(root / ".cachesync" / "control.sock")
        yield Bench(folder, server, client, folder / "tree.tar", meta, quiet, loud, servers)


def _built(source: Path, program: Path, package: str | None = None) -> Path | None:
    """A C program, or None where it cannot be built."""
    if shutil.which("gcc") is None or not source.exists():
        return None
    flags: list[str] = []
    if package is not None:
        asked = subprocess.run(
            ["pkg-config", "--cflags", "--libs", package], capture_output=True, text=True, check=True
        )
        flags = asked.stdout.split()
    subprocess.run(["gcc", "-O2", "-w", "-o", program, source, *flags], check=True)
    return program


@contextlib.contextmanager
def _image(image: Path, where: Path) -> Iterator[None]:
    where.mkdir()
    with open(image, "wb") as file:
        file.truncate(8 << 30)
    subprocess.run(["mkfs.ext4", "-qF", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, where], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", where], check=True)
        image.unlink()


@contextlib.contextmanager
def _mounted(root: Path, where: Path, server: DevServer) -> Iterator[int]:
    """``cachesync mount``; the number of the process that answers the kernel."""
    env = os.environ | {
        "AWS_ACCESS_KEY_ID": server.key,
        "AWS_SECRET_ACCESS_KEY": server.secret,
        "S3_ENDPOINT": server.endpoint,
        "AWS_REGION": "us-east-1",
        "CACHESYNC_STORE": "s3://bench",
    }
    command = [sys.executable, "-m", "cachesync", "mount", str(where), "--root", str(root), "--log-level", "warning"]
    process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
    try:
        _await(process, where)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield next(int(pid) for pid in children if b"cachesync.mount" in Path(f"/proc/{pid}/cmdline").read_bytes())
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@contextlib.contextmanager
def _passthrough(program: Path, source: Path, where: Path) -> Iterator[int]:
    for made in (source, where):
        made.mkdir()
    options = f"source={source},cache=auto,xattr,allow_other,default_permissions"
    process = subprocess.Popen([program, "-f", "-s", "-o", options, where])
    try:
        _await(process, where)
        yield process.pid
    finally:
        subprocess.run(["umount", "-l", where], check=True)
        process.wait(60)


def _await(process: subprocess.Popen[bytes], where: Path) -> None:
    while not os.path.ismount(where):
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        time.sleep(0.05)


def show(figures: Figures, modes: list[str]) -> None:
    """Print medians: per operation in us, rates in MB/s, work in ms, with ratios of the same run."""
    who = list(dict.fromkeys(key[2] for key in figures))
    for mode in modes:
        print(f"\n{mode:24}" + "".join(f"{name:>11}" for name in who) + "    of ext4       of C of no mount")
        for work in dict.fromkeys(key[1] for key in figures if key[0] == mode):
            runs = {name: figures[mode, work, name] for name in who if (mode, work, name) in figures}
            slow = any(part in work for part in (":", "written", "stored", "evicted"))
            factor = 1000.0 if slow else 1.0
            line = f"{work:24}"
            for name in who:
                line += f"{statistics.median(runs[name]) * factor:11.1f}" if name in runs else f"{'':11}"
            for base in ("ext4", "C", "no mount"):
                each = [a / b for a, b in zip(runs.get("mount", ()), runs.get(base, ()), strict=False)]
                line += f"{statistics.median(each):11.2f}" if each else f"{'':11}"
            print(line)


def main() -> None:
    """Run, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--opens", type=int, default=50)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK))
    options = parser.parse_args()
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        print("needs root and /dev/fuse: nothing is measured")
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that everything is unmounted then too
    modes = [mode for mode in options.modes if mode != "polling" or os.access(POLL, os.W_OK)]
    with tempfile.TemporaryDirectory(prefix="cachesync-bench-") as name, stage(Path(name)) as bench:
        for _ in range(options.runs):
            for bench.mode in modes:
                bench.run(options)
        if bench.meta is None:
            print("no gcc: operations on names are left out")
        if "C" not in bench.quiet:
            print("no gcc or no libfuse3-dev: the C reference is left out")
    show(bench.figures, modes)
    told = [(*key, values) for key, values in bench.figures.items()]
    print(json.dumps({"options": vars(options), "runs": told}))


if __name__ == "__main__":
    main()
