"""What fsspec's users expect to get: dictionaries for artifacts, and OSErrors for ours. Pure."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Any

from cachesync.model.address import Address, parse_whole
from cachesync.model.errors import (
    ArtifactExists,
    CacheSyncError,
    ConfigError,
    FileChanging,
    NoSuchSession,
    ObjectNotFound,
    PreconditionFailed,
    RootLocked,
    StoreCredentials,
    StoreDenied,
    StoreNameTaken,
    Unstorable,
    UsageError,
)
from cachesync.model.outcomes import Artifact
from cachesync.model.values import Kind

Info = dict[str, Any]

_ERRNO: tuple[tuple[type[CacheSyncError], int], ...] = (
    (ObjectNotFound, errno.ENOENT),
    (NoSuchSession, errno.ENOENT),
    (StoreDenied, errno.EACCES),
    (StoreCredentials, errno.EACCES),
    (StoreNameTaken, errno.ENOTDIR),
    (ArtifactExists, errno.EEXIST),
    (PreconditionFailed, errno.ESTALE),
    (FileChanging, errno.ESTALE),
    (ConfigError, errno.EIO),
    (RootLocked, errno.EIO),
    (UsageError, errno.EINVAL),
    (Unstorable, errno.EINVAL),
)
"""The first that fits; anything else, an unreachable store above all, is EIO."""


@contextlib.contextmanager
def os_errors(path: str) -> Iterator[None]:
    """Raise a CacheSyncError as the OSError that fsspec's users look for, with the error itself as its cause."""
    try:
        yield
    except CacheSyncError as error:
        number = next((number for kind, number in _ERRNO if isinstance(error, kind)), errno.EIO)
        raise OSError(number, str(error), path or None) from error


def file_address(path: str) -> Address:
    """The address of one file. Raises OSError: IsADirectoryError for all of a session, project or space."""
    with os_errors(path):
        address = parse_whole(path)
    if address.whole:
        raise IsADirectoryError(errno.EISDIR, "names no single file", path)
    return address


def directory(path: str) -> Info:
    """A directory: only what lies in it makes it one."""
    return {"name": path, "size": 0, "type": "directory"}


def info(artifact: Artifact) -> Info:
    """A file, or a link, which is never followed. ``mtime`` is in seconds, and named as pyarrow looks for it."""
    found: Info = {
        "name": artifact.address,
        "size": artifact.size,
        "type": "link" if artifact.kind == Kind.LINK else "file",
        "mtime": artifact.modified,
        "state": artifact.state,
        "version": artifact.version,
        "version_id": artifact.version_id,
        "sha256": artifact.sha256,
        "content_type": artifact.content_type,
        "uri": artifact.uri,
    }
    if artifact.kind == Kind.LINK:
        found |= {"islink": True, "destination": artifact.target}
    return found
