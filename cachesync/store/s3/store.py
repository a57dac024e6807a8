"""S3 and what speaks its protocol, through s3fs.

Conditions go out with each write. Where a server is known to ignore one, or may (copies, deletes, completed uploads),
the object is asked for and compared just before as well: no better than the server, but never worse.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from cachesync.model.errors import (
    IntegrityError,
    NoSuchBucket,
    ObjectNotFound,
    PreconditionFailed,
    StoreDenied,
    StoreError,
    StoreNameTaken,
    StorePermanent,
    StoreTransient,
)
from cachesync.model.keys import reserved_near
from cachesync.model.policy import LARGEST_PART, MAX_PARTS
from cachesync.model.values import Attributes, Multipart, ObjectInfo, Tail, Version
from cachesync.store.base import Body, Download, Resume, Traits, folder_info
from cachesync.store.s3 import fields
from cachesync.store.s3.archive import S3Archive
from cachesync.store.s3.client import PATIENCE, S3Client, S3Settings
from cachesync.store.s3.download import MAX_SIZE, Pieces, download
from cachesync.store.s3.errors import NotSupported, PartsRefused, UploadGone
from cachesync.store.s3.multipart import SMALLEST_PART, Uploads
from cachesync.store.s3.probe import Probe

REMEMBER = 30.0
"""Seconds that an answer about the bucket itself (is it there, is it versioned) is believed."""


class S3Store:
    """An ``ObjectStore`` in one bucket. Keys come whole.

    ``prefix`` is the prefix of all keys. The probe for conditional writes, before the first write, uses a key under it
    and leaves no object there.
    """

    def __init__(self, settings: S3Settings, *, prefix: str = "") -> None:
        self._settings = settings
        self._client = S3Client(settings)
        self._uploads = Uploads(self._client)
        self._probe = Probe(self._client, partial(reserved_near, prefix))
        self._archive = S3Archive(self._client, self._uploads, self._compare)
        self._appends = True
        self._refuses_copies: str | None = None
        self._versioned: bool | None = None
        self._versioned_asked = float("-inf")
        self._bucket_seen = float("-inf")

    def __repr__(self) -> str:
        return f"S3Store({self._settings!r})"

    @property
    def traits(self) -> Traits:
        """What is known of the bucket. Asks whether it is versioned, at most every 30 seconds and for one timeout."""
        if self._versioned is None and time.monotonic() - self._versioned_asked > REMEMBER:
            self._versioned_asked = time.monotonic()
            try:
                answer = self._client.call("ask for the versioning of", self._url, "get_bucket_versioning")
                self._versioned = answer.get("Status") == "Enabled"
            except StoreError:
                self._versioned = None
        return Traits(self._url, self._probe.answer, self._versioned, self._probe.denied)

    @property
    def largest(self) -> int:
        """See ObjectStore."""
        return MAX_PARTS * LARGEST_PART

    @property
    def silent_for(self) -> float | None:
        """See ObjectStore."""
        return self._client.silent_for

    @property
    def client(self) -> S3Client:
        """The connection, for who asks about it."""
        return self._client

    @property
    def archive(self) -> S3Archive:
        """Past versions, where the bucket keeps them, and links."""
        return self._archive

    def check_conditional(self, key: str = "") -> bool | None:
        """Whether the store supports conditional writes, probed near ``key``; None if it denies the probe. Raises
        StoreTransient and similar errors if the probe fails."""
        return self._probe.ask(key)

    def head(self, key: str) -> ObjectInfo:
        """Describe the newest version. One request; a second if there is nothing, to tell a bucket that is gone."""
        try:
            answer = self._client.call("ask for", key, "head_object", Key=key, ChecksumMode="ENABLED")
        except ObjectNotFound:
            self._check_bucket()
            raise
        self._bucket_seen = time.monotonic()
        return fields.found("ask for", key, answer)

    def get(self, key: str, *, version: Version | None = None, start: int = 0, length: int | None = None) -> Download:
        """Read one version, or ``length`` bytes of it from ``start``; a range may go past the end. One request."""
        if length == 0:
            return self._nothing(key, version)
        part = None
        if start or length is not None:
            part = range(start, MAX_SIZE if length is None else start + length)
        try:
            info, source, first = download(self._client, key, version, part)
        except StorePermanent as error:
            if "InvalidRange" in str(error.cause) or "416" in str(error.cause):
                return self._nothing(key, version)
            raise
        wanted = info.size - start if length is None else min(length, info.size - start)
        return Download(info, Pieces(source, first, info, wanted))

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
        """Store ``body``: one request, or several at once for a body in parts. The store checks its SHA-256."""
        self._probe.check_name(key)
        conditional = self.check_conditional(key)
        try:
            if tail is not None and expect is not None and tail.start >= SMALLEST_PART and self._appends:
                version = self._put_tail(key, body, attributes, expect, resume, tail)
            elif body.part_sha256:
                version = self._put_parts(key, body, attributes, expect, resume)
            else:
                if not conditional:
                    self._compare(key, expect)
                version = self._put_whole(key, body, attributes, expect)
        except ObjectNotFound as error:
            if expect is None:
                raise StorePermanent("store", key, f"the store will not create it: {error.reason}") from error
            # Some stores answer so to If-Match when there is nothing that could match.
            raise PreconditionFailed("store", key, "the object is gone") from error
        except PreconditionFailed:
            if expect is None:
                self._check_folder(key)
            raise
        return ObjectInfo(
            key=key,
            size=body.size,
            version=version,
            modified=time.time(),
            sha256=body.sha256,
            metadata=dict(attributes.metadata),
            content_type=attributes.content_type,
        )

    def copy(
        self,
        source: str,
        target: str,
        attributes: Attributes | None = None,
        *,
        source_version: Version,
        expect: Version | None,
    ) -> ObjectInfo:
        """Copy inside the bucket. Compares source and target first, because not every store supports both conditions.
        After a store's first NotSupported, the method raises it without a request."""
        if self._refuses_copies is not None:
            raise NotSupported("copy", source, self._refuses_copies)
        found = self.head(source)
        if not fields.same(found.version, source_version):
            raise PreconditionFailed("copy", source, f"it is version {found.version.etag} now")
        self._compare(target, expect)
        if found.size > self._settings.copy_limit:
            described = fields.described(attributes or self._uploads.attributes(found))
            version = self._uploads.copy(
                source, source_version, found.size, target, described,
                expect=expect, check=lambda: self._compare(target, expect),
            )  # fmt: skip
        else:
            try:
                version = self._copy_whole(source, target, attributes, source_version, expect)
            except NotSupported as error:
                self._refuses_copies = error.reason
                raise
            except ObjectNotFound:  # of the two it may be either
                self._compare(target, expect)
                raise
        metadata = dict(attributes.metadata) if attributes else found.metadata
        kind = attributes.content_type if attributes else found.content_type
        return ObjectInfo(target, found.size, version, time.time(), found.sha256, metadata, kind)

    def delete(self, key: str, *, expect: Version) -> None:
        """Delete the object if it is still ``expect``: compared first, then deleted on that condition."""
        try:
            if not fields.same((found := self.head(key)).version, expect):
                raise PreconditionFailed("delete", key, f"it is version {found.version.etag} now, not {expect.etag}")
            try:
                self._client.call("delete", key, "delete_object", Key=key, IfMatch=fields.quoted(expect.etag))
            except NotSupported:
                self._client.call("delete", key, "delete_object", Key=key)
        except ObjectNotFound:
            return

    def list(self, prefix: str, *, shallow: bool = False) -> Iterator[ObjectInfo]:
        """Every object under ``prefix``, or of one level, in key order, 1,000 a request."""
        asked: dict[str, Any] = {"Prefix": prefix, "MaxKeys": 1000} | ({"Delimiter": "/"} if shallow else {})
        token: dict[str, Any] = {}
        where = prefix or self._url
        pages = fields.Pages("list", prefix, where)
        while True:
            page = self._client.call("list", where, "list_objects_v2", **asked, **token)
            found = [_listed(entry) for entry in page.get("Contents", ())]
            below = [folder_info(entry["Prefix"]) for entry in page.get("CommonPrefixes", ())]
            pages.check([(info.key, str(kind)) for kind, infos in enumerate((found, below)) for info in infos])
            if shallow:
                found = [info for info in found if not info.key.endswith("/")]  # the folder's own marker
                found = sorted(found + below, key=lambda info: info.key.encode())
            yield from found
            if not page["IsTruncated"]:
                return
            if not page.get("NextContinuationToken"):
                raise StoreTransient("list", where, "the store does not say where its listing goes on")
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def discard(self, upload: Multipart) -> None:
        """Give up a multipart upload and free its parts."""
        self._uploads.abort(upload)

    def close(self) -> None:
        """Let connections go. Calls that come later raise StoreError."""
        self._client.close()

    @property
    def _url(self) -> str:
        return f"s3://{self._settings.bucket}"

    def _put_whole(self, key: str, body: Body, attributes: Attributes, expect: Version | None) -> Version:
        data = body.read(0, body.size)
        sent = fields.checksum(body.sha256)
        answer = self._client.call(
            "store", key, "put_object", size=body.size, Key=key, Body=data,
            ChecksumAlgorithm="SHA256", ChecksumSHA256=sent,
            **fields.described(attributes), **self._settings.encryption, **fields.condition(expect),
        )  # fmt: skip
        if answer.get("ChecksumSHA256", sent) != sent:
            raise IntegrityError("store", key, "the store confirmed another SHA-256 than was sent")
        return fields.version(answer)

    def _put_parts(
        self,
        key: str,
        body: Body,
        attributes: Attributes,
        expect: Version | None,
        resume: Resume | None,
    ) -> Version:
        def check() -> None:
            if expect is not None or not self._probe.answer:
                self._compare(key, expect)

        try:
            return self._uploads.put(key, body, attributes, expect=expect, resume=resume, check=check)
        except UploadGone:
            # All parts were there: perhaps it was completed, and only the answer got lost.
            found = self.head(key)
            if found.sha256 == body.sha256:
                return found.version
            raise

    def _put_tail(
        self, key: str, body: Body, attributes: Attributes, expect: Version, resume: Resume | None, tail: Tail
    ) -> Version:
        """Append to what is there. Where the store refuses that, send all of it; from now on if it never can."""
        described = fields.described(attributes)
        try:
            return self._uploads.append(
                key, body, tail, described, expect=expect, check=lambda: self._compare(key, expect)
            )
        except (StorePermanent, PartsRefused) as error:
            self._appends = not isinstance(error, NotSupported)
            return self.put(key, body, attributes, expect=expect, resume=resume).version

    def _copy_whole(
        self, source: str, target: str, attributes: Attributes | None, source_version: Version, expect: Version | None
    ) -> Version:
        replaced: dict[str, Any] = {}
        if attributes is not None:
            replaced = fields.described(attributes) | {"MetadataDirective": "REPLACE", "TaggingDirective": "REPLACE"}
        answer = self._client.call(
            "copy", target, "copy_object", patience=PATIENCE, Key=target,
            CopySource={"Bucket": self._settings.bucket, "Key": source},
            CopySourceIfMatch=fields.quoted(source_version.etag),
            **replaced, **self._settings.encryption, **fields.condition(expect),
        )  # fmt: skip
        return fields.version({"ETag": answer["CopyObjectResult"]["ETag"], "VersionId": answer.get("VersionId")})

    def _compare(self, key: str, expect: Version | None) -> ObjectInfo | None:
        """The newest version of ``key``. Raises PreconditionFailed unless it is ``expect``, also if there is none."""
        try:
            found = self.head(key)
        except ObjectNotFound as error:
            if expect is None:
                return None
            raise PreconditionFailed("store", key, "the object is gone") from error
        if expect is None:
            raise PreconditionFailed("store", key, "there is an object already")
        if not fields.same(found.version, expect):
            raise PreconditionFailed("store", key, f"it is version {found.version.etag} now, not {expect.etag}")
        return found

    def _check_folder(self, key: str) -> None:
        """See why a create was refused where there is no object: SeaweedFS has folders.

        Raises StoreNameTaken if objects ``key/...`` are there. A folder that they left behind empty is removed, so that
        the next try works; on other stores that deletes nothing, since nothing is listed under its name.
        """
        with contextlib.suppress(ObjectNotFound):
            self.head(key)
            return
        if next(self.list(key + "/"), None) is not None:
            cause = "this store cannot take an object 'x' when it has 'x/y' already"
            raise StoreNameTaken("store", key, cause)
        self._client.call("make room for", key, "delete_object", Key=key + "/")

    def _nothing(self, key: str, version: Version | None) -> Download:
        """The answer to an empty range: HTTP has no way to ask for one."""
        info = self.head(key)
        if version is not None and info.version.etag != version.etag:
            raise PreconditionFailed("read", key, f"it is version {info.version.etag} now")
        return Download(info, iter(()))

    def _check_bucket(self) -> None:
        """Raise NoSuchBucket if that is why an object is not there: the answer to HEAD cannot say so."""
        if time.monotonic() - self._bucket_seen < REMEMBER:
            return
        try:
            self._client.call("ask for", self._url, "head_bucket")
        except ObjectNotFound as error:
            raise NoSuchBucket("ask for", self._url, "there is no such bucket") from error
        except StoreDenied:
            pass
        self._bucket_seen = time.monotonic()


def _listed(entry: Mapping[str, Any]) -> ObjectInfo:
    """An object of a listing. Raises StoreTransient for one that no store can have."""
    try:
        return fields.info(entry["Key"], entry, fields.size(entry["Size"]))
    except (KeyError, ValueError) as error:
        raise StoreTransient("list", str(entry.get("Key", "")), f"the listing is none: {error}") from error
