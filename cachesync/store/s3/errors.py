"""What an S3 answer, or the lack of one, means. Pure.

First the error code of the answer decides, then its HTTP status, then the type of the exception that the client raised.
s3fs turns botocore's ClientError into an OSError and keeps the ClientError as ``__cause__``.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from types import ModuleType
from typing import Any

from cachesync.model.errors import (
    CacheSyncError,
    FileChanging,
    NoSuchBucket,
    ObjectNotFound,
    PreconditionFailed,
    StoreArchived,
    StoreCredentials,
    StoreDenied,
    StorePermanent,
    StoreSlowDown,
    StoreTransient,
    StoreUnreachable,
)
from cachesync.store.s3 import origin
from cachesync.store.s3.connection import ConnectFailed, NoDocument

MAX_CAUSE = 400
"""Characters of a server's message that are shown: some servers answer with a page of HTML."""


SERVER_ERROR = 500

MAX_LINKS = 8
"""Exceptions that are followed when one wraps another."""


class UploadGone(StoreTransient):
    """The multipart upload is not known to the store: completed, aborted or expired. A new one must be started."""


class PartsRefused(StoreTransient):
    """The store has other parts than we think. The upload must be given up and sent again."""


class WriteConflict(StoreTransient):
    """Another conditional write of the key was in progress. A PUT is retried; a multipart upload starts again:
    https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html"""


class ForeignAnswer(StoreTransient):
    """The response does not come from S3."""

    hint = "a proxy or captive portal may have responded; try again when the network is up"


class NotSupported(StorePermanent):
    """The store does not implement what was asked."""

    hint = "the store does not implement this S3 operation"


class WrongRegion(StorePermanent):
    """The bucket is at another address. ``region`` is the one that the store names, or empty."""

    hint = "set region and endpoint to the bucket's; redirects to another host are not followed"
    region = ""


_ELSEWHERE = frozenset({
    "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect", "TemporaryRedirect",
})  # fmt: skip
_REDIRECTS = range(300, 400)
_REGION = re.compile(r"[a-z0-9](-?[a-z0-9]){0,31}")
"""What a region can be called at any provider."""

_BY_CODE: dict[str, type[CacheSyncError]] = {
    "AccessDenied": StoreDenied,
    "AccountProblem": StoreDenied,
    "AllAccessDisabled": StoreDenied,
    "InvalidObjectState": StoreArchived,
    "BadDigest": FileChanging,
    "XAmzContentChecksumMismatch": FileChanging,
    "XAmzContentSHA256Mismatch": StoreTransient,
    "ConditionalRequestConflict": WriteConflict,
    "OperationAborted": StoreTransient,
    "IncompleteBody": StoreTransient,
    "InternalError": StoreTransient,
    "RequestTimeout": StoreTransient,
    "ServiceUnavailable": StoreTransient,
    "SlowDown": StoreSlowDown,
    "SlowDownRead": StoreSlowDown,
    "SlowDownWrite": StoreSlowDown,
    "RequestLimitExceeded": StoreSlowDown,
    "TooManyRequests": StoreSlowDown,
    "CredentialsNotSupported": StoreCredentials,
    "ExpiredToken": StoreCredentials,
    "ExpiredTokenException": StoreCredentials,
    "InvalidAccessKeyId": StoreCredentials,
    "InvalidClientTokenId": StoreCredentials,
    "InvalidSecurity": StoreCredentials,
    "InvalidToken": StoreCredentials,
    "MissingSecurityHeader": StoreCredentials,
    "RequestExpired": StoreCredentials,
    "SignatureDoesNotMatch": StoreCredentials,
    "TokenRefreshRequired": StoreCredentials,
    "UnrecognizedClientException": StoreCredentials,
    "NoSuchBucket": NoSuchBucket,
    "NoSuchKey": ObjectNotFound,
    "NoSuchVersion": ObjectNotFound,
    "NoSuchUpload": UploadGone,
    "InvalidPart": PartsRefused,
    "InvalidPartOrder": PartsRefused,
    "EntityTooSmall": PartsRefused,
    "PreconditionFailed": PreconditionFailed,
    "MethodNotAllowed": NotSupported,
    "NotImplemented": NotSupported,
    "KeyTooLongError": StorePermanent,
    "RequestTimeTooSkewed": StorePermanent,
}

_THROTTLED = "hrottl"
"""Part of each code that asks for fewer requests: Throttling, RequestThrottled, ThrottlingException. The last one comes
from AWS KMS; S3 returns it unchanged or as KMS.ThrottlingException."""

_BY_STATUS: dict[int, type[CacheSyncError]] = {
    401: StoreCredentials,
    403: StoreDenied,
    404: ObjectNotFound,
    408: StoreTransient,
    409: StoreTransient,
    412: PreconditionFailed,
    425: StoreTransient,
    429: StoreSlowDown,
    405: NotSupported,
    501: NotSupported,
    503: StoreSlowDown,
    505: StorePermanent,
}

_HINTS: dict[str, str] = {
    "RequestTimeTooSkewed": "set this machine's clock (NTP); S3 refuses requests that are 15 minutes off",
    "KeyTooLongError": "shorten the path; a key may have 1024 bytes",
    "InvalidBucketName": "correct the store setting",
    "EntityTooLarge": "the store does not take an object of this size",
    "MetadataTooLarge": "metadata may have 2 KiB in all",
}


class Refused(Exception):
    """The store said no. ``response`` is what botocore makes of such an answer."""

    def __init__(self, response: Mapping[str, Any]) -> None:
        super().__init__(response)
        self.response = response


def classify(error: BaseException, operation: str, path: str) -> CacheSyncError:
    """The cachesync error that says what ``error`` means.

    ``error`` is whatever was raised while S3 did ``operation`` on ``path``; one of ours comes back as it is.
    """
    if isinstance(error, CacheSyncError):
        return error
    if (response := _response(error)) is not None:
        return from_response(response, operation, path)
    if isinstance(error, NoDocument):
        return foreign(operation, path, str(error))
    kind, hint = _by_type(error)
    return kind(operation, path, _describe(error), hint)


@contextlib.contextmanager
def classified(operation: str, path: str) -> Iterator[None]:
    """Raise what goes wrong inside as the error that ``classify`` makes of it."""
    try:
        yield
    except Exception as error:
        ours = classify(error, operation, path)
        if ours is error:
            raise
        raise ours from error


def from_response(response: Mapping[str, Any], operation: str, path: str) -> CacheSyncError:
    """Classify a parsed error answer: botocore's ``{"Error": {...}, "ResponseMetadata": {...}}``."""
    code = str(response.get("Error", {}).get("Code") or "")
    message = str(response.get("Error", {}).get("Message") or "")
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode") or (code if code.isdecimal() else 0))
    if origin.is_foreign(response):
        return foreign(operation, path, f"{status or 'it'} without a request id")
    region = _region(response)
    # A HEAD that was signed for another region is refused with no more than this status and the region.
    is_untold = code == str(HTTPStatus.BAD_REQUEST.value) and region
    elsewhere = code in _ELSEWHERE or status in _REDIRECTS or is_untold
    kind = WrongRegion if elsewhere else _kind(code, status)
    cause = f"{message} ({code or status})" if message and message != code else f"the store answered {code or status}"
    error = kind(operation, path, _shorten(cause), _HINTS.get(code, ""))
    if isinstance(error, WrongRegion) and region:
        error.cause = f"{error.cause}; the bucket is in {region}"
        error.region = region
    return error


def _region(response: Mapping[str, Any]) -> str:
    """The bucket's region, as far as the answer names one."""
    told = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region")
    told = told or response.get("Error", {}).get("Region")
    return told if isinstance(told, str) and _REGION.fullmatch(told) else ""


def foreign(operation: str, path: str, flaw: str) -> ForeignAnswer:
    """Return the error for a response that does not come from S3; ``flaw`` is the reason."""
    return ForeignAnswer(operation, path, f"the response does not come from S3: {flaw}")


def check_origin(operation: str, path: str, method: str, said: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Raise ForeignAnswer if a successful response to ``method`` does not come from S3. ``metadata`` is botocore's
    ResponseMetadata."""
    flaw = origin.flaw(method, metadata["HTTPStatusCode"], metadata["HTTPHeaders"], said)
    if flaw is not None:
        raise foreign(operation, path, flaw)


def _kind(code: str, status: int) -> type[CacheSyncError]:
    if _THROTTLED in code:
        return StoreSlowDown
    known = _BY_CODE.get(code) or _BY_STATUS.get(status)
    return known or (StoreTransient if status >= SERVER_ERROR else StorePermanent)


def has_answer(error: BaseException) -> bool:
    """Whether the server said something, and it was this error."""
    return _response(error) is not None


def is_silence(error: BaseException) -> bool:
    """Whether the server took the request, and then said nothing for too long."""
    library = _library_errors()
    return library is not None and library.is_silence(error)


def _response(error: BaseException) -> Mapping[str, Any] | None:
    """The error answer of the server, if there was one."""
    for link in (error, error.__cause__):
        response = getattr(link, "response", None)  # of botocore's ClientError too
        if isinstance(response, Mapping) and "Error" in response:
            return response
    return None


def _by_type(error: BaseException) -> tuple[type[CacheSyncError], str]:
    """Class and hint of an exception that carries no answer of the server."""
    links = list(_links(error))
    if "ssl" in sys.modules and any(isinstance(link, sys.modules["ssl"].SSLCertVerificationError) for link in links):
        return StorePermanent, "is the endpoint's certificate trusted here? AWS_CA_BUNDLE names another authority"
    if any(isinstance(link, ConnectionRefusedError | ConnectFailed) for link in links):
        return StoreUnreachable, ""
    library = _library_errors()
    kind = library.kind_of(links) if library else None
    if kind is None:
        kind = StoreTransient if isinstance(error, OSError | EOFError | RuntimeError) else StorePermanent
    return kind, ""


def _library_errors() -> ModuleType | None:
    """What the libraries raise, once they are imported: before that they have raised nothing."""
    if "botocore" not in sys.modules:
        return None
    from cachesync.store.s3 import library_errors

    return library_errors


def _links(error: BaseException) -> Iterator[BaseException]:
    """``error`` and what botocore and aiohttp wrapped in it."""
    library = _library_errors()
    seen = 0
    link: object = error
    while isinstance(link, BaseException) and seen < MAX_LINKS:
        yield link
        inner = library.wrapped(link) if library else None
        link = inner or link.__cause__ or getattr(link, "os_error", None)
        seen += 1


def _describe(error: BaseException) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    return _shorten(str(error) or type(error).__name__)


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_CAUSE else line[:MAX_CAUSE] + "..."
