"""Files of any fsspec file system, by key: as atomic and as durable as that file system makes them."""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import fsspec

from cachesync.model.errors import StoreDenied, StoreError, StoreNameTaken, StorePermanent, StoreTransient
from cachesync.store.folder import check_key
from cachesync.store.sidecar import FOLDER, Stat

_STAMPS = ("ETag", "etag", "md5Hash", "generation", "LastModified", "last_modified", "mtime", "modified", "created")
_TIMES = ("LastModified", "last_modified", "mtime", "modified", "created")

_locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
"""By URL and stripe: two stores of one URL in one process exclude each other."""

STRIPES = 64


class FsspecTree:
    """A base URL and the files under it. Conditions hold between the threads of this process."""

    def __init__(self, url: str) -> None:
        self._fs, base = fsspec.core.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
        self._base = base.rstrip("/")
        self.url = url

    @contextlib.contextmanager
    def classified(self, operation: str, key: str) -> Iterator[None]:
        """Raise what the file system raises as the store's errors; FileNotFoundError passes."""
        try:
            yield
        except (FileNotFoundError, StoreError):
            raise
        except PermissionError as error:
            raise StoreDenied(operation, key, error, "the file system says no") from error
        except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
            cause = "this file system cannot hold an object 'x' and another 'x/y'"
            raise StoreNameTaken(operation, key, cause) from error
        except (OSError, EOFError) as error:
            raise StoreTransient(operation, key, error) from error
        except (ValueError, TypeError, KeyError, NotImplementedError) as error:
            raise StorePermanent(operation, key, error) from error

    @contextlib.contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Keep the other threads of this process from changing ``key`` meanwhile."""
        with _locks[f"{self.url} {hash(key) % STRIPES}"]:
            yield

    def stat(self, key: str) -> Stat:
        """Describe one file."""
        return self._stat(self._fs.info(self._path(key)), key)

    def read(self, key: str) -> tuple[Stat, Callable[[int, int], bytes], Callable[[], None]]:
        """What a file is, ``read(offset, length)`` and ``close()``. A file that was replaced meanwhile is noticed."""
        path, found = self._path(key), self.stat(key)

        def read(offset: int, length: int) -> bytes:
            data = bytes(self._fs.cat_file(path, start=offset, end=offset + length))
            if self.stat(key).stamp != found.stamp:
                raise StoreTransient("read", key, "it was replaced while it was read")
            return data

        return found, read, lambda: None

    def spool(self, pieces: Iterator[bytes]) -> tuple[str, None]:
        """Write a temporary file on local disk; what it will be in its place shows only there."""
        descriptor, path = tempfile.mkstemp(prefix="cachesync-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(pieces)
        except BaseException:
            self.unspool(path)
            raise
        return path, None

    def unspool(self, path: str) -> None:
        """Remove a temporary file, if it is still there."""
        with contextlib.suppress(OSError):
            os.unlink(path)

    def place(self, path: str, key: str) -> None:
        """Copy a temporary file to its key."""
        target = self._path(key)
        if self._fs.isdir(target):
            raise IsADirectoryError(target)
        self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._fs.put_file(path, target)

    def remove(self, key: str) -> None:
        """Remove a file. Folders that are left empty stay."""
        self._fs.rm_file(self._path(key))

    def read_own(self, path: str) -> bytes | None:
        """The content of one of our own small files."""
        try:
            return bytes(self._fs.cat_file(f"{self._base}/{path}"))
        except FileNotFoundError:
            return None

    def write_own(self, path: str, data: bytes | None) -> None:
        """Replace one of our own small files, or remove it for None."""
        target = f"{self._base}/{path}"
        if data is None:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(target)
            return
        self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._fs.pipe_file(target, data)

    def walk(self, prefix: str, *, shallow: bool = False) -> Iterator[tuple[str, Stat | None]]:
        """Every file under ``prefix`` in key order."""
        start = prefix.rpartition("/")[0]
        if start:
            check_key(start)
        yield from self._walk(start + "/" if start else "", prefix, shallow=shallow)

    def _walk(self, folder: str, prefix: str, *, shallow: bool = False) -> Iterator[tuple[str, Stat | None]]:
        try:
            entries = self._fs.ls(f"{self._base}/{folder}".rstrip("/"), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return
        found = {}
        for entry in entries:
            name = entry["name"].rstrip("/").rpartition("/")[2]
            found[name + "/" if entry["type"] == "directory" else name] = entry
        for name in sorted(found, key=os.fsencode):
            key = folder + name
            if key == FOLDER + "/" or not key.startswith(prefix[: len(key)]):
                continue
            if name.endswith("/"):
                below = self._walk(key, prefix)
                yield from ((key, None) for _ in itertools.islice(below, 1)) if shallow else below
            elif key.startswith(prefix):
                yield key, self._stat(found[name], key)

    def _path(self, key: str) -> str:
        return f"{self._base}/{check_key(key)}"

    def _stat(self, info: dict[str, Any], key: str) -> Stat:
        if info["type"] != "file":
            raise FileNotFoundError(key)
        size = int(info["size"])
        facts = {name: _number(info[name]) for name in _STAMPS if info.get(name)}
        modified = next((facts[name] for name in _TIMES if isinstance(facts.get(name), float)), 0.0)
        return Stat(f"{size} {facts}", size, float(modified))


def _number(value: Any) -> float | str:
    """A time in seconds, whichever type a file system gives it today; anything else as text."""
    if hasattr(value, "timestamp"):
        return float(value.timestamp())
    return float(value) if isinstance(value, (int, float)) else str(value)
