"""Any fsspec file system as a store, with versions, checksums and conditions of our own.

A ``file://`` URL is a ``Folder``: plain files, safe between processes and over a crash. Any other URL is as safe as its
file system lets it be: conditions hold between the threads of one process only.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from cachesync.model.errors import FileChanging, ObjectNotFound, PreconditionFailed, StoreTransient
from cachesync.model.values import Attributes, Multipart, ObjectInfo, Tail, Version
from cachesync.store.base import Body, Download, Resume, Traits, folder_info
from cachesync.store.folder import Folder
from cachesync.store.fsspec_tree import FsspecTree
from cachesync.store.pieces import PIECE, Pieces, Tree
from cachesync.store.sidecar import Record, Stat, decode, describe, encode, matching, new_record, record_path


class FsspecStore:
    """An ``ObjectStore`` under one URL: ``file:///folder`` (or a plain path), ``memory://name``, ..."""

    def __init__(self, url: str) -> None:
        self._tree = _tree(url)

    def __repr__(self) -> str:
        return f"FsspecStore({self._tree.url!r})"

    @property
    def largest(self) -> int | None:
        """See ObjectStore."""
        return None

    @property
    def traits(self) -> Traits:
        """Conditions are ours, so they hold; there are no old versions."""
        return Traits(url=self._tree.url, conditional=True, versioned=False)

    @property
    def silent_for(self) -> None:
        """Not known: what is asked goes to somebody else's code."""
        return

    @property
    def archive(self) -> None:
        """There are neither old versions nor links."""
        return

    def head(self, key: str) -> ObjectInfo:
        """Describe the object as it is now."""
        with self._found("ask for", key):
            return describe(key, *self._look(key))

    def get(self, key: str, *, version: Version | None = None, start: int = 0, length: int | None = None) -> Download:
        """Read one version, or ``length`` bytes of it from ``start``; a range may go past the end."""
        with self._found("read", key):
            stat, read, close = self._tree.read(key)
            try:
                info = describe(key, stat, matching(self._records(key), stat))
                if version is not None and info.version.etag != version.etag:
                    raise PreconditionFailed("read", key, f"it is version {info.version.etag} now")
            except BaseException:
                close()
                raise
        end = info.size if length is None else min(info.size, start + length)
        return Download(info, Pieces(self._tree, info, stat, read, close, (start, end)))

    def put(
        self,
        key: str,
        body: Body,
        attributes: Attributes,
        *,
        expect: Version | None,
        resume: Resume | None = None,
        tail: Tail | None = None,
    ) -> ObjectInfo:
        """Store ``body``, whole, in one atomic step. FileChanging if its bytes are not those of its SHA-256."""
        del resume, tail  # nothing is left half done, so there is nothing to go on with
        return self._write("store", key, _checked(key, body), body.sha256, attributes, expect)

    def copy(
        self,
        source: str,
        target: str,
        attributes: Attributes | None = None,
        *,
        source_version: Version,
        expect: Version | None,
    ) -> ObjectInfo:
        """Copy by reading and writing; both conditions hold."""
        download = self.get(source, version=source_version)
        with contextlib.closing(download.chunks) as chunks:  # type: ignore[type-var]
            if attributes is None:
                record = matching(self._records(source), self._tree.stat(source))
                kind = download.info.content_type or "application/octet-stream"
                attributes = Attributes(kind, download.info.metadata, record.tags if record else {})
            return self._write("copy", target, chunks, download.info.sha256, attributes, expect)

    def delete(self, key: str, *, expect: Version) -> None:
        """Delete the object if it is still ``expect``."""
        with self._tree.locked(key), self._tree.classified("delete", key), contextlib.suppress(FileNotFoundError):
            found = describe(key, *self._look(key)).version
            if found.etag != expect.etag:
                raise PreconditionFailed("delete", key, f"it is version {found.etag} now")
            self._tree.remove(key)
            self._tree.write_own(record_path(key), None)

    def list(self, prefix: str, *, shallow: bool = False) -> Iterator[ObjectInfo]:
        """Every object under ``prefix``, or of one level, in key order."""
        with self._tree.classified("list", prefix):
            for key, stat in self._tree.walk(prefix, shallow=shallow):
                if stat is None:
                    yield folder_info(key)
                    continue
                record = matching(self._records(key), stat)
                etag = describe(key, stat, record).version
                yield ObjectInfo(key, stat.size, etag, stat.modified)

    def discard(self, upload: Multipart) -> None:
        """There are no multipart uploads here."""

    def close(self) -> None:
        """Nothing is kept open."""

    def _write(
        self,
        operation: str,
        key: str,
        pieces: Iterator[bytes],
        sha256: str | None,
        attributes: Attributes,
        expect: Version | None,
    ) -> ObjectInfo:
        """Write a temporary file, then, with the key locked, compare and move it into place."""
        self._expect(operation, key, expect)
        digest = hashlib.sha256()
        with self._tree.classified(operation, key):
            path, stat = self._tree.spool(_hashed(pieces, digest))
        try:
            with self._tree.locked(key):
                known = self._expect(operation, key, expect)
                with self._tree.classified(operation, key):
                    if stat is None:
                        self._tree.place(path, key)
                        stat, known = self._tree.stat(key), ()
                        record = new_record(stat.stamp, sha256 or digest.hexdigest(), attributes)
                        self._tree.write_own(record_path(key), encode(key, (record,)))
                    else:
                        record = new_record(stat.stamp, sha256 or digest.hexdigest(), attributes)
                        self._tree.write_own(record_path(key), encode(key, (record, *known)))
                        self._tree.place(path, key)
        except FileNotFoundError as error:
            raise StoreTransient(operation, key, "its folder vanished meanwhile") from error
        finally:
            self._tree.unspool(path)
        return describe(key, stat, record)

    def _expect(self, operation: str, key: str, expect: Version | None) -> tuple[Record, ...]:
        """Raise PreconditionFailed unless the object is ``expect``; returns the record of the one that is there."""
        try:
            with self._tree.classified(operation, key):
                stat, record = self._look(key)
        except FileNotFoundError:
            if expect is not None:
                raise PreconditionFailed(operation, key, "the object is gone") from None
            return ()
        found = describe(key, stat, record).version
        if expect is None:
            raise PreconditionFailed(operation, key, "there is an object already")
        if found.etag != expect.etag:
            raise PreconditionFailed(operation, key, f"it is version {found.etag} now, not {expect.etag}")
        return (record,) if record else ()

    def _look(self, key: str) -> tuple[Stat, Record | None]:
        stat = self._tree.stat(key)
        record = matching(self._records(key), stat)
        return stat, record

    def _records(self, key: str) -> tuple[Record, ...]:
        return decode(key, self._tree.read_own(record_path(key)))

    @contextlib.contextmanager
    def _found(self, operation: str, key: str) -> Iterator[None]:
        """A file that is not there is an object that is not there; all else is classified."""
        try:
            with self._tree.classified(operation, key):
                yield
        except FileNotFoundError as error:
            raise ObjectNotFound(operation, key, "there is no such object") from error


def _tree(url: str) -> Tree:
    parts = urlsplit(url)
    if parts.scheme in ("", "file", "local"):
        return Folder(unquote(url.split("://", 1)[1]) if parts.scheme else url)
    return FsspecTree(url)


def _hashed(pieces: Iterator[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    for piece in pieces:
        digest.update(piece)
        yield piece


def _checked(key: str, body: Body) -> Iterator[bytes]:
    """The bytes of a body; FileChanging at the end if they are not those that its SHA-256 was taken of."""
    digest = hashlib.sha256()
    for start in range(0, body.size, PIECE):
        piece = body.read(start, min(PIECE, body.size - start))
        digest.update(piece)
        yield piece
    if digest.hexdigest() != body.sha256:
        raise FileChanging("store", key, "its bytes are not those that its SHA-256 was taken of")
