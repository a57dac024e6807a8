"""Asking a store that is no S3: a folder, or another fsspec URL."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from cachesync.model.errors import CacheSyncError, FileChanging, PreconditionFailed
from cachesync.model.values import Attributes, Version
from cachesync.ops.doctor import stored
from cachesync.ops.doctor.bucket import BODY, probe_key
from cachesync.ops.doctor.finding import Finding, ok
from cachesync.ops.doctor.rights import Rights
from cachesync.ops.doctor.stored import Conditions
from cachesync.root.snapshot import MemoryBody
from cachesync.store.base import ObjectStore

_PLAIN = Attributes("text/plain", {}, {})
NO_VERSIONS = "use an S3 bucket with versioning"


def examine(store: ObjectStore, prefix: str, shown: str) -> Iterator[Finding]:
    """Everything about it; ends early where no more can be asked. Leaves nothing in it. ``shown`` is its name."""
    key = probe_key(prefix)
    rights = Rights()
    try:
        rights.use("list", lambda: list(store.list(key)))
        yield ok("store", f"{shown} answers")
        findings: list[Finding] = []
        if rights.use("put", lambda: store.put(key, MemoryBody(BODY), _PLAIN, expect=None)) is not None:
            rights.use("get", lambda: b"".join(store.get(key).chunks))
            findings += stored.conditions(
                Conditions(_refuses(store, key, None), _refuses(store, key, Version("no such version")))
            )
            findings += stored.checksums(confirmed=True, wrong_refused=_refuses_wrong_bytes(store, key))
            rights.use("delete", lambda: store.delete(key, expect=store.head(key).version))
        yield from (*stored.rights(rights.refused, rights.allowed), *findings)
        yield from stored.versioning(None, NO_VERSIONS)
    except CacheSyncError as error:
        yield from stored.unreachable(error)
    finally:
        with contextlib.suppress(CacheSyncError):
            store.delete(key, expect=store.head(key).version)


def _refuses(store: ObjectStore, key: str, expect: Version | None) -> bool:
    try:
        store.put(key, MemoryBody(BODY), _PLAIN, expect=expect)
    except PreconditionFailed:
        return True
    return False


def _refuses_wrong_bytes(store: ObjectStore, key: str) -> bool:
    body = MemoryBody(BODY[::-1])
    body.sha256 = MemoryBody(BODY).sha256
    try:
        store.put(key, body, _PLAIN, expect=store.head(key).version)
    except FileChanging:
        return True
    return False
