"""Checks whether a response comes from an S3 server, or from a proxy or captive portal. No I/O.

Both S3 clients use it. A response with a request id comes from S3 if it also has what S3 always sends for that call.
AWS documents ``x-amz-request-id`` and ``x-amz-id-2`` for every response. SeaweedFS, MinIO and Ceph send the first, moto
``x-amzn-requestid`` (but not with a 416), Google's XML API ``x-guploader-uploadid``. Without an id, these are accepted:
an S3 document, a 204 to a DELETE, an ETag without an HTML page.
https://docs.aws.amazon.com/AmazonS3/latest/API/RESTCommonResponseHeaders.html
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

_IDS = frozenset({
    "x-amz-request-id", "x-amz-id-2", "x-amzn-requestid", "x-guploader-uploadid", "x-amz-version-id",
    "x-amz-bucket-region",
})  # fmt: skip
"""Headers that only S3 servers send. ``x-amz-cf-id`` is not one: CloudFront sends it with any page."""

_OWN = ("x-amz-meta-", "x-amz-checksum-")

_DOCUMENTS = {
    "complete_multipart_upload": ("ETag",),
    "copy_object": ("CopyObjectResult", "ETag"),
    "create_multipart_upload": ("UploadId",),
    "get_object_tagging": ("TagSet",),
    "list_object_versions": ("IsTruncated",),
    "list_objects_v2": ("IsTruncated",),
    "upload_part_copy": ("CopyPartResult", "ETag"),
}
"""The field that the response document of a call always has, by botocore's names."""

_READS = frozenset({"get_object", "head_object"})
_WRITES = frozenset({"put_object", "upload_part"})
_DELETIONS = frozenset({"delete_object", "abort_multipart_upload"})

_PASSING = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
_LASTING = frozenset({HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.HTTP_VERSION_NOT_SUPPORTED})
"""The statuses from 500 on that are not retried."""


def flaw(method: str, status: int, headers: Mapping[str, str], said: Mapping[str, Any]) -> str | None:
    """Return why a successful response does not come from S3; None if it does.

    ``headers`` have lower-case names; ``said`` is the response by botocore's names.
    """
    named = is_named(headers)
    if method in _DOCUMENTS:
        return None if _says(said, _DOCUMENTS[method]) else f"its document has no {_DOCUMENTS[method][-1]}"
    if method in _READS or method in _WRITES:
        if not said.get("ETag"):
            return "it has no ETag"
        page = _is_page(headers) if method in _READS else _has_body(headers)
        return "it has no request id" if page and not named else None
    if method in _DELETIONS:
        if _has_body(headers) and status != HTTPStatus.NO_CONTENT:
            return "it has a body"
        return None if named or status == HTTPStatus.NO_CONTENT else "it has no request id"
    return None if named else "it has no request id"


def is_foreign(response: Mapping[str, Any]) -> bool:
    """Whether an error response does not come from the store: it has neither an S3 document nor a request id.

    ``response`` has botocore's form. Errors that are retried anyway count as the store's.
    """
    metadata = response.get("ResponseMetadata", {})
    code = str(response.get("Error", {}).get("Code") or "")
    status = int(metadata.get("HTTPStatusCode") or (code if code.isdecimal() else 0))
    if code and not code.isdecimal():
        return False
    if status in _PASSING or (status >= HTTPStatus.INTERNAL_SERVER_ERROR and status not in _LASTING):
        return False
    return not is_named(metadata.get("HTTPHeaders", {}))


def is_named(headers: Mapping[str, str]) -> bool:
    """Whether a response has a header that only S3 servers send."""
    return not _IDS.isdisjoint(headers) or any(name.startswith(_OWN) for name in headers)


def _says(said: Mapping[str, Any], path: tuple[str, ...]) -> bool:
    value: Any = said
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value is not None and value != ""


def _is_page(headers: Mapping[str, str]) -> bool:
    return headers.get("content-type", "").lower().startswith(("text/html", "application/xhtml"))


def _has_body(headers: Mapping[str, str]) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
