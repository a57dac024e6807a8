"""Which credentials the AWS chain finds, and how long they last."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from cachesync.model.record import record
from cachesync.store.base import ObjectStore
from cachesync.store.s3.address import from_environment
from cachesync.store.s3.client import S3Client
from cachesync.store.s3.store import S3Store
from cachesync.store.throttled import ThrottledStore


@record(frozen=True, slots=True)
class Found:
    """``method`` is botocore's name of the provider ("explicit" for none), ``expires`` seconds since the epoch where
    that is told, ``temporary`` whether they come with a session token."""

    method: str
    expires: float | None = None
    temporary: bool = False


def client_of(store: ObjectStore) -> S3Client | None:
    """The connection of a store that is S3."""
    below = store.below if isinstance(store, ThrottledStore) else store
    return below.client if isinstance(below, S3Store) else None


def find(client: S3Client, *, renew: bool = False) -> Found | None:
    """The credentials that ``client`` signs with, or None if there are none. ``renew`` lets those that renew themselves
    do so if it is time, as any request would. Raises StoreCredentials and the like."""
    settings = client.settings
    if settings.key is not None:
        return Found("explicit", temporary=settings.token is not None)
    if (found := from_environment(settings, os.environ)) is not None:
        _, key = found
        return Found("env", temporary=key.token is not None)
    return client.library.run(_ask_chain(client, renew=renew))


async def _ask_chain(client: S3Client, *, renew: bool) -> Found | None:
    from botocore.credentials import DeferredRefreshableCredentials

    async with client.library.using("look for", "credentials") as fs, asyncio.timeout(client.settings.answer):
        found: Any = await fs.session.get_credentials()
        if found is None:
            return None
        # Nothing is known of the deferred ones before they are first used.
        if renew or isinstance(found, DeferredRefreshableCredentials):
            await found.get_frozen_credentials()
        expires = getattr(found, "_expiry_time", None)  # botocore tells it in no other way
        # Not ``found.token``: asked for that, they renew themselves, and what has expired is not seen.
        token = getattr(found, "_token", None) or vars(found).get("token")
        return Found(str(found.method), expires and expires.timestamp(), temporary=token is not None)
