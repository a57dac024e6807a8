"""Plain files in a folder, written so that a crash leaves the old file or the new one, on disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import secrets
import stat as modes
import time
from collections.abc import Callable, Iterable, Iterator

from cachesync.model.errors import (
    StoreDenied,
    StoreError,
    StoreNameTaken,
    StorePermanent,
    StoreTransient,
    StoreUnreachable,
)
from cachesync.store.sidecar import FOLDER, Stat

STRIPES = 64
_ABANDONED = 86_400.0
"""Lock files: keys that share one wait for each other."""

MARK = "store.json"
"""In our own folder: says that the base is the store and not the empty mount point of one."""

_TRANSIENT = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.EAGAIN,
    errno.EINTR,
    errno.ESTALE,
}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_GONE = {errno.ENOTCONN, errno.ENODEV, errno.EHOSTDOWN, errno.ETIMEDOUT, errno.ENXIO}
_RACES = 5
"""Times that a folder may vanish under a write because a delete removed it as empty."""


def is_store(base: str) -> bool:
    """Whether a folder has been opened as a store before."""
    return os.path.exists(os.path.join(base, FOLDER, MARK))


class Folder:
    """A base folder and the files in it, by key. Raises classified errors; a missing file is FileNotFoundError."""

    def __init__(self, base: str) -> None:
        self.base = os.path.abspath(base)
        self.url = f"file://{self.base}"
        self._own = os.path.join(self.base, FOLDER)
        with self.classified("open", self.url):
            for name in ("tmp", "locks"):
                os.makedirs(os.path.join(self._own, name), mode=0o700, exist_ok=True)
            mark = os.path.join(self._own, MARK)
            if not os.path.exists(mark):
                self._replace(mark, b'{"format": 1}\n')
        self._sweep()

    @contextlib.contextmanager
    def classified(self, operation: str, key: str) -> Iterator[None]:
        """Raise the file system's errors as the store's; FileNotFoundError passes if the store is there."""
        try:
            yield
        except FileNotFoundError:
            self.check()
            raise
        except (OSError, ValueError) as error:
            if not isinstance(error, OSError) or error.errno not in _DENIED | {errno.ENAMETOOLONG}:
                self.check()
            raise _classify(error, operation, key) from error

    def _sweep(self) -> None:
        """Remove what processes that died a day ago and more have left half written."""
        folder = os.path.join(self._own, "tmp")
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):
                path = os.path.join(folder, name)
                if time.time() - os.lstat(path).st_mtime > _ABANDONED:
                    os.unlink(path)

    def check(self) -> None:
        """Raise StoreUnreachable if the folder is not there, or an empty mount point is in its place."""
        try:
            os.stat(os.path.join(self._own, MARK))
        except OSError as error:
            raise StoreUnreachable("open", self.url, f"the store's folder is gone ({error.strerror})") from error

    @contextlib.contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Keep other threads and processes from changing ``key`` meanwhile."""
        stripe = int.from_bytes(hashlib.blake2b(os.fsencode(key), digest_size=2).digest(), "big") % STRIPES
        self.check()
        with self.classified("lock", key):
            descriptor = os.open(
                os.path.join(self._own, "locks", str(stripe)), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        try:
            with self.classified("lock", key):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def stat(self, key: str) -> Stat:
        """Describe one file."""
        with _below_a_file_is_nothing():
            return _stat(os.lstat(self._path(key)), key)

    def read(self, key: str) -> tuple[Stat, Callable[[int, int], bytes], Callable[[], None]]:
        """Open one version of a file: what it is, ``read(offset, length)`` and ``close()``."""
        with _below_a_file_is_nothing():
            descriptor = os.open(self._path(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        closing = contextlib.ExitStack()
        closing.callback(os.close, descriptor)
        try:
            found = _stat(os.fstat(descriptor), key)
        except BaseException:
            closing.close()
            raise
        return found, lambda offset, length: os.pread(descriptor, length, offset), closing.close

    def spool(self, pieces: Iterable[bytes]) -> tuple[str, Stat]:
        """Write a temporary file to disk; returns its path and what it will be once it is moved into place."""
        path = os.path.join(self._own, "tmp", secrets.token_hex(16))
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            try:
                for piece in pieces:
                    _write(descriptor, piece)
                os.fsync(descriptor)
                return path, _stat(os.fstat(descriptor), path)
            finally:
                os.close(descriptor)
        except BaseException:
            self.unspool(path)
            raise

    def unspool(self, path: str) -> None:
        """Remove a temporary file, if it is still there."""
        with contextlib.suppress(OSError):
            os.unlink(path)

    def place(self, path: str, key: str) -> None:
        """Move a temporary file to its key."""
        target = self._path(key)
        for attempt in range(_RACES):
            try:
                self._make_parents(target)
                os.rename(path, target)
            except FileNotFoundError:
                if attempt == _RACES - 1:
                    raise
            except IsADirectoryError:
                # A folder that a delete has left empty is in the way; one with files in it is somebody's.
                os.rmdir(target)
            else:
                break
        _sync_folder(os.path.dirname(target))

    def remove(self, key: str) -> None:
        """Remove a file and the folders that it leaves empty."""
        path = self._path(key)
        os.unlink(path)
        parent = os.path.dirname(path)
        _sync_folder(parent)
        with contextlib.suppress(OSError):
            while parent != self.base:
                os.rmdir(parent)
                parent = os.path.dirname(parent)

    def read_own(self, path: str) -> bytes | None:
        """The content of one of our own small files."""
        try:
            with open(os.path.join(self.base, path), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def write_own(self, path: str, data: bytes | None) -> None:
        """Replace one of our own small files, or remove it for None."""
        target = os.path.join(self.base, path)
        if data is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(target)
            return
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        self._replace(target, data)

    def walk(self, prefix: str, *, shallow: bool = False) -> Iterator[tuple[str, Stat | None]]:
        """Every file under ``prefix`` in key order; in memory is one folder of each level."""
        start = prefix.rpartition("/")[0]
        if start:
            check_key(start)
        self.check()
        yield from self._walk(start + "/" if start else "", prefix, shallow=shallow)
        # An unmounted store looks empty: its absence must not be taken for that of the objects.
        self.check()

    def _walk(self, folder: str, prefix: str, *, shallow: bool = False) -> Iterator[tuple[str, Stat | None]]:
        try:
            with os.scandir(os.path.join(self.base, folder)) as entries:
                names = [entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name for entry in entries]
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in sorted(names, key=os.fsencode):
            key = folder + name
            if key == FOLDER + "/" or not key.startswith(prefix[: len(key)]):
                continue
            if name.endswith("/"):
                below = self._walk(key, prefix)
                yield from ((key, None) for _ in itertools.islice(below, 1)) if shallow else below
            elif key.startswith(prefix):
                with contextlib.suppress(FileNotFoundError):
                    found = os.lstat(os.path.join(self.base, key))
                    if modes.S_ISREG(found.st_mode):
                        yield key, _stat(found, key)

    def _path(self, key: str) -> str:
        return os.path.join(self.base, check_key(key))

    def _make_parents(self, target: str) -> None:
        """Make the folders above ``target``, each on disk before what is in it."""
        parent = os.path.dirname(target)
        if os.path.isdir(parent):
            return
        self.check()
        self._make_parents(parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(parent)
            _sync_folder(os.path.dirname(parent))
        if os.path.lexists(parent) and not os.path.isdir(parent):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), parent)

    def _replace(self, target: str, data: bytes) -> None:
        path, _ = self.spool([data])
        try:
            os.rename(path, target)
        except BaseException:
            self.unspool(path)
            raise
        _sync_folder(os.path.dirname(target))


def check_key(key: str) -> str:
    """Return ``key``, or raise StorePermanent if a folder cannot hold it or it would leave its base."""
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in key or parts[0] == FOLDER:
        raise StorePermanent("use", key, "is not the key of a file in a folder", "no '..', no '//', no '/' at the ends")
    return key


@contextlib.contextmanager
def _below_a_file_is_nothing() -> Iterator[None]:
    """Where ``x`` is a file there is no ``x/y``; the kernel has another word for that."""
    try:
        yield
    except NotADirectoryError as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), error.filename) from error


def _stat(found: os.stat_result, key: str) -> Stat:
    if modes.S_ISDIR(found.st_mode):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)
    if not modes.S_ISREG(found.st_mode):
        raise StorePermanent("use", key, "is neither a file nor a folder")
    stamp = f"{found.st_size}:{found.st_mtime_ns}:{found.st_ino}"
    return Stat(stamp, found.st_size, found.st_mtime_ns / 1e9)


def _classify(error: OSError | ValueError, operation: str, key: str) -> StoreError:
    if isinstance(error, ValueError):
        return StorePermanent(operation, key, error)
    code, cause = error.errno, error.strerror or str(error)
    if code in (errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST):
        return StoreNameTaken(operation, key, "a folder cannot hold an object 'x' and another 'x/y'")
    if code in _DENIED:
        return StoreDenied(operation, key, cause, "the store's folder must be writable")
    if code in _TRANSIENT:
        return StoreTransient(operation, key, cause)
    if code in _GONE:
        return StoreUnreachable(operation, key, cause)
    return StorePermanent(operation, key, cause)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_folder(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
