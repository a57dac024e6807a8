"""Small file systems of a test's own, in files."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

MAKE = {"ext4": ("-q", "-m", "0", "-F"), "xfs": ("-q", "-f", "-m", "reflink=1"), "btrfs": ("-q", "-f")}


class Volume:
    """A file system in a file. ``make`` are more words for mkfs."""

    def __init__(
        self,
        image: Path,
        mount: Path,
        mib: int,
        options: str = "loop",
        kind: str = "ext4",
        make: Sequence[str] = (),
    ) -> None:
        self.image = image
        self.path = mount
        self.kind = kind
        self._options = options
        mount.mkdir()
        with open(image, "wb") as file:
            file.truncate(mib * 1024 * 1024)
        subprocess.run([f"mkfs.{kind}", *MAKE[kind], *make, str(image)], check=True, capture_output=True)

    def mount(self) -> None:
        words = ["mount", "-o", self._options, str(self.image), str(self.path)]
        subprocess.run(words, check=True, capture_output=True)

    def remount(self, how: str) -> None:
        """Change the mount's options: "ro" or "rw"."""
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.path)], check=True, capture_output=True)

    def umount(self, *options: str) -> None:
        subprocess.run(["umount", *options, str(self.path)], check=False, capture_output=True)

    def mend(self) -> None:
        """Unmount it, repair it and mount it again: a copy, since who has copied the table of mounts meanwhile, as
        other tests' mounts do, holds on to the broken one."""
        self.umount()
        mended = self.image.with_name(f"{self.image.name}-mended")
        shutil.copyfile(self.image, mended)
        self.image.unlink()
        self.image = mended
        subprocess.run(["fsck.ext4", "-fy", str(mended)], check=False, capture_output=True)
        self.mount()

    @property
    def device(self) -> str:
        """The loop device's name, while it is mounted."""
        found = subprocess.run(["findmnt", "-no", "SOURCE", str(self.path)], capture_output=True, text=True, check=True)
        return Path(found.stdout.strip()).name

    def fill(self) -> None:
        """Take every last block, for a file that is no session's."""
        with open(self.path / "filler", "ab", buffering=0) as file:
            for size in (1024 * 1024, 4096, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"x" * size)

    @property
    def full(self) -> bool:
        return os.statvfs(self.path).f_bavail == 0

    def free(self) -> None:
        (self.path / "filler").unlink()

    def fill_inodes(self) -> None:
        """Take every last inode, for files of no session."""
        (self.path / "fillers").mkdir()
        with contextlib.suppress(OSError):
            for number in range(100_000):
                (self.path / f"fillers/{number}").touch()

    def block(self, path: Path) -> int:
        """Where in the image the first block of a regular file is, in bytes."""
        with open(path, "rb") as file:
            (found,) = struct.unpack("i", fcntl.ioctl(file, _FIBMAP, struct.pack("i", 0)))
        return int(found) * os.statvfs(self.path).f_bsize

    def forget(self, *paths: Path) -> None:
        """Have the kernel read these files, and directories, from the device again."""
        os.sync()
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(path, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)
        subprocess.run(["blockdev", "--flushbufs", f"/dev/{self.device}"], check=True, capture_output=True)

    @contextlib.contextmanager
    def unreadable_from(self, offset: int, *paths: Path) -> Iterator[None]:
        """Whatever lies beyond ``offset`` in the image is an I/O error, for the time of the block; ``paths`` are read
        anew then, and after it. The loop device keeps its size when its file is cut."""
        self.forget(*paths)
        size = self.image.stat().st_size
        with open(self.image, "rb") as file:
            file.seek(offset)
            rest = file.read()
        os.truncate(self.image, offset)
        self.forget(*paths)
        try:
            yield
        finally:
            with open(self.image, "r+b") as file:
                file.seek(offset)
                file.write(rest)
                file.truncate(size)
            self.forget(*paths)


_FIBMAP = 1


@contextlib.contextmanager
def thin(folder: Path, mib: int, below: int, options: str = "loop") -> Iterator[tuple[Volume, Path]]:
    """An ext4 of ``mib`` on a disk of ``below`` MiB that promised more than it has: when that is full, writes are I/O
    errors. The second is where that disk is mounted; remounted larger, it takes writes again."""
    place = folder / "below"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={below}m", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounts are not permitted here: {done.stderr.strip()}")
    volume = Volume(place / "image", folder / "thin", mib, options, make=("-E", "nodiscard,lazy_itable_init=0"))
    try:
        volume.mount()
        yield volume, place
    finally:
        volume.umount()
        volume.umount("-l")
        subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)
