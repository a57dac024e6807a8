"""What this machine is, and what processes take of it."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024
_LOOK_SECONDS = 0.01
"""How often a program's memory is looked at: what wait4 says of it begins with the memory of whoever started it."""
_TICK = os.sysconf("SC_CLK_TCK")


class WentWrong(Exception):
    """A program failed, or what it said to have done is not so. Its figures do not count."""


@dataclass(frozen=True)
class Cost:
    """What something took: seconds on the clock and of CPU, and the most resident memory in MiB."""

    seconds: float
    cpu: float
    rss: float


def family(pids: Sequence[int]) -> list[int]:
    """Processes and all below them."""
    found = list(pids)
    for pid in found:  # grows while it is walked
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def cpu(pids: Sequence[int]) -> float:
    """Seconds of CPU that processes and those below them have used; one that has ended counts at its parent."""
    total = 0.0
    for pid in family(pids):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15])) / _TICK
    return total


def peak(pids: Sequence[int]) -> float:
    """The most resident memory that processes and those below them have had since ``forget_peak``, in MiB, summed."""
    total = 0
    for pid in family(pids):
        with contextlib.suppress(OSError, StopIteration):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return total / 1024


def forget_peak(pids: Sequence[int]) -> None:
    """Count the most resident memory of processes from here on."""
    for pid in family(pids):
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def run(command: Sequence[str | Path], env: Mapping[str, str], *, cwd: Path | None = None, within: float = 900) -> Cost:
    """Run a program to its end; see ``run_for_output``."""
    return run_for_output(command, env, cwd=cwd, within=within)[0]


def run_for_output(
    command: Sequence[str | Path], env: Mapping[str, str], *, cwd: Path | None = None, within: float = 900
) -> tuple[Cost, str]:
    """Run a program to its end; returns what it took and what it said.

    Raises WentWrong with a line of what it said if it fails or has not ended ``within`` seconds.
    """
    name = Path(command[0]).name
    with tempfile.TemporaryFile() as said:
        begun = time.perf_counter()
        process = subprocess.Popen(
            command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT
        )
        ended, rss = os.pidfd_open(process.pid), 0.0
        try:
            while not select.select([ended], [], [], _LOOK_SECONDS)[0]:
                rss = max(rss, peak([process.pid]))
                if time.perf_counter() - begun > within:
                    raise WentWrong(f"{name} had not ended after {within:.0f} s")
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            os.close(ended)
            if process.returncode is None:
                process.kill()
                process.wait()
        seconds = time.perf_counter() - begun
        said.seek(0)
        output = said.read().decode(errors="replace")
    if process.returncode:
        lines = output.strip().splitlines() or ["it said nothing"]
        telling = next((line for line in lines if re.search("error|failed", line, re.IGNORECASE)), lines[-1])
        raise WentWrong(f"{name} ended with {process.returncode}: {telling[:300]}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, rss), output


@contextlib.contextmanager
def running(command: Sequence[str | Path], env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs beside, in a session of its own, so that a Ctrl-C does not end it before its time. It is
    asked to end by SIGTERM and made to after 30 s."""
    with log.open("ab") as said:
        process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(true: Callable[[], bool], what: str, *, within: float = 60, every: float = 0.01) -> None:
    """Wait for something. Raises WentWrong if it did not come to pass ``within`` seconds."""
    deadline = time.monotonic() + within
    while not true():
        if time.monotonic() > deadline:
            raise WentWrong(f"{what}: not within {within:.0f} s")
        time.sleep(every)


def unmount(where: Path) -> None:
    """Take a mount away, whatever state it is in; nothing where there is none."""
    if os.path.ismount(where) or _is_dead(where):
        subprocess.run(["umount", "-l", where], check=False, capture_output=True)


def _is_dead(where: Path) -> bool:
    try:
        os.stat(where)
    except FileNotFoundError:
        return False
    except OSError:  # "transport endpoint is not connected"
        return True
    return False


def has_fuse() -> bool:
    """Whether file systems of programs can be mounted here."""
    return os.geteuid() == 0 and os.path.exists("/dev/fuse")


def describe() -> dict[str, object]:
    """The machine, for who reads the figures later: nothing that tells whose it is."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / MIB / 1024
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory GiB": round(memory, 1),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "root": os.geteuid() == 0,
    }
