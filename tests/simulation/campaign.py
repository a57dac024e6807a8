"""Many schedules: in one process, in several, until a time is up; and the shortest form of one that fails."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from tests.simulation.invariants import Broken
from tests.simulation.schedule import Schedule, generate
from tests.simulation.world import play

HANGS_AFTER = 60
"""Seconds of CPU that one schedule may take: a thousand times what it does."""

STANDS_AFTER = 600
"""Real seconds after which it waits for what never comes. A machine that is busy with other work takes its time."""

_SHORTENED = 5
"""Failures of a process that are shortened: it takes a hundred times as long as to play one."""

REPOSITORY = Path(__file__).resolve().parents[2]


class Hangs(BaseException):
    """A schedule does not end."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A schedule that breaks a promise, as it was found and as short as it could be made."""

    schedule: Schedule
    shortest: Schedule
    sentence: str

    def __str__(self) -> str:
        s = self.shortest
        steps = "\n".join(f"    {step}" for step in s.steps)
        setup = s.settings
        again = f"python -m tests.simulation --seed {self.schedule.seed}"
        return f"seed {self.schedule.seed}: {self.sentence}\n  shortest ({setup}):\n{steps}\n  replay: {again}"


@contextlib.contextmanager
def place(disk: str | None = None) -> Iterator[Path]:
    """A folder for worlds, in memory unless another ``disk`` is named."""
    memory = "/dev/shm"
    folder = Path(
        tempfile.mkdtemp(prefix="cachesync-simulation-", dir=disk or (memory if os.path.isdir(memory) else None))
    )
    logging.disable(logging.CRITICAL)
    try:
        yield folder
    finally:
        logging.disable(logging.NOTSET)
        shutil.rmtree(folder, ignore_errors=True)


def fault_of(schedule: Schedule, folder: Path) -> BaseException | None:
    """What is wrong after a schedule, or None."""

    def hangs(_: int, __: FrameType | None) -> None:
        raise Hangs(f"it has not ended after {HANGS_AFTER} s of work, or {STANDS_AFTER} s")

    before = [(number, signal.signal(number, hangs)) for number in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, HANGS_AFTER)
    signal.setitimer(signal.ITIMER_REAL, STANDS_AFTER)
    try:
        play(schedule, folder)
    except (Exception, Broken, Hangs) as error:  # noqa: BLE001 -- whatever it is, it is what was looked for
        return error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before:
            signal.signal(number, handler)
    return None


def shorten(schedule: Schedule, folder: Path, kind: str) -> Schedule:
    """Leave steps out while it fails in the same way: halves, quarters, and so on down to single ones, twice."""

    def still(shorter: Schedule) -> bool:
        error = fault_of(shorter, folder)
        return error is not None and kind_of(error) == kind

    for change in (
        {"third": False},
        {"orderly": True},
        {"watched": True},
        {"guard": 100},
        {"disk": "plain"},
        {"ears": False},
    ):
        if still(plainer := replace(schedule, **change)):
            schedule = plainer
    size = len(schedule.steps)
    while size:
        before, start = len(schedule.steps), 0
        while start < len(schedule.steps):
            if still(shorter := schedule.without(start, start + size)):
                schedule = shorter
            else:
                start += size
        if size > 1 or len(schedule.steps) == before:
            size //= 2
    return schedule


def kind_of(error: BaseException) -> str:
    """What two failures have in common that are the same one: the promise, or where it was raised."""
    if isinstance(error, Broken):
        return str(error).partition(":")[0]
    return type(error).__name__


def run(seed: int, folder: Path, *, shortened: bool = True) -> Failure | None:
    """Play a seed's schedule; a failure comes back ``shortened``."""
    schedule = generate(seed)
    error = fault_of(schedule, folder)
    if error is None:
        return None
    if not shortened:
        return Failure(schedule, schedule, f"{type(error).__name__}: {error}")
    shortest = shorten(schedule, folder, kind_of(error))
    last = fault_of(shortest, folder) or error
    return Failure(schedule, shortest, f"{type(last).__name__}: {last}")


def _say(what: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def say(line: str) -> None:
    """Tell a person."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def serve(first: int, step: int, count: int | None, seconds: float | None, disk: str | None = None) -> None:
    """One process' part: every ``step``-th seed from ``first``. Prints JSON: a line for each failure, and one
    at the end."""
    begun, played, failed = time.monotonic(), 0, 0
    gc.freeze()
    with place(disk) as folder, contextlib.suppress(KeyboardInterrupt):
        while (count is None or played < count) and (seconds is None or time.monotonic() - begun < seconds):
            failure = run(first + played * step, folder, shortened=failed < _SHORTENED)
            played += 1
            if failure is not None:
                failed += 1
                _say({"failure": str(failure)})
    _say({"played": played, "cpu": time.process_time()})


class _Tally:
    """What the processes of a campaign have said so far. Each is listened to in a thread of its own."""

    def __init__(self, told: Callable[[str], None]) -> None:
        self._told = told
        self._lock = threading.Lock()
        self.played = 0
        self.cpu = 0.0
        self.failures: list[str] = []

    def listen(self, child: subprocess.Popen[str]) -> None:
        """Until the process ends; one that does not say how many it played is a failure."""
        ended = False
        for line in child.stdout or ():
            answer = json.loads(line)
            with self._lock:
                if "failure" in answer:
                    self.failures.append(answer["failure"])
                    self._told(answer["failure"])
                else:
                    self.played, self.cpu, ended = self.played + answer["played"], self.cpu + answer["cpu"], True
        if child.stdout is not None:
            child.stdout.close()
        if child.wait() or not ended:
            with self._lock:
                self.failures.append(f"a process of the simulation ended by itself with {child.returncode}")


def campaign(
    first: int,
    *,
    count: int | None,
    seconds: float | None,
    jobs: int,
    step: int = 1,
    disk: str | None = None,
    told: Callable[[str], None] = say,
) -> tuple[int, list[str]]:
    """Play ``count`` schedules in ``jobs`` processes, of every ``step``-th seed from ``first`` on, or as many as
    ``seconds`` allow. Returns how many were played, and the failures.

    Processes of their own, since the order of a set of strings is part of a schedule.
    """
    begun = time.monotonic()
    children = []
    for number in range(jobs):
        share = None if count is None else (count - number + jobs - 1) // jobs
        call = f"serve({first + number * step}, {jobs * step}, {share}, {seconds}, {disk!r})"
        command = [sys.executable, "-c", f"from tests.simulation.campaign import serve; {call}"]
        environ = os.environ | {"PYTHONHASHSEED": "0"}
        children.append(subprocess.Popen(command, cwd=REPOSITORY, env=environ, stdout=subprocess.PIPE, text=True))
    tally = _Tally(told)
    listeners = [threading.Thread(target=tally.listen, args=(child,)) for child in children]
    for listener in listeners:
        listener.start()
    for listener in listeners:
        listener.join()
    played, cpu, failures = tally.played, tally.cpu, tally.failures
    wall = time.monotonic() - begun
    rate = played / wall if wall else 0.0
    each = 1000 * cpu / max(1, played)
    told(f"{played} schedules in {wall:.0f} s: {rate:.0f} a second, {each:.1f} ms of CPU each; {len(failures)} failed")
    return played, failures
