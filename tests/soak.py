"""``python -m tests.soak --minutes M``: every campaign against the promises, each for its share of the time, in sizes
that ``make test`` has no time for. Prints what each threw and what came of it; 0 if every promise held, 1 if not.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
TOLD = re.compile(
    r"^(?:daemons killed|load: |seed |\d+ schedules|=*\s*\d+ (?:passed|failed)|FAILED|ERROR"
    r"|tenants: |class |[a-z]+(?: +\d+){3} |[a-z0-9 ]+(?:: | MiB )|held$|BROKEN)"
)


@dataclass(frozen=True, slots=True)
class Campaign:
    """``size`` is the environment variable that says how much, ``rate`` what a minute of two cores is good for."""

    name: str
    tests: tuple[str, ...]
    size: str
    rate: float

    def run(self, minutes: float) -> bool:
        """Throw it for about that long; whether every promise held."""
        amount = self.rate * minutes
        told = f"{amount:.3g}" if self.size.endswith("MINUTES") else str(max(1, round(amount)))
        return _run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *self.tests], {self.size: told})


CAMPAIGNS = (
    Campaign("daemons killed under a writer", ("tests/faults/test_crash.py", "-k", "random"), "CACHESYNC_KILLS", 100),
    Campaign("verbs killed", ("tests/faults/test_verb_kills.py",), "CACHESYNC_VERB_KILLS", 16),
    Campaign("power cuts", ("tests/faults/test_power_loss.py",), "CACHESYNC_POWER_CUTS", 15),
    Campaign("load on a store that fails", ("tests/faults/test_load.py",), "CACHESYNC_LOAD_MINUTES", 0.8),
    Campaign("two writers", ("tests/faults/test_two_writers.py",), "CACHESYNC_TWO_WRITERS_SEEDS", 5),
    Campaign("renames under the watcher", ("tests/faults/test_watch_campaign.py",), "CACHESYNC_RENAMES", 100_000),
    Campaign("mounts killed", ("tests/mount/test_kill_programs.py",), "CACHESYNC_TEST_KILLS", 0.4),
    Campaign("random trees in a mount", ("tests/mount/test_random_trees.py",), "CACHESYNC_TREE_SECONDS", 6),
)


def _module(name: str, minutes: float) -> bool:
    """Play a campaign that is a program, for that long."""
    return _run([sys.executable, "-m", name, "--minutes", str(minutes)], {})


def _run(command: list[str], told: dict[str, str]) -> bool:
    """Run it, and pass on what it counts."""
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=os.environ | told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    good = process.returncode == 0
    for line in lines if not good else filter(TOLD.match, lines):
        _say(f"    {line}")
    return good


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Share the time among all campaigns; half of it is the simulation's."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    minutes = parser.parse_args().minutes
    share = minutes / 2 / (len(CAMPAIGNS) + 1)
    runs: dict[str, Callable[[], bool]] = {each.name: partial(each.run, share) for each in CAMPAIGNS}
    if os.geteuid() == 0:  # who can be several users
        runs["agents who attack"] = partial(_module, "tests.tenants", share)
    runs["seeded schedules"] = partial(_module, "tests.simulation", minutes / 2)
    broken = []
    for name, run in runs.items():
        begun = time.monotonic()
        _say(name)
        if not run():
            broken.append(name)
        _say(f"    {time.monotonic() - begun:.0f} s")
    _say(f"broken: {', '.join(broken)}" if broken else "every promise held")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
