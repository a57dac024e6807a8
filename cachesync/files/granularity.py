"""How finely a file system tells times."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def timestamp_granularity(folder: Path) -> float:
    """How far apart two writes must be, in seconds, for a stat between them to show both; 0 where it always does.

    Linux 6.13 and later give a file that was looked at a fresh time stamp on its next write (multigrain timestamps);
    before, two writes in one tick of the kernel's clock look alike.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        descriptor = file.fileno()
        for _ in range(32):
            os.pwrite(descriptor, b"a", 0)
            first = os.fstat(descriptor).st_ctime_ns
            os.pwrite(descriptor, b"b", 0)
            if os.fstat(descriptor).st_ctime_ns == first:
                return 0.020
    return 0.0
