"""Open files: one version each when read, stored as one when written."""

from __future__ import annotations

import contextlib
import errno
import tempfile
from typing import TYPE_CHECKING, Any

from fsspec.spec import AbstractBufferedFile
from fsspec.transaction import Transaction

from cachesync.programs.fsspec_fs.answers import info, os_errors

if TYPE_CHECKING:
    from cachesync.programs.fsspec_fs.filesystem import CacheSyncFileSystem

IN_MEMORY = 8 * 2**20
"""Bytes of a file being written that are kept in memory; more go to a temporary file."""


class ReadFile(AbstractBufferedFile):  # type: ignore[misc] # fsspec ships no types
    """One version of one file. If it is replaced meanwhile, reading on is an error, never a mixture.

    ``version`` is what the same file was when it was opened first: a pickled file is read on elsewhere. Raises OSError.
    """

    def __init__(
        self,
        fs: CacheSyncFileSystem,
        path: str,
        *,
        version_id: str | None = None,
        version: str | None = None,
        **kwargs: Any,
    ) -> None:
        self._reading = fs.reading(path, version_id)
        artifact = self._reading.artifact
        if version not in (None, artifact.version):
            self._reading.close()
            raise OSError(errno.ESTALE, "it was replaced since it was opened first", path)
        super().__init__(fs, path, "rb", size=artifact.size, **kwargs)
        self.kwargs = {"version_id": version_id, "version": artifact.version}
        self.details = info(artifact)

    def _fetch_range(self, start: int, end: int) -> bytes:
        with os_errors(self.path):
            return b"".join(self._reading.chunks(start, end - start))

    def close(self) -> None:
        """Let the version go."""
        if not self.closed:
            super().close()
            self._reading.close()


class Together(Transaction):  # type: ignore[misc]
    """Files that are stored at the end of a block, and the manifests of their sessions once after all of them."""

    def complete(self, commit: bool = True) -> None:  # noqa: FBT001, FBT002 - fsspec's own signature
        """Store them, or not. Raises OSError."""
        with self.fs.together() if commit else contextlib.nullcontext():
            super().complete(commit)


class WriteFile(AbstractBufferedFile):  # type: ignore[misc]
    """A file being written, kept here until it is closed, or until its transaction ends without an error.

    Of many who write one file with ``xb`` one gets through. ``ab`` looks for another writer when the file is opened and
    again just before it is stored; between that look and the store there is a moment in which one is not seen. As
    everywhere in fsspec, an error inside ``with`` stores what was written so far: use a transaction where that matters.
    """

    def __init__(self, fs: CacheSyncFileSystem, path: str, mode: str, *, autocommit: bool, **kwargs: Any) -> None:
        super().__init__(fs, path, mode, autocommit=autocommit, **kwargs)
        self._spool = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - closed by commit and discard
        self._before: str | None = None
        try:
            if mode == "xb":
                if fs.exists(path):  # sooner than the store would say it
                    raise FileExistsError(errno.EEXIST, "it is there already", path)
            elif mode == "ab" and fs.exists(path):
                with fs.reading(path) as reading, os_errors(path):
                    self._spool.writelines(reading.chunks())
                    self.loc = reading.artifact.size
                    self._before = fs.ukey(path)
        except BaseException:
            self.closed = True
            self.discard()
            raise

    def _upload_chunk(self, final: bool = False) -> bool:  # noqa: FBT001, FBT002 - fsspec's own signature
        self._spool.write(self.buffer.getvalue())
        if final and self.autocommit:
            self.commit()
        return True

    def commit(self) -> None:
        """Store it. Raises OSError, FileExistsError (``xb``)."""
        try:
            if self.mode == "ab" and self._before != (self.fs.ukey(self.path) if self.fs.exists(self.path) else None):
                raise OSError(errno.ESTALE, "it was replaced while it was appended to; nothing is stored", self.path)
            self._spool.seek(0)
            content_type, overwrite = self.kwargs.get("content_type"), self.mode != "xb"
            self.fs.put_stream(self.path, self._spool, content_type, overwrite=overwrite)
        finally:
            self._spool.close()

    def discard(self) -> None:
        """Store nothing."""
        self._spool.close()
