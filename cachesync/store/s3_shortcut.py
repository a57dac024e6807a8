"""GETs past botocore, once it has shown how: the same request over the same connections, signed and read here.

botocore takes most of a millisecond for a GET, in the one thread that all requests share; this takes a quarter of it.
Signing is https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import aiohttp
from botocore.awsrequest import AWSPreparedRequest
from botocore.exceptions import ClientError
from botocore.parsers import RestXMLParser

_SIGNATURE = "AWS4-HMAC-SHA256"
_SCOPE = "/s3/aws4_request"
_MEANT = {"IfMatch": "if-match", "Range": "range"}
_KEPT = frozenset({"user-agent", "x-amz-content-sha256", "x-amz-checksum-mode"})
_TOLD = {
    "etag": "ETag",
    "x-amz-version-id": "VersionId",
    "content-range": "ContentRange",
    "content-type": "ContentType",
    "x-amz-checksum-sha256": "ChecksumSHA256",
    "x-amz-checksum-type": "ChecksumType",
}
_METADATA = "x-amz-meta-"
_OK = frozenset({200, 206})
_FIRST_ERROR = 400


class _Pattern(NamedTuple):
    """What the GETs of one client have in common."""

    client: Any
    base: str
    headers: Mapping[str, str]
    scope: str


class Shortcut:
    """How the objects of one bucket are read. On the loop only."""

    def __init__(self) -> None:
        self._pattern: _Pattern | None = None

    def learn(self, client: Any, key: str, response: Any) -> None:
        """Take the request that led to an answer for the pattern of others, if it is one that can be signed here."""
        if not isinstance(response, aiohttp.ClientResponse) or response.history:
            return
        url, sent = str(response.url), response.request_info.headers
        signature, _, rest = sent.get("Authorization", "").partition(" Credential=")
        if signature == _SIGNATURE and url.endswith(name := "/" + _quoted(key)):
            headers = {name.lower(): value for name, value in sent.items() if name.lower() in _KEPT}
            scope = rest.partition(",")[0].split("/", 2)[2]
            if scope.endswith(_SCOPE):  # S3 Express signs with the credentials of a session
                self._pattern = _Pattern(client, url.removesuffix(name) + "/", headers, scope)

    async def get(self, client: Any, key: str, args: Mapping[str, str]) -> dict[str, Any] | None:
        """The answer as botocore would have it, but for its ``Body``, an aiohttp response; None if it is not known how
        to ask. Raises what botocore does."""
        pattern = self._pattern
        if pattern is None or pattern.client is not client or args.keys() - _MEANT.keys():
            return None
        credentials = await client._request_signer._credentials.get_frozen_credentials()  # noqa: SLF001
        url = pattern.base + _quoted(key)
        headers = {**pattern.headers, **{_MEANT[name]: value for name, value in args.items()}}
        headers["x-amz-date"] = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        if credentials.token:
            headers["x-amz-security-token"] = credentials.token
        headers["authorization"] = sign(url, headers, pattern.scope, credentials.access_key, credentials.secret_key)
        request = AWSPreparedRequest("GET", url, headers, None, stream_output=True)
        answer = await client._endpoint.http_session.send(request)  # noqa: SLF001
        if answer.status_code in _OK:
            return _head(answer.headers) | {"Body": answer.raw}
        if answer.status_code < _FIRST_ERROR:  # botocore knows what to do about a bucket that is elsewhere
            answer.raw.close()
            self._pattern = None
            return None
        told = {"status_code": answer.status_code, "headers": answer.headers, "body": await answer.content}
        raise ClientError(RestXMLParser().parse(told, None), "GetObject")


def _quoted(key: str) -> str:
    return quote(key, safe="/~")


def sign(url: str, headers: Mapping[str, str], scope: str, key: str, secret: str) -> str:
    """The ``authorization`` of a GET with these headers, whose names are in small letters and two of which are
    ``x-amz-date`` and ``x-amz-content-sha256``. ``scope`` is region, service and ``aws4_request``."""
    parts = urlsplit(url)
    signed = {name: value.strip() for name, value in headers.items() if name != "user-agent"} | {"host": parts.netloc}
    names = ";".join(sorted(signed))
    lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
    canonical = f"GET\n{parts.path}\n\n{lines}\n{names}\n{headers['x-amz-content-sha256']}"
    scope = f"{headers['x-amz-date'][:8]}/{scope}"
    text = f"{_SIGNATURE}\n{headers['x-amz-date']}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    seal = f"AWS4{secret}".encode()
    for word in (*scope.split("/"), text):
        seal = hmac.digest(seal, word.encode(), "sha256")
    return f"{_SIGNATURE} Credential={key}/{scope}, SignedHeaders={names}, Signature={seal.hex()}"


def _head(headers: Mapping[str, str]) -> dict[str, Any]:
    """What an answer's headers say, by botocore's names."""
    told: dict[str, Any] = {name: headers[header] for header, name in _TOLD.items() if header in headers}
    told["ContentLength"] = int(headers["content-length"])
    if modified := headers.get("last-modified"):
        told["LastModified"] = parsedate_to_datetime(modified)
    told["Metadata"] = {
        name[len(_METADATA) :]: value for name, value in headers.items() if name.lower().startswith(_METADATA)
    }
    return told
