"""From botocore's arguments to the lines of a signed request for one object, and from its answer's back. Pure.

Signing is https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import re
from base64 import b64decode
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

from cachesync.store.s3_connection import Garbled

ALGORITHM = "AWS4-HMAC-SHA256"
VERBS = {
    "get_object": "GET",
    "head_object": "HEAD",
    "put_object": "PUT",
    "delete_object": "DELETE",
    "upload_part": "PUT",
}
_MEANT = {
    "ChecksumAlgorithm": "x-amz-sdk-checksum-algorithm",
    "ChecksumMode": "x-amz-checksum-mode",
    "ChecksumSHA256": "x-amz-checksum-sha256",
    "ContentType": "content-type",
    "IfMatch": "if-match",
    "IfNoneMatch": "if-none-match",
    "Range": "range",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "Tagging": "x-amz-tagging",
}
_ASKED = {"PartNumber": "partNumber", "UploadId": "uploadId", "VersionId": "versionId"}
_KNOWN = _MEANT.keys() | _ASKED.keys() | {"Body", "Key", "Metadata"}
_TOLD = {
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
_SPACES = re.compile(r"\s+")


def is_plain(method: str, args: Mapping[str, Any]) -> bool:
    """Whether a call is one of those that this module knows to put down, as botocore would."""
    return method in VERBS and not args.keys() - _KNOWN


def query(args: Mapping[str, Any]) -> str:
    """What follows the "?", in the order that the signature wants."""
    return "&".join([f"{name}={quote(str(args[arg]), safe='~')}" for arg, name in _ASKED.items() if arg in args])


def headers(method: str, args: Mapping[str, Any], *, date: str, token: str | None, signed: bool) -> dict[str, str]:
    """The headers of a request, but for host and authorization. ``signed`` says whether its body is in the signature;
    ``date`` is as in ``20261125T101500Z``."""
    lines = {_MEANT[name]: value for name, value in args.items() if name in _MEANT}
    if metadata := args.get("Metadata"):
        lines |= {_METADATA + name.lower(): value for name, value in metadata.items()}
    if method == "get_object":
        lines["x-amz-checksum-mode"] = "ENABLED"
    body = args.get("Body", b"")
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


def authorization(verb: str, path: str, asked: str, lines: Mapping[str, str], scope: str, key: str, secret: str) -> str:
    """The ``authorization`` of a request for ``path`` and query ``asked`` with these headers, ``host`` among them,
    all of which are signed. ``scope`` is region, service and ``aws4_request``."""
    order = sorted(lines)
    names = ";".join(order)
    told = "".join([f"{name}:{_SPACES.sub(' ', lines[name].strip())}\n" for name in order])
    canonical = f"{verb}\n{path}\n{asked}\n{told}\n{names}\n{lines['x-amz-content-sha256']}"
    date = lines["x-amz-date"]
    scope = f"{date[:8]}/{scope}"
    text = f"{ALGORITHM}\n{date}\n{scope}\n{hashlib.sha256(canonical.encode('utf-8', 'surrogateescape')).hexdigest()}"
    seal = hmac.digest(_signing_key(secret, scope), text.encode(), "sha256")
    return f"{ALGORITHM} Credential={key}/{scope}, SignedHeaders={names}, Signature={seal.hex()}"


@functools.lru_cache(maxsize=2)
def _signing_key(secret: str, scope: str) -> bytes:
    """The key of one day."""
    seal = f"AWS4{secret}".encode()
    for word in scope.split("/"):
        seal = hmac.digest(seal, word.encode(), "sha256")
    return seal


def told(lines: Mapping[str, str]) -> dict[str, Any]:
    """What an answer's headers, with names in small letters, say by botocore's names. Raises Garbled."""
    said: dict[str, Any] = {name: lines[header] for header, name in _TOLD.items() if header in lines}
    if length := lines.get("content-length"):
        said["ContentLength"] = int(length)
    if modified := lines.get("last-modified"):
        try:
            said["LastModified"] = parsedate_to_datetime(modified)
        except (ValueError, OverflowError):
            raise Garbled("the answer's date is none") from None
    said["Metadata"] = {name[len(_METADATA) :]: value for name, value in lines.items() if name.startswith(_METADATA)}
    return said
