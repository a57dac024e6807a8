"""Artifacts in the store for Python programs, as the design note's ArtifactStorageService has them: ``ArtifactStore``.

    from cachesync import ArtifactStore

    with ArtifactStore("s3://bucket") as store:
        store.upload("s1", "artifacts/dashboard.yaml", "title: Sales")
        text = store.download_text("s1", "artifacts/dashboard.yaml")

It needs no daemon and no local root, and asks the store itself; what an agent has written and its daemon has not yet
stored is not there.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, BinaryIO, Self

from cachesync.artifacts.by_address import Artifacts
from cachesync.config import Config, load
from cachesync.daemon.store_factory import open_store, settled
from cachesync.model.address import Address, Space, parse_whole
from cachesync.model.errors import FileUnreadable, FileUnwritable, NoSuchSession, ObjectNotFound, UsageError
from cachesync.model.limits import DEFAULT_EXPIRES
from cachesync.model.outcomes import Artifact, PastVersion
from cachesync.model.reports import NOT_CONFIGURED
from cachesync.model.values import Kind
from cachesync.model.verbs import Reading
from cachesync.read.cache.blocks import BlockCache
from cachesync.read.reader import Reader

REVALIDATE = 0.0
"""Every read asks whether what is cached is the newest."""


class ArtifactStore:
    """Artifacts of any session; ``session`` may also be ``projects/P`` or ``templates``.

    The store is ``store_url``, else the one that environment (``ARTIFACT_BUCKET``, ``S3_ENDPOINT``, ``AWS_REGION``...)
    and ``cachesync.toml`` name, as for every command; ``settings`` are further ones by their names there, and
    ``config`` is all of them at once. ``cache`` is a folder for what was read (None: nothing is kept). Safe to share
    between threads; ``close`` it, or use it as a context. Without a configured store, it is a folder of this machine
    and a warning is logged; with the setting ``require_remote`` that is a ConfigError. Each call raises leaves of
    CacheSyncError: ObjectNotFound only if the store said that there is no such object.
    """

    def __init__(
        self,
        store_url: str | None = None,
        *,
        config: Config | None = None,
        cache: str | Path | None = None,
        **settings: object,
    ) -> None:
        """Raises ConfigError. Nothing is asked of the store yet."""
        if config is None:
            given = {name: str(value) for name, value in settings.items()}
            config = load(given if store_url is None else {**given, "store": store_url}, os.environ, Path.cwd())
        elif settings or store_url is not None:
            raise UsageError("make an ArtifactStore", "", "config is given, and settings besides", "give one of them")
        config = settled(config)
        store = config.store
        self._url = f"s3://{store.bucket}" if store.bucket else store.shown.rstrip("/")
        self._prefix = config.prefix
        self._store = open_store(config)
        if config.embedded:
            warnings.warn(NOT_CONFIGURED, stacklevel=2)
        self._cache = None if cache is None else BlockCache(Path(cache), config.cache_size)
        reader = Reader(
            self._store,
            prefix=config.prefix,
            cache=self._cache,
            local=None,
            revalidate=REVALIDATE,
            clock=time.time,
        )
        self._artifacts = Artifacts(
            self._store,
            reader,
            prefix=config.prefix,
            url=self._url,
            writer=secrets.token_hex(8),
            local=None,
            clock=time.time,
        )

    @property
    def artifacts(self) -> Artifacts:
        """The same by address, as the daemon's verbs have it (``verbs.Artifacts``)."""
        return self._artifacts

    def close(self) -> None:
        """Let connections go."""
        self._store.close()
        if self._cache is not None:
            self._cache.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def together(self) -> contextlib.AbstractContextManager[None]:
        """For a block of many uploads and deletes: each is stored when it returns, and the manifest of a session that
        was flushed is written once, at the end, instead of after each. Raises StoreError there."""
        return self._artifacts.together()

    # -- as the design note has them -----------------------------------------------------------------------------------

    def upload(
        self,
        session: str,
        path: str,
        content: bytes | str | Path | BinaryIO,
        metadata: Mapping[str, object] | None = None,
        *,
        content_type: str | None = None,
        overwrite: bool = True,
    ) -> str:
        """Store text (as UTF-8), bytes, a file by its Path, or what an open file still holds; returns the URI.

        What was there is replaced, whoever wrote it; without ``overwrite`` that is ArtifactExists instead, and of many
        who try at once one gets through. ``metadata`` are artifactType, projectId, version and the like; None in them
        counts as not given. Raises UsageError, Unstorable, ArtifactExists, FileUnreadable, StoreError.
        """
        address = _address(session, path)
        given = {name: str(value) for name, value in (metadata or {}).items() if value is not None}
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(_opened(content)) if isinstance(content, Path) else _source(content)
            artifact = self._artifacts.put(
                address, source, content_type=content_type, metadata=given, overwrite=overwrite
            )
        return f"{self._url}/{artifact.key}"

    def download(self, session: str, path: str, *, version_id: str | None = None) -> bytes:
        """The bytes, all in memory; of a past version if one is named. Raises ObjectNotFound, StoreError."""
        with self.open(session, path, version_id=version_id) as reading:
            return b"".join(reading.chunks())

    def download_text(self, session: str, path: str, *, version_id: str | None = None) -> str:
        """The text. Raises UsageError if the bytes are not UTF-8, ObjectNotFound, StoreError."""
        data = self.download(session, path, version_id=version_id)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise UsageError("read as text", f"{session}/{path}", error, "download gives the bytes") from error

    def download_to(
        self, session: str, path: str, file: str | Path | BinaryIO, *, version_id: str | None = None
    ) -> int:
        """Write the bytes to an open file, or to a path, where they appear whole or not at all; returns how many.

        Memory does not grow with their size. An open file holds only part of them if this raises: ObjectNotFound,
        IntegrityError, FileUnwritable, StoreError.
        """
        with self.open(session, path, version_id=version_id) as reading:
            if not isinstance(file, str | Path):
                return sum(_written(file, chunk) for chunk in reading.chunks())
            return _to_path(reading, Path(file))

    def open(self, session: str, path: str, *, version_id: str | None = None) -> Reading:
        """One version, open for reading: ``chunks(start, length)``. Raises ObjectNotFound, StoreError."""
        return self._artifacts.read(_address(session, path), version_id=version_id)

    def list(self, session: str, prefix: str = "") -> Sequence[Artifact]:
        """The files and links of a session whose paths begin with ``prefix``, in path order; empty if there are none.

        Raises UsageError, StoreError.
        """
        folder, slash, _ = prefix.rpartition("/")
        place = _place(session)
        start = str(place) + "/" + prefix
        address = parse_whole(f"{place}/{folder}{slash}") if folder else place
        try:
            found = self._artifacts.list(address)
            return [one for one in found if one.kind != Kind.DIRECTORY and one.address.startswith(start)]
        except (NoSuchSession, ObjectNotFound):
            return []

    def delete(self, session: str, path: str) -> None:
        """Delete one artifact. Raises ObjectNotFound if there is none, StoreError."""
        self._artifacts.remove(_address(session, path))

    def signed_url(
        self, session: str, path: str, expires_in: float = DEFAULT_EXPIRES, *, version_id: str | None = None
    ) -> str:
        """A link by which anybody can read the artifact for so many seconds. Raises ObjectNotFound, UsageError."""
        return self._artifacts.url(_address(session, path), expires=expires_in, version_id=version_id)

    # -- and what it does not have -------------------------------------------------------------------------------------

    def sessions(self) -> Sequence[str]:
        """The names of the sessions in the store, sorted. Raises StoreError."""
        return [found.address for found in self._artifacts.list(Address(Space.SESSIONS))]

    def describe(self, session: str, path: str) -> Artifact:
        """Size, times, version, digest and content type of the newest version. Raises ObjectNotFound, StoreError."""
        return self._artifacts.describe(_address(session, path))

    def metadata(self, session: str, path: str) -> dict[str, str]:
        """The object's metadata: sessionid, createdat, artifacttype, version, what was given with the upload, and the
        facts mtime, mode, sha256, writer, attemptid. Raises ObjectNotFound, StoreError."""
        return dict(self._store.head(_address(session, path).key(self._prefix)).metadata)

    def history(self, session: str, path: str) -> Sequence[PastVersion]:
        """Every version, newest first, also of what was deleted. Raises ObjectNotFound, UsageError, StoreError."""
        return self._artifacts.history(_address(session, path))

    def restore(self, session: str, path: str, version_id: str | None = None) -> Artifact:
        """Make a past version the newest again: the one named, or the last one before the newest (or its deletion).

        Raises ObjectNotFound, UsageError (the store keeps no versions), StoreError.
        """
        return self._artifacts.restore(_address(session, path), version_id=version_id)


def _place(session: str) -> Address:
    """What ``session`` means. Raises UsageError unless it is a session, ``projects/P`` or ``templates``."""
    place = parse_whole(session)
    if place.path or not (place.name or place.space is Space.TEMPLATES):
        raise UsageError("find", session, "names no session", "give a session, projects/P or templates")
    return place


def _address(session: str, path: str) -> Address:
    place = _place(session)
    address = parse_whole(f"{place}/{path}")
    if address.whole:
        raise UsageError("find", f"{session}/{path}", "names no file", "give a path inside the session")
    return address


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise FileUnreadable("upload", str(path), error.strerror, "is the path right?") from error


def _source(content: bytes | str | BinaryIO) -> BinaryIO:
    if isinstance(content, str):
        try:
            content = content.encode()
        except UnicodeEncodeError as error:
            raise UsageError("upload", "text", error, "text must be encodable as UTF-8; or give bytes") from error
    return io.BytesIO(content) if isinstance(content, bytes | bytearray | memoryview) else content


def _written(file: IO[bytes], chunk: bytes) -> int:
    file.write(chunk)
    return len(chunk)


def _to_path(reading: Reading, path: Path) -> int:
    """Write beside ``path``, then move into place. Raises FileUnwritable."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as out:
            try:
                size = sum(_written(out, chunk) for chunk in reading.chunks())
                out.close()
                os.replace(out.name, path)
            except BaseException:
                os.unlink(out.name)
                raise
    except OSError as error:
        raise FileUnwritable("write", str(path), error.strerror) from error
    return size
