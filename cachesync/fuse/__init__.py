"""Speaking FUSE: the protocol, the device, the loop. Knows nothing of what is mounted.

No library is used, because each that there is loses something (docs/decisions/fuse-without-a-library.md).
"""

from __future__ import annotations

from cachesync.fuse.device import Device
from cachesync.fuse.linux import die_with_parent
from cachesync.fuse.loop import Handler, Held, Later, Loop, Parked, Request, Unreachable
from cachesync.fuse.mounting import KIND, Mounted, confine, kind_at, mount, mounted, mounts, unmount, unmount_all

__all__ = [
    "KIND",
    "Device",
    "Handler",
    "Held",
    "Later",
    "Loop",
    "Mounted",
    "Parked",
    "Request",
    "Unreachable",
    "confine",
    "die_with_parent",
    "kind_at",
    "mount",
    "mounted",
    "mounts",
    "unmount",
    "unmount_all",
]
