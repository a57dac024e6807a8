"""cachesync against its peers, on this machine: ``python -m bench WORKLOAD... [--against WHO...] [--runs N]``.

Each run of a workload starts an S3 server of its own (SeaweedFS, on loopback) and lets everybody do the same work in
turn, each into a bucket of its own, with random bytes; the next run begins with another of them. What is called stored
is looked for in the bucket. `python -m bench.peers` installs the peers; one that is not here is a line in the table.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from bench import peers
from bench.machine import describe, has_fuse
from bench.results import save
from bench.stage import SMALL, Sizes, stage
from bench.table import Row, is_ours, markdown
from bench.workloads import PARTS, TITLES, WORKLOADS

TOP = Path(__file__).resolve().parent.parent
OURS_ON_FUSE = "cachesync mount"
_INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    """The command line."""
    named = "\n".join(f"  {letter}  {title}" for letter, title in TITLES.items())
    made = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"workloads:\n{named}\n\nTMPDIR=/dev/shm keeps the disk out of it, where there is memory for all files.",
    )
    made.add_argument("workloads", nargs="+", metavar="WORKLOAD", type=_workload, help="letters, or `all`")
    everybody = sorted({who for parts in PARTS.values() for who in parts if not is_ours(who)})
    made.add_argument(
        "--against", nargs="+", metavar="WHO", choices=everybody, help=f"of: {', '.join(everybody)} (all)"
    )
    made.add_argument("--runs", type=int, default=3, help="how often each workload is run (3)")
    made.add_argument("--small", action="store_true", help="little of everything: to see that it works")
    made.add_argument("--files", type=int, help="files of A and G, instead of 2,000")
    made.add_argument("--entries", type=int, help="entries of F, instead of 1,000,000")
    made.add_argument("--pinned", action="store_true", help="in D, programs and mounts on one processor")
    made.add_argument("--to", type=Path, default=TOP / "bench-results", help="a folder for the results (bench-results)")
    return made


def _workload(word: str) -> str:
    if word.upper() not in WORKLOADS and word != "all":
        raise argparse.ArgumentTypeError(f"{word!r} is none of {' '.join(WORKLOADS)}, or `all`")
    return word.upper()


def sizes(options: argparse.Namespace) -> Sizes:
    """How much of everything was asked for."""
    made = SMALL if options.small else Sizes()
    return replace(made, files=options.files or made.files, entries=options.entries or made.entries)


def orders(who: Sequence[str], runs: int) -> Iterator[list[str]]:
    """Who comes when in each run: each run begins one further, so that nobody is always first on a fresh server."""
    for number in range(runs):
        start = number % max(1, len(who))
        yield [*who[start:], *who[:start]]


def play(options: argparse.Namespace, place: Path) -> Iterator[Row]:
    """All runs of all workloads."""
    letters = list(WORKLOADS) if "ALL" in options.workloads else list(dict.fromkeys(options.workloads))
    for letter in letters:
        here, absent = [], {}
        for who in PARTS[letter]:
            if options.against is not None and not is_ours(who) and who not in options.against:
                continue
            fuse = None if not who.startswith(OURS_ON_FUSE) or has_fuse() else "not here: needs root and /dev/fuse"
            if (reason := fuse or peers.why_not(who)) is None:
                here.append(who)
            else:
                absent[who] = reason
        works: dict[str, None] = {}
        for number, order in enumerate(orders(here, options.runs)):
            os.sync()  # what the run before it wrote, or the disk is slow for who comes first
            with stage(place / f"{letter}{number}", sizes(options), order, pinned=options.pinned) as on:
                for row in WORKLOADS[letter](on):
                    works[row.work] = None
                    print(f"{letter}{number + 1} {row.who}: {row.work}: {row.note or _first(row)}", file=sys.stderr)
                    yield row
        yield from (Row(work, who, {}, reason) for work in list(works)[:1] for who, reason in absent.items())


def _first(row: Row) -> str:
    unit, value = next(iter(row.figures.items()))
    return f"{value:.3f} {unit}"


def main() -> int:
    """Run all, print the tables, keep them. 1 if cachesync failed somewhere, 130 if not all was run."""
    options = parser().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that everything is taken down then too
    begun = datetime.now(UTC)
    chosen = {key: value for key, value in vars(options).items() if key != "to" and value}
    about: dict[str, object] = {"machine": describe(), "asked for": chosen, "peers": peers.versions()}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="cachesync-bench-", ignore_cleanup_errors=True) as name:
        try:
            rows.extend(play(options, Path(name)))
        except KeyboardInterrupt:
            about["interrupted"] = "not all of it was run"
        about["load at the end"] = [round(load, 1) for load in os.getloadavg()]
    if rows:
        print(markdown(rows))
        for path in save(options.to, f"{begun:%Y%m%dT%H%M%SZ}", about, rows):
            print(path)
    if "interrupted" in about:
        return _INTERRUPTED
    return int(not rows or any(is_ours(row.who) and row.note.startswith("failed") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
