"""``python -m tests.simulation --seed N`` replays one schedule; ``--count`` or ``--minutes`` plays many."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback

from tests.simulation.campaign import campaign, fault_of, kind_of, place, say, shorten
from tests.simulation.invariants import Broken
from tests.simulation.schedule import generate
from tests.simulation.world import play


def main() -> int:
    """0 if every promise held, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this one, step by step")
    parser.add_argument("--shorten", action="store_true", help="with --seed: find the shortest form that fails")
    parser.add_argument("--count", type=int, help="how many schedules")
    parser.add_argument("--minutes", type=float, help="for how long")
    parser.add_argument("--first", type=int, help="the first seed (default: 0, with --minutes the time)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--disk", help="a folder to play in, instead of in memory")
    args = parser.parse_args()
    if args.seed is not None:
        if os.environ.get("PYTHONHASHSEED") != "0":
            os.execve(
                sys.executable,
                [sys.executable, "-m", "tests.simulation", *sys.argv[1:]],
                os.environ | {"PYTHONHASHSEED": "0"},
            )
        return replay(args.seed, shortest=args.shorten, disk=args.disk)
    first = args.first if args.first is not None else int(time.time()) * 1000 if args.minutes else 0
    seconds = None if args.minutes is None else args.minutes * 60
    count = args.count if args.count is not None or seconds is not None else 1000
    _, failures = campaign(first, count=count, seconds=seconds, jobs=args.jobs, disk=args.disk)
    return 1 if failures else 0


def replay(seed: int, *, shortest: bool, disk: str | None) -> int:
    """Play one schedule and print its steps."""
    schedule = generate(seed)
    with place(disk) as folder:
        if shortest and (error := fault_of(schedule, folder)) is not None:
            schedule = shorten(schedule, folder, kind_of(error))
        say(
            ", ".join(
                f"{name}={getattr(schedule, name)}" for name in ("guard", "watched", "orderly", "third", "disk", "ears")
            )
        )
        try:
            play(schedule, folder, lambda step: say(f"  {step}"))
        except (Exception, Broken):  # noqa: BLE001 -- it is what was looked for
            traceback.print_exc()
            return 1
    say("every promise held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
