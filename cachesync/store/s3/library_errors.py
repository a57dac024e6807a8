"""What botocore, aiohttp and asyncio raise for lack of an answer, and what that means. Pure."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import aiohttp
import botocore.exceptions as boto
from botocore.parsers import ResponseParserError

from cachesync.model.errors import (
    CacheSyncError,
    IntegrityError,
    StoreCredentials,
    StorePermanent,
    StoreTransient,
    StoreUnreachable,
)
from cachesync.store.s3.errors import ForeignAnswer

_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.UnauthorizedSSOTokenError,
    boto.SSOTokenLoadError,
    boto.RefreshWithMFAUnsupportedError,
    boto.ProfileNotFound,
    boto.MetadataRetrievalError,
    boto.InvalidConfigError,
)
_BY_TYPE: tuple[tuple[tuple[type[BaseException], ...], type[CacheSyncError]], ...] = (
    (_CREDENTIALS, StoreCredentials),
    ((boto.FlexibleChecksumError,), IntegrityError),
    ((ResponseParserError,), ForeignAnswer),
    ((boto.ParamValidationError, boto.ValidationError), StorePermanent),
    (
        (
            boto.HTTPClientError,
            boto.ConnectionError,
            boto.IncompleteReadError,
            boto.ResponseStreamingError,
            aiohttp.ClientError,
            asyncio.CancelledError,
        ),
        StoreTransient,
    ),
)
_UNREACHABLE = (boto.ConnectTimeoutError, boto.ProxyConnectionError, aiohttp.ClientConnectorError)
_STILL_EXPIRED = "refreshed credentials are still expired"
"""botocore has no type of its own for that."""


def kind_of(links: Sequence[BaseException]) -> type[CacheSyncError] | None:
    """What an error means, given with all that it wraps; None if it is none of theirs."""
    error = links[0]
    if any(isinstance(link, _UNREACHABLE) for link in links):
        return StoreUnreachable
    if isinstance(error, RuntimeError) and _STILL_EXPIRED in str(error):
        return StoreCredentials
    return next((kind for types, kind in _BY_TYPE if isinstance(error, types)), None)


def wrapped(error: BaseException) -> object:
    """The error that botocore keeps inside one of its own."""
    return getattr(error, "kwargs", {}).get("error") if isinstance(error, boto.BotoCoreError) else None


def is_silence(error: BaseException) -> bool:
    """Whether the server took the request, and then said nothing for too long."""
    return isinstance(error, boto.ReadTimeoutError)
