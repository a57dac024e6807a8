"""Past versions of objects in a bucket, and links to objects (``store.base.Archive``)."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from cachesync.model.errors import ObjectNotFound, StorePermanent, StoreTransient
from cachesync.model.values import ObjectInfo, PastObject, Version
from cachesync.model.verbs import check_expires
from cachesync.store.base import Download
from cachesync.store.s3 import fields
from cachesync.store.s3.client import PATIENCE, S3Client
from cachesync.store.s3.download import Pieces, download
from cachesync.store.s3.multipart import Uploads

"""Seconds that a link may work: seven days, S3's own limit. Temporary credentials end sooner, and the link with them.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-presigned-url.html"""

NULL = "null"
"""S3's id for the version of an object that was stored while the bucket kept none."""

Compare = Callable[[str, Version | None], ObjectInfo | None]
"""What stands at a key now; raises PreconditionFailed or ObjectNotFound if it is not what was expected."""


class S3Archive:
    """An ``Archive`` of one bucket. Without versioning each object has one version, which is the newest."""

    def __init__(self, client: S3Client, uploads: Uploads, compare: Compare) -> None:
        self._client = client
        self._uploads = uploads
        self._compare = compare

    def history(self, prefix: str) -> Iterator[PastObject]:
        """Every version and deletion, 1,000 a request. ``version_id`` is None for a newest version that has no id."""
        where = prefix or f"s3://{self._client.settings.bucket}"
        marker: dict[str, Any] = {}
        pages = fields.Pages("list the versions of", prefix, where)
        while True:
            page = self._client.call(
                "list the versions of", where, "list_object_versions", Prefix=prefix, MaxKeys=1000, **marker
            )
            found = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
            try:
                past = [_past(entry) for entry in found]
            except (KeyError, ValueError) as error:
                raise StoreTransient("list the versions of", where, f"the listing is none: {error!r}") from error
            pages.check([(one.key, str(entry.get("VersionId"))) for one, entry in zip(past, found, strict=True)])
            yield from _newest_first(past)
            if not page.get("IsTruncated"):
                return
            names = {"KeyMarker": "NextKeyMarker", "VersionIdMarker": "NextVersionIdMarker"}
            following = {name: page[next_name] for name, next_name in names.items() if page.get(next_name)}
            if not following:
                raise StoreTransient("list the versions of", where, "the store does not say where its listing goes on")
            marker = following

    def read(self, key: str, version_id: str) -> Download:
        """Read a past version, verified like the newest one. One request."""
        with _no_such_version("read", key, version_id):
            info, source, first = download(self._client, key, version_id=version_id)
        return Download(info, Pieces(source, first, info, info.size))

    def revive(self, key: str, version_id: str, *, expect: Version | None, without: Collection[str] = ()) -> ObjectInfo:
        """Copy a past version onto its key, inside the bucket. One that is the newest already stays as it is."""
        newest = self._compare(key, expect)
        if newest is not None and (newest.version.version_id or NULL) == version_id:
            return newest
        with _no_such_version("restore", key, version_id):
            answer = self._client.call(
                "restore", key, "head_object", Key=key, VersionId=version_id, ChecksumMode="ENABLED"
            )
        found = fields.found("restore", key, answer)
        kept = {name: value for name, value in found.metadata.items() if name not in without}
        replaced: dict[str, Any] = {}
        if kept != found.metadata:
            found = replace(found, metadata=kept)
            replaced = fields.restated(answer, found) | {"MetadataDirective": "REPLACE"}
        if found.size > self._client.settings.copy_limit:
            described = fields.described(self._uploads.attributes(found, version_id))
            version = self._uploads.copy(
                key, found.version, found.size, key, described, source_id=version_id,
                expect=expect, check=lambda: self._compare(key, expect),
            )  # fmt: skip
        else:
            version = self._copy(key, version_id, found.version, expect, replaced)
        return ObjectInfo(key, found.size, version, time.time(), found.sha256, dict(found.metadata), found.content_type)

    def url(self, key: str, *, expires: float, version_id: str | None = None) -> str:
        """A signed GET. Works no longer than the credentials that sign it."""
        check_expires(expires)
        asked = {"Bucket": self._client.settings.bucket, "Key": key}
        if version_id is not None:
            asked["VersionId"] = version_id
        library = self._client.library
        return library.run(library.link("link to", key, asked, int(expires)))

    def _copy(
        self, key: str, version_id: str, version: Version, expect: Version | None, replaced: Mapping[str, Any]
    ) -> Version:
        settings = self._client.settings
        answer = self._client.call(
            "restore", key, "copy_object", patience=PATIENCE, Key=key,
            CopySource={"Bucket": settings.bucket, "Key": key, "VersionId": version_id},
            CopySourceIfMatch=fields.quoted(version.etag),
            **replaced, **settings.encryption, **fields.condition(expect),
        )  # fmt: skip
        return fields.version({"ETag": answer["CopyObjectResult"]["ETag"], "VersionId": answer.get("VersionId")})


@contextlib.contextmanager
def _no_such_version(operation: str, key: str, version_id: str) -> Iterator[None]:
    """S3's own words for a version that is a deletion (405), or an id that is none (InvalidArgument)."""
    try:
        yield
    except StorePermanent as error:
        if any(word in str(error.cause) for word in ("405", "MethodNotAllowed", "InvalidArgument")):
            raise ObjectNotFound(operation, key, f"version {version_id} holds no bytes") from error
        raise


def _past(entry: Mapping[str, Any]) -> PastObject:
    latest = bool(entry["IsLatest"])
    version_id = entry.get("VersionId")
    etag = str(entry.get("ETag", "")).strip('"')
    modified = entry.get("LastModified")
    return PastObject(
        key=entry["Key"],
        size=fields.size(entry.get("Size", 0)),
        # As fields.version has it; but a past one can only be asked for by this word.
        version=Version(etag, None if latest and version_id in ("", NULL) else version_id),
        modified=modified.timestamp() if isinstance(modified, datetime) else 0.0,
        latest=latest,
        deleted="ETag" not in entry,
    )


def _newest_first(page: list[PastObject]) -> Iterator[PastObject]:
    """A page in key order, the newest of a key first.

    S3 gives versions and deletions as two lists, each in order, with times in whole seconds. Of two that have the same
    time, the one goes first that makes versions and deletions take turns, as they do when files come and go.
    """
    by_key: defaultdict[str, tuple[deque[PastObject], deque[PastObject]]] = defaultdict(lambda: (deque(), deque()))
    for past in page:
        by_key[past.key][past.deleted].append(past)
    for _, (versions, deletions) in sorted(by_key.items(), key=lambda item: item[0].encode()):
        after_deletion = False
        while versions or deletions:
            after_deletion = not versions or (
                bool(deletions)
                and (deletions[0].latest, deletions[0].modified, not after_deletion)
                > (versions[0].latest, versions[0].modified, after_deletion)
            )
            yield (deletions if after_deletion else versions).popleft()
