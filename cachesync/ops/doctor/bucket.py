"""Asking an S3 bucket: credentials, whether it is there, and one object of our own that is written, read and removed.

The questions go past our store, which makes up for what a server cannot do. Each is bounded by the client's timeout.
"""

from __future__ import annotations

import contextlib
import secrets
import shlex
import time
from collections.abc import Iterator
from typing import Any

from cachesync.model.errors import (
    CacheSyncError,
    FileChanging,
    IntegrityError,
    PreconditionFailed,
    StoreDenied,
    StorePermanent,
)
from cachesync.model.keys import RESERVED, session_prefix
from cachesync.ops.doctor import stored
from cachesync.ops.doctor.finding import Finding, failed, ok
from cachesync.ops.doctor.rights import Rights
from cachesync.ops.doctor.stored import Conditions
from cachesync.root.snapshot import MemoryBody
from cachesync.store.s3 import credentials, fields
from cachesync.store.s3.client import S3Client, S3Settings
from cachesync.store.s3.errors import NotSupported
from cachesync.store.s3.probe import NO_SUCH_ETAG
from cachesync.store.s3.store import S3Store

BODY = b"cachesync doctor\n"


def probe_key(prefix: str) -> str:
    """A key under our own reserved prefix that nobody else uses."""
    return f"{session_prefix(prefix, RESERVED)}doctor-{secrets.token_hex(8)}"


def examine(settings: S3Settings, prefix: str) -> Iterator[Finding]:
    """Everything about a bucket; ends early where no more can be asked. Leaves nothing in it."""
    client = S3Client(settings)
    probe = _Probe(client, probe_key(prefix))
    try:
        try:
            found = credentials.find(client)
        except CacheSyncError as error:
            yield failed("credentials", error)
            return
        yield from stored.credentials(found, time.time())
        if found is not None:
            yield from _ask(probe, settings)
    finally:
        with contextlib.suppress(CacheSyncError):
            probe.remove()
        client.close()


def _ask(probe: _Probe, settings: S3Settings) -> Iterator[Finding]:
    rights = Rights()
    begun = time.monotonic()
    try:
        page = rights.use("s3:ListBucket", lambda: probe.call("list_objects_v2", Prefix=probe.key, MaxKeys=1, Key=None))
        where = settings.endpoint or "AWS"
        yield ok("store", f"s3://{settings.bucket} at {where} answers in {(time.monotonic() - begun) * 1000:.0f} ms")
        if page is not None:
            yield from stored.clock(page["ResponseMetadata"]["HTTPHeaders"].get("date"), time.time())
        findings: list[Finding] = []
        put = rights.use("s3:PutObject", probe.put)
        if put is None:
            findings += stored.unknown_conditions(rights.refused["s3:PutObject"])
        else:
            findings += stored.conditions(probe.conditions())
            findings += stored.copies(probe.copied(put["ETag"]))
            rights.use("s3:GetObject", lambda: _read(settings, probe.key))
            rights.use("s3:PutObjectTagging", lambda: probe.put(Tagging="kind=log"))  # as every log file has
            rights.use("s3:GetObjectTagging", lambda: probe.call("get_object_tagging"))
            findings += stored.checksums(confirmed=probe.confirmed, wrong_refused=probe.refuses_wrong_bytes())
            rights.use("s3:DeleteObject", probe.remove)
        yield from (*stored.rights(rights.refused, rights.allowed), *findings)
        yield from _versioning(probe, settings)
    except CacheSyncError as error:
        yield from stored.unreachable(error)


def _read(settings: S3Settings, key: str) -> bytes:
    """The object's bytes, the way that every read goes."""
    store = S3Store(settings)
    try:
        data = b"".join(store.get(key).chunks)
    finally:
        store.close()
    if data != BODY:
        raise IntegrityError("read", key, "it holds other bytes than were just put there", "is there a cache between?")
    return data


def _versioning(probe: _Probe, settings: S3Settings) -> list[Finding]:
    endpoint = f" --endpoint-url {shlex.quote(settings.endpoint)}" if settings.endpoint else ""
    status = "--versioning-configuration Status=Enabled"
    mend = f"aws s3api put-bucket-versioning --bucket {settings.bucket} {status}{endpoint}"
    try:
        answer = probe.call("get_bucket_versioning", Key=None)
    except NotSupported:
        return stored.versioning(None, "use a store that keeps versions")
    except StoreDenied as error:
        return stored.versioning(None, "", error)
    return stored.versioning(answer.get("Status"), mend)


class _Probe:
    """One object of our own, and every version that it got."""

    def __init__(self, client: S3Client, key: str) -> None:
        self._client = client
        self.key = key
        self.confirmed = False
        self._there = False
        self._versions: list[str] = []

    def call(self, method: str, **args: Any) -> Any:
        """One request about the object; ``Key=None`` for one about the bucket."""
        asked = {name: value for name, value in ({"Key": self.key} | args).items() if value is not None}
        return self._client.call("try", self.key, method, **asked)

    def put(self, body: bytes = BODY, **args: Any) -> Any:
        """Write it, with the checksum of BODY."""
        sha256 = fields.checksum(MemoryBody(BODY).sha256)
        answer = self.call(
            "put_object", size=len(body), Body=body, ChecksumAlgorithm="SHA256", ChecksumSHA256=sha256,
            **self._client.settings.encryption, **args,
        )  # fmt: skip
        self._there = True
        self.confirmed = answer.get("ChecksumSHA256") == sha256
        self._note(answer)
        return answer

    def conditions(self) -> Conditions:
        """Writes over the object that have to be refused."""
        return Conditions(
            none_match=self._refuses(IfNoneMatch="*"), match=self._refuses(IfMatch=fields.quoted(NO_SUCH_ETAG))
        )

    def _refuses(self, **condition: Any) -> bool:
        try:
            self.put(**condition)
        except PreconditionFailed:
            return True
        except NotSupported:
            pass
        return False

    def copied(self, etag: str) -> CacheSyncError | None:
        """Copy the object, as the uploader does for a renamed file. Returns the store's error; None if it copied."""
        twin = _Probe(self._client, f"{self.key}-copy")
        try:
            twin.be_copy(self.key, etag)
        except (StorePermanent, PreconditionFailed) as error:
            return error
        twin.remove()
        return None

    def be_copy(self, source: str, etag: str) -> None:
        """Create the object as a copy of another one."""
        answer = self.call(
            "copy_object", CopySource={"Bucket": self._client.settings.bucket, "Key": source}, CopySourceIfMatch=etag,
            IfNoneMatch="*", **self._client.settings.encryption,
        )  # fmt: skip
        self._there = True
        self._note(answer)

    def refuses_wrong_bytes(self) -> bool:
        """A write of other bytes than its SHA-256 says."""
        try:
            self.put(BODY[::-1])
        except (FileChanging, StorePermanent):
            return True
        return False

    def remove(self) -> bool:
        """Delete it, and then, as far as that is allowed, every version of it. Raises if it cannot be deleted."""
        if self._there:
            self._note(self.call("delete_object"))
            self._there = False
        while self._versions:
            with contextlib.suppress(StorePermanent):
                self.call("delete_object", VersionId=self._versions.pop())
        return True

    def _note(self, answer: Any) -> None:
        if version_id := fields.version(answer).version_id:
            self._versions.append(version_id)
