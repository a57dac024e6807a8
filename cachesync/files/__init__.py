"""The tree under the root: listing, stat, and reading a file as it was at one moment.

Symlinks are never followed, not even in the middle of a path or when a directory is swapped for one while we work: each
path is opened beneath its session's descriptor by the kernel's own rules.
"""

from cachesync.files.capabilities import device_of, measure
from cachesync.files.listing import Listing
from cachesync.files.making import make_session, make_whole_session
from cachesync.files.open_file import OpenFile
from cachesync.files.place import Ground, drop_leftover
from cachesync.files.rights import restorable
from cachesync.files.snapshot import MemoryBody, Snapshot, Turn, take
from cachesync.files.staging import Leftover, Staging, Temporary, translated
from cachesync.files.tree import NO_SESSION, Tree, tells_births

__all__ = [
    "NO_SESSION",
    "Ground",
    "Leftover",
    "Listing",
    "MemoryBody",
    "OpenFile",
    "Snapshot",
    "Staging",
    "Temporary",
    "Tree",
    "Turn",
    "device_of",
    "drop_leftover",
    "make_session",
    "make_whole_session",
    "measure",
    "restorable",
    "take",
    "tells_births",
    "translated",
]
