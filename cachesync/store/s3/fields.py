"""Between our values and the fields of S3's requests and answers. Pure."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any
from urllib.parse import urlencode

from cachesync.model.errors import StorePermanent, StoreTransient
from cachesync.model.values import Attributes, ObjectInfo, Version

MAX_BARREN = 100
"""Pages of a listing in a row that show nothing and say that more follow, at most."""

_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HEADERS = ("CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage")


def checksum(digest: str) -> str:
    """A hex SHA-256 as S3 writes it."""
    return b64encode(bytes.fromhex(digest)).decode()


def condition(expect: Version | None) -> dict[str, Any]:
    """The parameters that make a write conditional on what it replaces."""
    return {"IfNoneMatch": "*"} if expect is None else {"IfMatch": quoted(expect.etag)}


def quoted(etag: str) -> str:
    """An ETag as a header has it; ours have no quotes."""
    return f'"{etag}"'


def version(answer: Mapping[str, Any]) -> Version:
    """The version that an answer names. The id "null" is S3's word for an object from before versioning."""
    version_id = answer.get("VersionId")
    return Version(str(answer.get("ETag", "")).strip('"'), None if version_id in (None, "", "null") else version_id)


def same(found: Version, wanted: Version) -> bool:
    """Whether two versions are one; an id that only one side knows does not count."""
    if found.version_id and wanted.version_id and found.version_id != wanted.version_id:
        return False
    return found.etag == wanted.etag


def described(attributes: Attributes) -> dict[str, Any]:
    """The parameters that carry content type, metadata and tags."""
    fields: dict[str, Any] = {
        "ContentType": attributes.content_type,
        "Metadata": {name: _encoded(value) for name, value in attributes.metadata.items()},
    }
    if attributes.tags:
        fields["Tagging"] = urlencode(attributes.tags)
    return fields


def restated(answer: Mapping[str, Any], found: ObjectInfo) -> dict[str, Any]:
    """Return the parameters for a copy with new metadata. Such a copy loses the object's other headers, so they are
    taken from a HEAD's response. Tags are kept."""
    kind = found.content_type or "application/octet-stream"
    return {name: answer[name] for name in _HEADERS if name in answer} | described(Attributes(kind, found.metadata))


def info(key: str, answer: Mapping[str, Any], size: int) -> ObjectInfo:
    """What is said about an object of ``size`` bytes."""
    metadata = {name.lower(): _decoded(value) for name, value in answer.get("Metadata", {}).items()}
    modified = answer.get("LastModified")
    return ObjectInfo(
        key=key,
        size=size,
        version=version(answer),
        modified=modified.timestamp() if isinstance(modified, datetime) else 0.0,
        sha256=_digest(answer, metadata),
        metadata=metadata,
        content_type=answer.get("ContentType"),
    )


def found(operation: str, key: str, answer: Mapping[str, Any]) -> ObjectInfo:
    """What a HEAD or GET says about an object, be it asked for a range only. Raises StoreTransient if that is not how
    large it is: then the answer is not the store's."""
    content_range = answer.get("ContentRange")
    told = str(content_range).rpartition("/")[2] if content_range else answer.get("ContentLength")
    try:
        return info(key, answer, size(told))
    except ValueError:
        raise StoreTransient(operation, key, "the answer does not say how large it is") from None


def size(told: object) -> int:
    """A number of bytes, as text or number. Raises ValueError for what no object can have."""
    if not _NUMBER.fullmatch(str(told)):
        raise ValueError(f"{told!r:.40} is no size")
    return int(str(told))


def check_range(operation: str, key: str, answer: Mapping[str, Any], info: ObjectInfo, asked: range | None) -> None:
    """Raise StoreTransient if the answer to a GET is another part of the object than was ``asked`` for (None: all of
    it), StorePermanent if the store ignores ranges."""
    told = answer.get("ContentRange")
    wanted = range(info.size) if asked is None else range(asked.start, min(asked.stop, info.size))
    if not told:
        if wanted != range(info.size):
            raise StorePermanent(operation, key, "the store ignored the range that was asked for")
        return
    found = _CONTENT_RANGE.fullmatch(str(told))
    if asked is None or found is None or range(int(found[1]), int(found[2]) + 1) != wanted:
        raise StoreTransient(operation, key, "the answer is not the part that was asked for")


class Pages:
    """Notices a listing that goes round, by new tokens or old ones: no page may come twice, and no name twice in one.

    That keys ascend is no test: SeaweedFS lists folder by folder, and a bucket with versions in an order of its own.
    Pages 1, 2, 4, 8 and so on are remembered, one at a time (Brent's algorithm), so it costs the memory of a page.
    """

    def __init__(self, operation: str, prefix: str, where: str) -> None:
        self._operation = operation
        self._prefix = prefix
        self._where = where
        self._count = 0
        self._barren = 0
        self._held: Sequence[tuple[str, str]] = ()

    def check(self, names: Sequence[tuple[str, str]]) -> None:
        """Take the next page: each key with its version, if that is listed. Raises StoreTransient."""
        if not all(key.startswith(self._prefix) for key, _ in names):
            raise StoreTransient(self._operation, self._where, "the store lists a key of another prefix")
        self._barren = 0 if names else self._barren + 1
        if self._barren > MAX_BARREN or (names and names == self._held) or len(set(names)) != len(names):
            raise StoreTransient(self._operation, self._where, "the store lists the same names again and again")
        self._count += 1
        if self._count & (self._count - 1) == 0:
            self._held = names


def _digest(answer: Mapping[str, Any], metadata: Mapping[str, str]) -> str | None:
    """The object's SHA-256, as far as the store vouches for it.

    Metadata alone prove nothing: a tool that rewrites an object may carry them along. They are believed for an object
    in parts, whose own checksum is one of digests, and which no such tool sends with SHA-256.
    """
    whole = _whole_digest(answer)
    told = metadata.get("sha256", "") if answer.get("ChecksumSHA256") else ""
    return whole or (told if _SHA256.fullmatch(told) else None)


def _whole_digest(answer: Mapping[str, Any]) -> str | None:
    """The object's SHA-256 as hex. A composite one (of the parts' digests) is not a digest of the bytes."""
    value = answer.get("ChecksumSHA256")
    etag = str(answer.get("ETag", "")).strip('"')
    if not value or answer.get("ChecksumType") == "COMPOSITE" or "-" in str(value) or "-" in etag:
        return None
    try:
        digest = b64decode(value, validate=True)
    except ValueError:
        return None
    return digest.hex() if len(digest) == sha256().digest_size else None


def _encoded(value: str) -> str:
    """A metadata value in ASCII, as S3 itself writes others (RFC 2047); also one that a header would lose or
    trim: empty (SeaweedFS drops it), or with spaces at its ends.
    """
    if value and value.isascii() and value.isprintable() and value == value.strip() and not value.startswith("=?"):
        return value
    return f"=?UTF-8?B?{b64encode(value.encode('utf-8', 'surrogateescape')).decode()}?="


def _decoded(value: str) -> str:
    if not (value.startswith("=?") and value.endswith("?=")):
        return value
    from email.errors import HeaderParseError  # seldom needed, and slow to import
    from email.header import decode_header

    try:
        parts = decode_header(value)
        return "".join(
            part.decode(charset or "ascii", "surrogateescape") if isinstance(part, bytes) else part
            for part, charset in parts
        )
    except (HeaderParseError, LookupError, ValueError):
        return value
