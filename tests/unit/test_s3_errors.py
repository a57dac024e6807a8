"""The table of what an S3 answer means."""

from __future__ import annotations

import asyncio
import errno

import botocore.exceptions as boto
import pytest
from aiohttp import ClientPayloadError, ServerDisconnectedError
from s3fs.errors import translate_boto_error

from cachesync.model.errors import (
    FileChanging,
    IntegrityError,
    NoSuchBucket,
    ObjectNotFound,
    PreconditionFailed,
    StoreCredentials,
    StoreDenied,
    StorePermanent,
    StoreSlowDown,
    StoreTransient,
    StoreUnreachable,
)
from cachesync.store.s3.errors import (
    ForeignAnswer,
    NotSupported,
    PartsRefused,
    UploadGone,
    WriteConflict,
    WrongRegion,
    classified,
    classify,
)

URL = "http://127.0.0.1:1/bucket/key"


def answer(code: str, status: int, message: str = "a message") -> Exception:
    """The error as s3fs raises it."""
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": {"x-amz-request-id": "18ECB3A9F7A57684"}}
    response = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": metadata}
    translated = translate_boto_error(boto.ClientError(response, "PutObject"))
    assert isinstance(translated, Exception)
    return translated


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("SlowDown", 503, StoreSlowDown),
        ("TooManyRequests", 429, StoreSlowDown),
        ("429", 429, StoreSlowDown),
        ("503", 503, StoreSlowDown),
        ("ServiceUnavailable", 503, StoreTransient),
        ("InternalError", 500, StoreTransient),
        ("500", 500, StoreTransient),
        ("502", 502, StoreTransient),
        ("SomethingNew", 507, StoreTransient),
        ("RequestTimeout", 400, StoreTransient),
        ("IncompleteBody", 400, StoreTransient),
        ("ConditionalRequestConflict", 409, WriteConflict),
        ("ThrottlingException", 400, StoreSlowDown),
        ("KMS.ThrottlingException", 400, StoreSlowDown),
        ("KMS.KMSThrottlingException", 400, StoreSlowDown),
        ("RequestThrottled", 400, StoreSlowDown),
        ("KMS.DisabledException", 400, StorePermanent),
        ("OperationAborted", 409, StoreTransient),
        ("RequestTimeTooSkewed", 403, StorePermanent),
        ("KeyTooLongError", 400, StorePermanent),
        ("InvalidArgument", 400, StorePermanent),
        ("PermanentRedirect", 301, WrongRegion),
        ("AuthorizationHeaderMalformed", 400, WrongRegion),
        ("BadDigest", 400, FileChanging),
        ("AccessDenied", 403, StoreDenied),
        ("403", 403, StoreDenied),
        ("SignatureDoesNotMatch", 403, StoreCredentials),
        ("InvalidAccessKeyId", 403, StoreCredentials),
        ("ExpiredToken", 400, StoreCredentials),
        ("401", 401, StoreCredentials),
        ("NoSuchBucket", 404, NoSuchBucket),
        ("NoSuchKey", 404, ObjectNotFound),
        ("404", 404, ObjectNotFound),
        ("NoSuchUpload", 404, UploadGone),
        ("InvalidPart", 400, PartsRefused),
        ("PreconditionFailed", 412, PreconditionFailed),
        ("412", 412, PreconditionFailed),
        ("NotImplemented", 501, NotSupported),
    ],
)
def test_answers(code: str, status: int, kind: type[Exception]) -> None:
    error = classify(answer(code, status), "store", "a/b")
    assert type(error) is kind
    assert (error.operation, error.path) == ("store", "a/b")
    assert code in str(error)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (
            boto.EndpointConnectionError(endpoint_url=URL, error=ConnectionRefusedError(111, "refused")),
            StoreUnreachable,
        ),
        (boto.ConnectTimeoutError(endpoint_url=URL, error="slow"), StoreUnreachable),
        (boto.EndpointConnectionError(endpoint_url=URL, error=ConnectionResetError(104, "reset")), StoreTransient),
        (boto.ReadTimeoutError(endpoint_url=URL, error="slow"), StoreTransient),
        (boto.ConnectionClosedError(endpoint_url=URL, error=ServerDisconnectedError()), StoreTransient),
        (boto.IncompleteReadError(actual_bytes=1, expected_bytes=2), StoreTransient),
        (boto.HTTPClientError(error="whatever"), StoreTransient),
        (ClientPayloadError("short"), StoreTransient),
        (TimeoutError(), StoreTransient),
        (asyncio.CancelledError(), StoreTransient),
        (OSError(errno.ECONNRESET, "reset"), StoreTransient),
        (RuntimeError("Session is closed"), StoreTransient),
        (
            RuntimeError("Credentials were refreshed, but the refreshed credentials are still expired."),
            StoreCredentials,
        ),
        (boto.NoCredentialsError(), StoreCredentials),
        (boto.CredentialRetrievalError(provider="p", error_msg="m"), StoreCredentials),
        (boto.ProfileNotFound(profile="p"), StoreCredentials),
        (boto.FlexibleChecksumError(error_msg="differs"), IntegrityError),
        (boto.ParamValidationError(report="no"), StorePermanent),
        (ValueError("Invalid endpoint"), StorePermanent),
        (KeyError("what"), StorePermanent),
    ],
)
def test_silence_and_noise(error: BaseException, kind: type[Exception]) -> None:
    found = classify(error, "read", "k")
    assert type(found) is kind
    assert found.reason


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 409, 412, 501])
def test_an_error_of_something_before_the_store_is_not_the_stores(status: int) -> None:
    response = {
        "Error": {"Code": str(status), "Message": ""},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {"content-type": "text/html"}},
    }
    error = classify(boto.ClientError(response, "GetObject"), "read", "k")
    assert type(error) is ForeignAnswer
    assert "does not come from S3" in str(error)


def test_a_hint_is_given_where_one_is_known() -> None:
    assert "clock" in str(classify(answer("RequestTimeTooSkewed", 403), "store", "k"))
    assert "region" in str(classify(answer("AuthorizationHeaderMalformed", 400), "store", "k"))


def test_a_page_of_html_is_one_short_line() -> None:
    text = str(classify(answer("502", 502, "<html>\n" * 500), "store", "k"))
    assert "\n" not in text
    assert len(text) < 600


def test_our_own_errors_pass() -> None:
    error = ObjectNotFound("read", "k")
    assert classify(error, "x", "y") is error
    with pytest.raises(ObjectNotFound) as caught, classified("x", "y"):
        raise error
    assert caught.value is error
    with pytest.raises(StoreTransient) as other, classified("x", "y"):
        raise TimeoutError
    assert isinstance(other.value.__cause__, TimeoutError)
