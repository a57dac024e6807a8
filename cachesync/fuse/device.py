"""One connection to the kernel's FUSE: /dev/fuse, and the files that it reads and writes past us (passthrough).

Passthrough needs Linux 6.9 and CAP_SYS_ADMIN in the first user namespace. The kernel opens a registered file anew for
each of its users, with their flags, so one that is open for reading is enough, and better: to inotify, who closes a
writable one has written.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from cachesync.fuse import wire

_BACKING_OPEN = 0x4010E501
_BACKING_CLOSE = 0x4004E502
_BACKING_MAP = struct.Struct("<iIQ")


class Device:
    """The open device of one mount. Answers may be sent from any thread."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def send(self, message: bytes) -> None:
        """Answer, or notify. Whoever asked may be gone, and what a notice speaks of may not be known: both are fine."""
        try:
            os.write(self.descriptor, message)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV, errno.ENOTDIR, errno.ENOTEMPTY):
                raise

    def refuse(self, unique: int, number: int) -> None:
        """Answer with an errno."""
        self.send(wire.refusal(unique, number))

    def register(self, file: int) -> int:
        """Let the kernel pass an open file through; returns its backing id. Raises OSError where it refuses."""
        # A bytes object would be copied, and the id is what ioctl returns: it has to be a buffer that it may write to.
        return int(fcntl.ioctl(self.descriptor, _BACKING_OPEN, bytearray(_BACKING_MAP.pack(file, 0, 0)), True))

    def unregister(self, backing: int) -> None:
        """Let a backing id go; files that are open keep theirs."""
        fcntl.ioctl(self.descriptor, _BACKING_CLOSE, wire.U32.pack(backing))

    def close(self) -> None:
        """Let the device go: every request that is not answered ends with an error."""
        os.close(self.descriptor)
