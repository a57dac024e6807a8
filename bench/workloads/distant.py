"""H: A, D and G at the end of a line that is slow, as a store in another region is."""

from __future__ import annotations

from collections.abc import Iterator

from bench.stage import Stage, linked
from bench.table import Row
from bench.workloads import creating, opening, upload

WHO = tuple(dict.fromkeys(upload.WHO + creating.STORED + opening.WHO))
DELAYS = (0.02, 0.08)
MBIT = 200.0


def run(on: Stage) -> Iterator[Row]:
    """Each with each delay, there and back; of D only what is created and stored."""
    for delay in DELAYS:
        label = f"{delay * 1000:.0f} ms and {MBIT:.0f} Mbit/s away: "
        with linked(on, delay=delay, mbit=MBIT, label=label) as far:
            yield from upload.run(far)
            yield from creating.created(far)
            yield from opening.run(far)
