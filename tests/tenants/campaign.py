"""Three agents who attack, one who works, one whose files are timed, and an operator, on one daemon. What must hold:
nothing of another session was read, changed or deleted by an attacker; the worker lost nothing; the daemon lives,
answers, and its memory and descriptors stay bounded."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from cachesync.api.client import ControlClient
from cachesync.model.errors import CacheSyncError
from tests.mount.mounted import MountedHost
from tests.promises.host import eventually
from tests.servers import SeaweedServer
from tests.tenants.agent import TEAM, Plan
from tests.tenants.attacks import ATTACKS

REPOSITORY = Path(__file__).resolve().parents[2]
ATTACKERS = 3
WORKER, MEASURED, VAULT = 12010, 12011, 12012
FIRST = 12001
SMALL, LARGE = 9, 40 * 1024**2

BUCKET = "tenants"

STATUS = 60.0
"""Most seconds for ``status`` of the operator, far above what it takes. The table shows what it took."""
MEMORY = 1024 * 1024
"""Most KiB that the daemon may have resident."""
DESCRIPTORS = 4096

_LONGEST = 120.0
_LOOK = 0.02
_BETWEEN = 20.0


@dataclass(slots=True)
class Count:
    """What came of one class of attack."""

    attacks: int = 0
    tries: int = 0
    refused: int = 0
    longest: float = 0.0


@dataclass(slots=True)
class Result:
    """What a campaign did and found. ``wrong`` is what broke a promise; ``times`` are seconds by kind."""

    seed: int
    seconds: float
    counts: dict[str, Count] = field(default_factory=lambda: {name: Count() for name in ATTACKS})
    done: dict[str, int] = field(default_factory=dict)
    operator: dict[str, int] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=dict)
    footprint: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def timed(self, kind: str, seconds: float) -> None:
        """Add a time."""
        self.times.setdefault(kind, []).append(seconds)

    def table(self) -> Iterator[str]:
        """The lines that are printed."""
        total = Count(
            sum(count.attacks for count in self.counts.values()),
            sum(count.tries for count in self.counts.values()),
            sum(count.refused for count in self.counts.values()),
            max(count.longest for count in self.counts.values()),
        )
        yield f"tenants: seed {self.seed}, {self.seconds:.0f} s"
        yield f"{'class':12} {'attacks':>8} {'tries':>9} {'refused':>9} {'longest, s':>11}"
        for name, count in [*self.counts.items(), ("all", total)]:
            yield f"{name:12} {count.attacks:8} {count.tries:9} {count.refused:9} {count.longest:11.1f}"
        yield "worker: " + ", ".join(f"{number} {what}" for what, number in self.done.items())
        yield "operator: " + ", ".join(f"{number} {what}" for what, number in sorted(self.operator.items()))
        for kind, seconds in self.times.items():
            yield (
                f"{kind}: median {statistics.median(seconds):.2f} s, most {max(seconds):.2f} s, {len(seconds)} times"
            )
        for process, (kib, files, threads) in self.footprint.items():
            yield f"most of the {process}: {kib // 1024} MiB, {files} descriptors, {threads} threads"
        for line in self.wrong:
            yield f"BROKEN {line}"
        yield "broken" if self.wrong else "held"


class Campaign:
    """One run over a host of its own, in ``folder``, which other users have to reach."""

    def __init__(
        self, folder: Path, server: SeaweedServer, seed: int, *, mounted: bool, only: Sequence[str] = ()
    ) -> None:
        self.host = MountedHost(folder / "host", server, BUCKET, cold=True)
        self._attacks = list(only or ATTACKS)
        self.mounted = mounted
        self.result = Result(seed, 0.0)
        self._chance = random.Random(seed)
        self._marks = {name: f"mark-{name}-{self._chance.randbytes(8).hex()}" for name in ("vault", "cold", "outside")}
        self._agents = folder / "run" / "agents.sock"
        self._outside = folder / "outside" / "secret.txt"
        self._evil = {f"evil{number}{part}": FIRST + number for number in range(ATTACKERS) for part in "ab"}
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._sizes = 0

    @property
    def _operator(self) -> ControlClient:
        return ControlClient(self.host.root / ".cachesync" / "control.sock")

    def run(self, seconds: float) -> Result:
        """Attack for that long, and check. What did not hold is in the result."""
        self.result.seconds = seconds
        self._prepare()
        host = self.host
        host.env |= {"CACHESYNC_AGENT_SOCKET": str(self._agents), "CACHESYNC_AGENT_GROUP": str(TEAM)}
        if self.mounted:
            host.mount()
        else:
            host.start()
        eventually(self._agents.exists, 30)
        self._operator.flush("cold", timeout=60.0)
        self._operator.flush("vault", timeout=60.0)
        self._operator.lifecycle.evict("cold")
        for _ in range(3):
            self._measure("alone")
        before, processes = self._picture(), self._processes()
        self._play(seconds, processes)
        self._judge(before, processes)
        return self.result

    def close(self) -> None:
        """End the daemon and the mount."""
        self.host.close()

    # -- the stage -----------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        root = self.host.root
        root.chmod(0o755)
        owners = self._evil | {"work": WORKER, "measure": MEASURED, "vault": VAULT, "cold": VAULT}
        for name, user in owners.items():
            (root / name).mkdir(mode=0o700)
            if name in self._marks:
                (root / name / "sub").mkdir()
                for path in ("secret.txt", "sub/deep.txt", f"{self._marks[name]}.txt"):
                    place = root / name / path
                    place.write_text(f"{self._marks[name]}\n")
                    os.chown(place, user, user)
                os.chown(root / name / "sub", user, user)
            os.chown(root / name, user, user)
        self._outside.parent.mkdir(mode=0o700)
        self._outside.write_text(self._marks["outside"])

    def _processes(self) -> dict[str, int]:
        assert self.host.daemon is not None
        return self.host.children() if self.mounted else {"daemon": self.host.daemon.pid}

    def _plan(self, user: int, sessions: list[str], limit: float, processes: dict[str, int]) -> Plan:
        return Plan(
            user, f"{self.result.seed}/{user}", limit, str(self.host.root), str(self.host.mnt) if self.mounted else "",
            str(self._agents), self._attacks, sessions, ["vault", "cold", "work", "measure"],
            ["secret.txt", "sub/deep.txt", "d1/f1"],
            list(self._marks.values()), str(self._outside), list(processes.values()),
        )  # fmt: skip

    def _play(self, seconds: float, processes: dict[str, int]) -> None:
        limit = max(0.3, min(4.0, seconds / 40))
        with contextlib.ExitStack() as stack:
            attackers = []
            for number in range(ATTACKERS):
                own = [name for name, user in self._evil.items() if user == FIRST + number]
                attackers.append(
                    stack.enter_context(_agent("attacker", self._plan(FIRST + number, own, limit, processes)))
                )
            worker = stack.enter_context(_agent("worker", self._plan(WORKER, ["work"], limit, processes)))
            loops: list[Callable[[], None]] = [
                self._operate, self._ask_for_status, self._measure_beside, lambda: self._watch(processes),
                lambda: self._serve(worker), *(lambda one=one: self._hear(one) for one in attackers),
            ]  # fmt: skip
            threads = [threading.Thread(target=self._guarded, args=(loop,), daemon=True) for loop in loops]
            for thread in threads:
                thread.start()
            end = time.monotonic() + seconds
            while time.monotonic() < end and all(one.poll() is None for one in (*attackers, worker)):
                time.sleep(0.1)
            for one in attackers:
                if one.poll() is not None:
                    self._wrong(f"an attacker's process ended with {one.returncode}")
            self._ending.set()
            worker.send_signal(signal.SIGTERM)
            for one in attackers:
                one.kill()
            for thread in threads:
                thread.join(_LONGEST + 200)
            if any(thread.is_alive() for thread in threads):
                self._wrong("a part of the campaign hangs")

    # -- its loops -----------------------------------------------------------------------------------------------------

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except Exception as error:  # noqa: BLE001 -- what ends a loop of the campaign is part of its result
            self._wrong(f"{loop}: {error!r}")

    def _hear(self, attacker: subprocess.Popen[str]) -> None:
        assert attacker.stdout is not None
        for line in attacker.stdout:
            told = json.loads(line) if line.endswith("}\n") else None
            if told is None:
                continue  # cut by the end of the process
            with self._lock:
                count = self.result.counts[told["attack"]]
                count.attacks += 1
                count.tries += told["tries"]
                count.refused += told["refused"]
                count.longest = max(count.longest, told["seconds"])
            for breach in told["breaches"]:
                self._wrong(f"{told['attack']}: {breach}")
            if told["fault"]:
                self._wrong(f"{told['attack']}: {told['fault']}")

    def _serve(self, worker: subprocess.Popen[str]) -> None:
        """The operator's part for the worker; and its last words."""
        assert worker.stdout is not None
        assert worker.stdin is not None
        for line in worker.stdout:
            told = json.loads(line)
            if "evict" in told:
                self._turn("evict", "work")
                if not self.mounted:
                    self._turn("open", "work")
                worker.stdin.write("\n")
                worker.stdin.flush()
                continue
            self.result.done = told["done"]
            for line_ in told["wrong"]:
                self._wrong(f"worker: {line_}")
            self._compare(told["files"])
            return
        self._wrong("the worker ended without a word")

    def _compare(self, files: dict[str, str]) -> None:
        stored = {path: hashlib.sha256(data).hexdigest() for path, data in self.host.objects("work").items()}
        for path in sorted(stored.keys() | files.keys()):
            if stored.get(path) != files.get(path):
                self._wrong(f"worker: the object of {path} is not its file")

    def _operate(self) -> None:
        """Evicts the attackers' sessions at random, and opens most of them again: in the root, nothing else does."""
        while not self._ending.wait(self._chance.uniform(0.2, 1.5)):
            session = self._chance.choice(list(self._evil))
            self._turn("evict", session)
            if self._chance.random() < 0.8:
                self._ending.wait(self._chance.uniform(0.0, 0.5))
                self._turn("open", session)

    def _turn(self, verb: str, session: str) -> None:
        outcome = f"{verb}s"
        try:
            if verb == "evict":
                self._operator.lifecycle.evict(session)
            else:
                self._operator.lifecycle.open(session)
        except CacheSyncError:
            outcome = f"{verb}s refused"
        with self._lock:
            self.result.operator[outcome] = self.result.operator.get(outcome, 0) + 1

    def _ask_for_status(self) -> None:
        while not self._ending.wait(0.3):
            begun = time.monotonic()
            try:
                self._operator.status()
            except CacheSyncError as error:
                self._wrong(f"status: {error}")
            self.result.timed("status", time.monotonic() - begun)

    def _watch(self, processes: dict[str, int]) -> None:
        while True:
            for name, pid in processes.items():
                with contextlib.suppress(OSError):
                    proc = Path(f"/proc/{pid}")
                    told = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
                    now = int(told["VmRSS"].split()[0]), len(os.listdir(proc / "fd")), int(told["Threads"])
                    most = self.result.footprint.get(name, (0, 0, 0))
                    self.result.footprint[name] = max(most[0], now[0]), max(most[1], now[1]), max(most[2], now[2])
            if self._ending.wait(0.2):
                return

    def _measure_beside(self) -> None:
        while True:
            self._measure("beside")
            if self._ending.wait(min(_BETWEEN, self.result.seconds / 10)):
                return

    def _measure(self, how: str) -> None:
        """Time a small and a large file of another session until their objects exist."""
        for kind, size in (("small", SMALL), ("40 MiB", LARGE)):
            self._sizes += 1
            place = self.host.root / "measure" / f"file{self._sizes}"
            place.write_bytes(os.urandom(size))
            self.result.timed(f"{kind} {how}", self._wait(f"sessions/measure/{place.name}"))
            place.unlink()

    def _wait(self, key: str) -> float:
        begun = time.monotonic()
        while (waited := time.monotonic() - begun) < _LONGEST:
            with contextlib.suppress(ClientError):
                self.host.s3.head_object(Bucket=self.host.bucket, Key=key)
                return waited
            time.sleep(_LOOK)
        self._wrong(f"{key} is not stored in {_LONGEST:g} s")
        return _LONGEST

    # -- the judgement -------------------------------------------------------------------------------------------------

    def _wrong(self, line: str) -> None:
        with self._lock:
            if line not in self.result.wrong:
                self.result.wrong.append(line)

    def _picture(self) -> dict[str, Any]:
        """What no attacker may change: files, rights, objects."""
        root = self.host.root
        found: dict[str, Any] = {"sessions": sorted(os.listdir(root)), "outside": self._outside.read_bytes()}
        for place in [root / "vault", *sorted((root / "vault").rglob("*"))]:
            try:
                at = place.lstat()
                data = place.read_bytes() if place.is_file() else b""
                found[str(place)] = (at.st_mode, at.st_uid, at.st_gid, at.st_ino, at.st_mtime_ns, at.st_nlink, data)
                found[f"attributes of {place}"] = sorted(os.listxattr(place, follow_symlinks=False))
            except FileNotFoundError:  # listed and then deleted: somebody is in there
                found[str(place)] = "gone"
        for session in ("vault", "cold"):
            pages = self.host.s3.get_paginator("list_objects_v2").paginate(
                Bucket=self.host.bucket, Prefix=f"sessions/{session}/"
            )
            found[f"objects of {session}"] = [
                (item["Key"], item["ETag"], item["LastModified"]) for page in pages for item in page.get("Contents", ())
                if not item["Key"].endswith("/.cachesync/manifest.json")
            ]  # fmt: skip
        return found

    def _judge(self, before: dict[str, Any], processes: dict[str, int]) -> None:
        after = self._picture()
        evil = self._evil.keys()
        for what in before.keys() | after.keys():
            then, now = before.get(what), after.get(what)
            if what == "sessions":  # an attacker's own is away while it is evicted
                then, now = (sorted(set(names) - evil) for names in (then or (), now or ()))
            if then != now:
                self._wrong(f"{what} was {then}, and is {now}")
        if self._processes() != processes:
            self._wrong(f"processes were {processes}, and are {self._processes()}")
        log = self.host.said()
        for sign in ("Traceback", "internal error", '"level": "critical"'):
            if sign in log:
                at = log.index(sign)
                self._wrong(f"the log has {sign}: {log[max(0, at - 300) : at + 1500]}")
        if (slowest := max(self.result.times["status"])) > STATUS:
            self._wrong(f"status took {slowest:.1f} s")
        for name, (kib, files, _) in self.result.footprint.items():
            if kib > MEMORY or files > DESCRIPTORS:
                self._wrong(f"the {name} used {kib} KiB, {files} descriptors")
        self._search()

    def _search(self) -> None:
        """Nothing that only others have is among the attackers' objects."""
        marks = [mark.encode() for mark in self._marks.values()]
        pages = self.host.s3.get_paginator("list_objects_v2").paginate(Bucket=self.host.bucket, Prefix="sessions/evil")
        for page in pages:
            for item in page.get("Contents", ()):
                if not len(min(marks, key=len)) <= item["Size"] <= 1 << 20 or item["Size"] == len(b"renamed"):
                    continue
                with contextlib.suppress(ClientError):
                    data = self.host.s3.get_object(Bucket=self.host.bucket, Key=item["Key"])["Body"].read()
                    if any(mark in data for mark in marks):
                        self._wrong(f"the object {item['Key']} has what another session has")


@contextlib.contextmanager
def _agent(kind: str, plan: Plan) -> Iterator[subprocess.Popen[str]]:
    """A process with a plan; it is killed at the end."""
    command = [sys.executable, "-m", f"tests.tenants.{kind}"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(asdict(plan)) + "\n")
            process.stdin.flush()
            yield process
        finally:
            process.kill()
