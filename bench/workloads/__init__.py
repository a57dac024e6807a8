"""What is measured: each module runs one workload once, and says what everybody needed for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from bench.stage import Stage
from bench.table import Row
from bench.workloads import creating, distant, growing, large, million, opening, reads, upload

Run = Callable[[Stage], Iterator[Row]]

WORKLOADS: Mapping[str, Run] = {
    "A": upload.run,
    "B": large.run,
    "C": reads.run,
    "D": creating.run,
    "E": growing.run,
    "F": million.run,
    "G": opening.run,
    "H": distant.run,
}
TITLES = {
    "A": "many small files up, and again with nothing changed",
    "B": "one large file up and down",
    "C": "small reads, one at a time, cold and cached",
    "D": "files created under the root and in mounts; close to stored; trees; names",
    "E": "appends to a growing log",
    "F": "a great many entries",
    "G": "a session of many files brought here",
    "H": "A, D and G at the end of a slow link",
}
PARTS: Mapping[str, tuple[str, ...]] = {
    "A": upload.WHO,
    "B": large.WHO,
    "C": reads.WHO,
    "D": creating.WHO,
    "E": growing.WHO,
    "F": million.WHO,
    "G": opening.WHO,
    "H": distant.WHO,
}
"""Who can take part in each."""
