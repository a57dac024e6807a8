"""Artifacts as files of an fsspec file system."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.utils import isfilelike

from cachesync.programs.fsspec_fs.answers import file_address, os_errors
from cachesync.programs.fsspec_fs.files import IN_MEMORY, ReadFile, Together, WriteFile
from cachesync.programs.fsspec_fs.lookups import Lookups

if TYPE_CHECKING:
    from cachesync.config import Config
    from cachesync.model.verbs import Artifacts, Reading
    from cachesync.programs.artifact_store import ArtifactStore


class CacheSyncFileSystem(Lookups):
    """``cachesync://SESSION/PATH``, ``cachesync://projects/P/PATH``, ``cachesync://templates/PATH``.

    Asks the daemon while one serves the socket, else the store itself. ``root``, ``store`` and ``socket`` are the
    settings of these names; what is not given comes from the environment and ``cachesync.toml``, as for every command.
    Picklable: another process reads its own configuration. As in object stores there are no empty directories: a
    directory is there while something is in it, and making one does nothing.

    Raises OSError with the CacheSyncError as its cause; FileNotFoundError only if the store answered so.
    """

    protocol = "cachesync"
    transaction_type = Together
    # One that is cached by its arguments would outlive a change of the environment, and never let its store go.
    cachable = False

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        store: str | None = None,
        socket: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        given = {"root": root, "store": store, "socket": socket}
        self._settings = {name: os.fspath(value) for name, value in given.items() if value is not None}
        self._lock = threading.Lock()
        self._config: Config | None = None
        self._own: tuple[int, ArtifactStore] | None = None

    @property
    def artifacts(self) -> Artifacts:
        """The verbs: the daemon's while one serves, else those of a store that this process opens.

        Raises CacheSyncError: ConfigError (also where the root is stored elsewhere), DaemonUnavailable.
        """
        from cachesync.api.client import ControlClient
        from cachesync.config import load

        with self._lock:
            config = self._config = self._config or load(self._settings, os.environ, Path.cwd())
            client = ControlClient.of(config)
            if client.is_serving():
                return client.artifacts
            pid = os.getpid()
            if self._own is None or self._own[0] != pid:  # connections do not survive a fork
                from cachesync.daemon.store_factory import settled
                from cachesync.journal.journal import check_store
                from cachesync.programs.artifact_store import ArtifactStore

                config = settled(config)
                check_store(config.state / "journal.db", config.store.shown)
                store = ArtifactStore(config=config)
                weakref.finalize(self, _let_go, pid, store).atexit = False  # the process's end closes sockets too
                self._own = (pid, store)
            return self._own[1].artifacts

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """For a block of many changes: see ArtifactStore. A daemon makes each by itself."""
        with os_errors(""):
            artifacts, own = self.artifacts, self._own
            direct = own is not None and own[1].artifacts is artifacts
            with own[1].together() if own is not None and direct else contextlib.nullcontext():
                yield

    # -- contents ------------------------------------------------------------------------------------------------------

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,  # noqa: FBT001, FBT002
        **kwargs: Any,
    ) -> ReadFile | WriteFile:
        kwargs.pop("size", None)  # of a pickled file: the version says it
        if mode == "rb":
            return ReadFile(self, path, block_size=block_size or self.blocksize, **kwargs)
        if mode not in ("wb", "xb", "ab"):
            raise ValueError(f"mode {mode!r} is not allowed: rb, wb, xb or ab, and the same without b")
        return WriteFile(self, path, mode, autocommit=autocommit, **kwargs)

    def reading(self, path: str, version_id: str | None = None) -> Reading:
        """Open one version of a file, the newest or a past one."""
        path = self._strip_protocol(path)
        with os_errors(path):
            return self.artifacts.read(file_address(path), version_id=version_id)

    def put_stream(
        self, path: str, source: IO[bytes], content_type: str | None = None, *, overwrite: bool = True
    ) -> None:
        """Store what ``source`` holds, to its end, as one file. Raises FileExistsError for one that is there and not to
        be overwritten."""
        path = self._strip_protocol(path)
        with os_errors(path):
            artifacts, body = self.artifacts, cast("Any", source)
            artifacts.put(file_address(path), body, content_type=content_type, overwrite=overwrite)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """The bytes of a file from ``start`` to ``end``, as of a slice: negative numbers count from its end."""
        with self.reading(path, kwargs.get("version_id")) as reading, os_errors(path):
            first, last, _ = slice(start, end).indices(reading.artifact.size)
            return b"".join(reading.chunks(first, last - first)) if last > first else b""

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """Store bytes. Raises FileExistsError with the mode ``create``."""
        with self.open(path, "xb" if mode == "create" else "wb", **kwargs) as file:
            file.write(value)

    def get_file(
        self, rpath: str, lpath: Any, callback: Any = DEFAULT_CALLBACK, outfile: Any = None, **kwargs: Any
    ) -> None:
        """Copy one file to local disk; what stands there is replaced once all of it has come."""
        if outfile is None and isfilelike(lpath):
            outfile = lpath
        elif outfile is None and self.isdir(rpath):
            os.makedirs(lpath, exist_ok=True)
            return
        with self.reading(rpath, kwargs.get("version_id")) as reading:
            callback.set_size(reading.artifact.size)
            if outfile is not None:
                _copy(reading, outfile.write, callback, rpath)
                return
            os.makedirs(os.path.dirname(lpath) or ".", exist_ok=True)
            part = f"{lpath}.part-{secrets.token_hex(4)}"
            try:
                with open(part, "xb") as file:
                    _copy(reading, file.write, callback, rpath)
                os.replace(part, lpath)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(part)
                raise

    def put_file(
        self, lpath: str, rpath: str, callback: Any = DEFAULT_CALLBACK, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        """Copy one local file; a directory is nothing. Raises FileExistsError with the mode ``create``."""
        if os.path.isdir(lpath):
            return
        with open(lpath, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            callback.set_size(size)
            self.put_stream(rpath, file, kwargs.get("content_type"), overwrite=mode != "create")
            callback.absolute_update(size)

    def cp_file(self, path1: str, path2: str, **_kwargs: Any) -> None:
        """Copy one file; a directory is nothing."""
        if self.isdir(path1):
            return
        with self.reading(path1) as reading, tempfile.SpooledTemporaryFile(IN_MEMORY) as spool:
            with os_errors(path1):
                spool.writelines(reading.chunks())
            spool.seek(0)
            self.put_stream(path2, spool, reading.artifact.content_type)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:  # noqa: FBT001, FBT002
        """Delete files, and with ``recursive`` all that is below directories."""
        names = self.expand_path(path, recursive=recursive, maxdepth=maxdepth)
        directories = {name for name in names if self.isdir(name)}  # before what makes them one is gone
        if directories and not recursive:
            cause = "a directory; recursive=True deletes what is in it"
            raise IsADirectoryError(errno.EISDIR, cause, min(directories))
        with self.together():
            for name in names:
                if name not in directories:
                    self.rm_file(name)

    def _rm(self, path: str) -> None:
        path = self._strip_protocol(path)
        with os_errors(path):
            self.artifacts.remove(file_address(path))


def _copy(reading: Reading, write: Callable[[bytes], Any], callback: Any, path: str) -> None:
    with os_errors(path):
        for chunk in reading.chunks():
            write(chunk)
            callback.relative_update(len(chunk))


def _let_go(pid: int, store: ArtifactStore) -> None:
    """Close a store that no file system uses any more, if it is this process's.

    In a thread: garbage is collected in any thread, also in the one that would have to do the closing.
    """
    if os.getpid() == pid:
        threading.Thread(target=store.close, name="cachesync-close", daemon=True).start()
