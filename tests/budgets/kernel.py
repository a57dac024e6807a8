"""What is asked of the kernel, by strace: calls of one thread, or of all threads of a process."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.promises.host import eventually

SYNCS = "fsync,fdatasync,sync,syncfs,sync_file_range,msync"

REQUIRED = os.environ.get("STRACE_TESTS") == "required"

_CALL = re.compile(r"^(?:(\d+) +)?(\w+)\(")
_OWN = frozenset(("brk", "futex", "madvise", "mmap", "mprotect", "mremap", "munmap", "rt_sigprocmask", "sched_yield"))
"""What the interpreter does for its memory and its lock: how often, the machine and what else runs on it decide."""


@dataclass
class Traced:
    """The lines of strace between begin and end of a block, without the two marks that stand for these."""

    lines: list[str] = field(default_factory=list)

    @property
    def calls(self) -> Counter[str]:
        """How often each call was made, but for what the interpreter does for itself."""
        found = Counter(match[2] for line in self.lines if (match := _CALL.match(line)))
        return Counter({name: count for name, count in found.items() if name not in _OWN})

    def on(self, place: str) -> Traced:
        """The calls with ``place`` in their line, as a path."""
        return Traced([line for line in self.lines if place in line])

    def without(self, *places: str) -> Traced:
        """The calls with none of the ``places`` in their line."""
        return Traced([line for line in self.lines if not any(place in line for place in places)])

    def threads(self) -> dict[str, Traced]:
        """The calls of each thread, by its number."""
        found = defaultdict[str, Traced](Traced)
        for line in self.lines:
            if (match := _CALL.match(line)) is not None:
                found[match[1]].lines.append(line)
        return dict(found)

    def __str__(self) -> str:
        return "\n".join([f"{self.calls.total()} calls: {dict(self.calls)}", *(f"    {line}" for line in self.lines)])


@contextlib.contextmanager
def traced(folder: Path, calls: str = "all", *, pid: int | None = None, threads: bool = False) -> Iterator[Traced]:
    """The ``calls`` that this thread, or the process ``pid``, makes in the block; with ``threads`` those of all its
    threads. Where strace may not look the test is skipped, unless STRACE_TESTS=required, as CI sets."""
    if shutil.which("strace") is None:
        _cannot("there is no strace")
    out, words = folder / "strace", folder / "strace.words"
    target = str(pid or threading.get_native_id())
    command = ["strace", *(["-f"] if threads else []), "-y", "-s", "64", "-e", f"trace={calls},access,faccessat2"]
    with open(words, "wb") as told:
        strace = subprocess.Popen([*command, "-o", str(out), "-p", target], stderr=told)
    try:
        eventually(lambda: strace.poll() is not None or "attached" in words.read_text(), 20, "strace is attached")
        if strace.poll() is not None:  # not read in the block: whoever is traced would never come to the file's end
            _cannot(f"strace may not look: {words.read_text().strip()}")
        done, begin, end = Traced(), f"/budget/begin/{os.getpid()}", f"/budget/end/{os.getpid()}"
        if pid is None:
            os.access(begin, os.F_OK)
        yield done
        if pid is None:
            os.access(end, os.F_OK)
    finally:
        if strace.poll() is None:
            strace.send_signal(signal.SIGINT)
        strace.wait(20)
    lines = out.read_text().splitlines()
    if pid is None:
        marks = [number for number, line in enumerate(lines) if begin in line or end in line]
        lines = lines[marks[0] + 1 : marks[-1]]
    done.lines = [
        line for line in lines if (found := _CALL.match(line)) and not found[2].startswith(("access", "facc"))
    ]


def _cannot(reason: str) -> None:
    assert not REQUIRED, f"STRACE_TESTS=required, and {reason}"
    pytest.skip(reason)
