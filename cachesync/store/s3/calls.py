"""What is asked with botocore's arguments, as the lines of a request; and the lines of its answer back. Pure.

https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations_Amazon_Simple_Storage_Service.html
"""

from __future__ import annotations

import hashlib
from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from cachesync.store.s3.connection import Garbled

_CALLS = {
    "abort_multipart_upload": ("DELETE", {}),
    "complete_multipart_upload": ("POST", {}),
    "copy_object": ("PUT", {}),
    "create_multipart_upload": ("POST", {"uploads": ""}),
    "delete_object": ("DELETE", {}),
    "get_bucket_versioning": ("GET", {"versioning": ""}),
    "get_object": ("GET", {}),
    "head_bucket": ("HEAD", {}),
    "head_object": ("HEAD", {}),
    "list_objects_v2": ("GET", {"encoding-type": "url", "list-type": "2"}),
    "put_object": ("PUT", {}),
    "upload_part": ("PUT", {}),
    "upload_part_copy": ("PUT", {}),
}
"""The calls that are known here, each with its method and what its query always has."""

DOCUMENTS = frozenset({
    "complete_multipart_upload",
    "copy_object",
    "create_multipart_upload",
    "get_bucket_versioning",
    "list_objects_v2",
    "upload_part_copy",
})  # fmt: skip
"""The calls whose answer is a document (``s3_xml.read``)."""

_MEANT = {
    "CacheControl": "cache-control",
    "ChecksumAlgorithm": "x-amz-sdk-checksum-algorithm",
    "ChecksumMode": "x-amz-checksum-mode",
    "ChecksumSHA256": "x-amz-checksum-sha256",
    "ContentDisposition": "content-disposition",
    "ContentEncoding": "content-encoding",
    "ContentLanguage": "content-language",
    "ContentType": "content-type",
    "CopySourceIfMatch": "x-amz-copy-source-if-match",
    "CopySourceRange": "x-amz-copy-source-range",
    "IfMatch": "if-match",
    "IfNoneMatch": "if-none-match",
    "MetadataDirective": "x-amz-metadata-directive",
    "Range": "range",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "Tagging": "x-amz-tagging",
    "TaggingDirective": "x-amz-tagging-directive",
}
_ASKED = {
    "ContinuationToken": "continuation-token",
    "Delimiter": "delimiter",
    "MaxKeys": "max-keys",
    "PartNumber": "partNumber",
    "Prefix": "prefix",
    "UploadId": "uploadId",
    "VersionId": "versionId",
}
_KNOWN = _MEANT.keys() | _ASKED.keys() | {"Body", "CopySource", "Key", "Metadata", "MultipartUpload"}
_TOLD = {
    "cache-control": "CacheControl",
    "content-disposition": "ContentDisposition",
    "content-encoding": "ContentEncoding",
    "content-language": "ContentLanguage",
    "etag": "ETag",
    "x-amz-version-id": "VersionId",
    "content-range": "ContentRange",
    "content-type": "ContentType",
    "x-amz-checksum-sha256": "ChecksumSHA256",
    "x-amz-checksum-type": "ChecksumType",
}
_METADATA = "x-amz-meta-"
_UNSIGNED = "UNSIGNED-PAYLOAD"
_NOTHING = hashlib.sha256().hexdigest()


def is_known(method: str, args: Mapping[str, Any]) -> bool:
    """Whether a call is one of those that this module knows to put down, as botocore would."""
    return method in _CALLS and not args.keys() - _KNOWN


def request(method: str, base: str, args: Mapping[str, Any]) -> tuple[str, str, str, bytes]:
    """The method of HTTP, the path (``base`` is the bucket's), the query in the order that the signature wants, and the
    body."""
    verb, always = _CALLS[method]
    path = base + quote(args["Key"], safe="/~") if "Key" in args else base.rstrip("/") or "/"
    asked = dict(always)
    for name in args.keys() & _ASKED.keys():
        asked[_ASKED[name]] = quote(str(args[name]), safe="~")
    query = "&".join(map("=".join, sorted(asked.items()))) if asked else ""
    if parts := args.get("MultipartUpload"):
        from cachesync.store.s3.xml import complete

        return verb, path, query, complete(parts["Parts"])
    return verb, path, query, args.get("Body", b"")


def headers(
    method: str, args: Mapping[str, Any], body: bytes, *, date: str, token: str | None, signed: bool
) -> dict[str, str]:
    """The headers of a request, but for host and authorization. ``signed`` says whether its body is in the signature;
    ``date`` is as in ``20261125T101500Z``."""
    lines = {_MEANT[name]: value for name, value in args.items() if name in _MEANT}
    if metadata := args.get("Metadata"):
        lines |= {_METADATA + name.lower(): value for name, value in metadata.items()}
    if method == "get_object":
        lines["x-amz-checksum-mode"] = "ENABLED"
    elif method == "create_multipart_upload" and "ChecksumAlgorithm" in args:
        lines["x-amz-checksum-algorithm"] = lines.pop("x-amz-sdk-checksum-algorithm")
    elif source := args.get("CopySource"):
        version = f"?versionId={source['VersionId']}" if "VersionId" in source else ""
        lines["x-amz-copy-source"] = quote(f"{source['Bucket']}/{source['Key']}", safe="/~") + version
    if not body:
        lines["x-amz-content-sha256"] = _NOTHING
    elif not signed:
        lines["x-amz-content-sha256"] = _UNSIGNED
    else:
        checksum = lines.get("x-amz-checksum-sha256")
        digest = b64decode(checksum).hex() if checksum else hashlib.sha256(body).hexdigest()
        lines["x-amz-content-sha256"] = digest
    lines["x-amz-date"] = date
    if token:
        lines["x-amz-security-token"] = token
    return lines


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def moment(text: str) -> datetime:
    """A header's date: as all write it by now (RFC 9110, section 5.6.7), or in an older form. Raises ValueError."""
    try:
        _, day, month, year, clock, zone = text.split(" ")
        hour, minute, second = clock.split(":")
        if zone == "GMT":
            number = _MONTHS.index(month) + 1
            return datetime(int(year), number, int(day), int(hour), int(minute), int(second), tzinfo=UTC)
    except ValueError:
        pass
    from email.utils import parsedate_to_datetime

    return parsedate_to_datetime(text)


def told(lines: Mapping[str, str]) -> dict[str, Any]:
    """What an answer's headers, with names in small letters, say by botocore's names. Raises Garbled."""
    said: dict[str, Any] = {name: lines[header] for header, name in _TOLD.items() if header in lines}
    if length := lines.get("content-length"):
        said["ContentLength"] = int(length)
    if modified := lines.get("last-modified"):
        try:
            said["LastModified"] = moment(modified)
        except (ValueError, OverflowError):
            raise Garbled("the answer's date is none") from None
    said["Metadata"] = {name[len(_METADATA) :]: value for name, value in lines.items() if name.startswith(_METADATA)}
    return said
