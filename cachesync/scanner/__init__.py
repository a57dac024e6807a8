"""Comparing the disk with the journal: the one place where a path becomes dirty.

``notice`` looks at the paths that somebody hinted at, ``scan`` at all of a session; both end in ``judging.judge``, so a
change is one row however often it is seen. Order matters twice: the journal is read before the disk, or a file made in
between would look deleted; and a missing path counts only while its session's directory stands (P7).
"""

from cachesync.scanner.batch import ScanResult
from cachesync.scanner.scan import Scanner

__all__ = ["ScanResult", "Scanner"]
