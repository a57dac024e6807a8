"""Which credentials the AWS chain finds, and how long they last: for doctor."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from botocore.credentials import DeferredRefreshableCredentials

from cachesync.store.s3_client import S3Client


@dataclass(frozen=True, slots=True)
class Found:
    """``method`` is botocore's name of the provider ("explicit" for none), ``expires`` seconds since the epoch where
    that is told, ``temporary`` whether they come with a session token."""

    method: str
    expires: float | None = None
    temporary: bool = False


def find(client: S3Client) -> Found | None:
    """The credentials that ``client`` signs with, or None if there are none. Raises StoreCredentials and the like."""
    settings = client.settings
    if settings.key is not None:
        return Found("explicit", temporary=settings.token is not None)
    return client.run(_ask_chain(client))


async def _ask_chain(client: S3Client) -> Found | None:
    async with client.using("look for", "credentials") as fs, asyncio.timeout(client.settings.answer):
        found: Any = await fs.session.get_credentials()
        if found is None:
            return None
        if isinstance(found, DeferredRefreshableCredentials):  # nothing is known of them before they are first used
            await found.get_frozen_credentials()
        expires = getattr(found, "_expiry_time", None)  # botocore tells it in no other way
        # Not ``found.token``: asked for that, they renew themselves, and what has expired is not seen.
        token = getattr(found, "_token", None) or vars(found).get("token")
        return Found(str(found.method), expires and expires.timestamp(), temporary=token is not None)
