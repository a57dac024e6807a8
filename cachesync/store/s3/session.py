"""aiobotocore's HTTP session, made to stay where it was sent, and to read no more of an answer than that can have."""

from __future__ import annotations

from typing import Any

from aiobotocore.httpsession import AIOHTTPSession

from cachesync.store.s3.connection import Garbled
from cachesync.store.s3.direct import MAX_DOCUMENT
from cachesync.store.s3.xml import check


class Session(AIOHTTPSession):  # type: ignore[misc]  # aiobotocore has no types
    """Follows no redirect: aiohttp would send token and body wherever it is told to."""

    async def send(self, request: Any) -> Any:
        """See AIOHTTPSession. Raises Garbled for a body that no store sends, unless the caller streams it."""
        streams, request.stream_output = request.stream_output, True
        response = await super().send(request)
        if not streams:
            response._content = await _body(response.raw)  # noqa: SLF001 -- where botocore's parser looks
        return response

    async def _get_session(self, proxy_url: str | None) -> _Straight:
        return _Straight(await super()._get_session(proxy_url))


class _Straight:
    """All that ``AIOHTTPSession.send`` needs of aiohttp's session."""

    def __init__(self, session: Any) -> None:
        self._session = session

    async def request(self, method: str, **options: Any) -> Any:
        return await self._session.request(method, **options, allow_redirects=False)


async def _body(response: Any) -> bytes:
    """A short body, whole; its connection is given back."""
    parts, left = [], MAX_DOCUMENT
    async with response:
        while part := await response.content.read(left + 1):
            parts.append(part)
            left -= len(part)
            if left < 0:
                raise Garbled(f"the answer has more than {MAX_DOCUMENT} bytes")
    body = b"".join(parts)
    check(body)
    return body
