"""The routes of artifacts: read, list, store, delete, link, look back (verbs.Artifacts).

A read that goes wrong in the middle breaks the connection, so that Content-Length falls short; a list's last line is
``{"error": {...}}`` then, and its end is missing too.
"""

from __future__ import annotations

import re
from contextlib import closing
from io import BufferedReader
from typing import NamedTuple

from aiohttp import web

from cachesync.api import wire
from cachesync.api.bounded_pool import Lane
from cachesync.api.http_io import answer, flag, query, seconds, segments
from cachesync.api.streams import BodySource, Outlet
from cachesync.model.address import parse, parse_whole
from cachesync.model.errors import CacheSyncError, PreconditionFailed, UsageError
from cachesync.model.limits import DEFAULT_EXPIRES, MAX_EXPIRES
from cachesync.model.reports import Json
from cachesync.model.verbs import Reading, Verbs

READS = 64
LISTS = 16
WRITES = 32
QUESTIONS = 16
WAIT = 20.0
"""Seconds that a request waits for its place; less than a client waits for its answer."""

BODY_BUFFER = 1024 * 1024
_META = "meta-"
_META_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.ASCII)
_NOT_ON_PUT = ("Content-Range", "Content-Encoding", "If-Match")


class ArtifactRoutes:
    """The handlers. Make it inside the event loop that serves it."""

    def __init__(self, verbs: Verbs) -> None:
        self._verbs = verbs
        self._reads = Lane("read", READS, WAIT)
        self._lists = Lane("list", LISTS, WAIT)
        self._writes = Lane("put", WRITES, WAIT)
        self._questions = Lane("ask the store", QUESTIONS, WAIT)
        self.lanes = (self._reads, self._lists, self._writes, self._questions)

    def table(self) -> list[web.RouteDef]:
        """Every route there is."""
        return [
            # ?version_id= &describe=1
            web.get("/v1/artifacts/{address:(?s:.+)}", self.read, allow_head=False),
            web.put("/v1/artifacts/{address:(?s:.+)}", self.put),  # ?meta-NAME=
            web.delete("/v1/artifacts/{address:(?s:.+)}", self.remove),
            web.get("/v1/list{address:(?s:/.*)?}", self.list, allow_head=False),  # ?shallow=1
            web.post("/v1/url/{address:(?s:.+)}", self.url),  # ?expires=S &version_id=
            web.get("/v1/history/{address:(?s:.+)}", self.history),
            web.post("/v1/restore/{address:(?s:.+)}", self.restore),  # ?version_id=
        ]

    async def read(self, request: web.Request) -> web.StreamResponse:
        """The bytes of one version, or of a range of it; with ``describe`` what there is to know of them."""
        asked = query(request, "version_id", "describe")
        address, version_id = parse(_address(request)), asked.get("version_id") or None
        if flag("describe", asked):

            def describe() -> Json:
                with self._verbs.artifacts.read(address, version_id=version_id) as reading:
                    return wire.reading_json(reading.artifact, reading.source, unverified=reading.unverified)

            return answer(await self._questions.run(describe))
        outlet = Outlet(request)

        def work() -> None:
            with self._verbs.artifacts.read(address, version_id=version_id) as reading:
                part = _part(request, reading)
                length = part.length if part.status == web.HTTPPartialContent.status_code else None
                outlet.send_bytes(part.status, part.headers, part.length, reading.chunks(part.start, length))

        try:
            return await outlet.run(self._reads, work)
        except _Refused as refused:
            response = answer(wire.error_json(refused.told), refused.status)
            response.headers.update(refused.headers)
            return response

    async def list(self, request: web.Request) -> web.StreamResponse:
        """One artifact a line; with ``shallow`` of one level."""
        shallow = flag("shallow", query(request, "shallow"))
        address = parse_whole(_address(request))
        outlet = Outlet(request)

        def work() -> None:
            found = self._verbs.artifacts.list(address, shallow=shallow)
            outlet.send_lines(wire.artifact_json(artifact) for artifact in found)

        return await outlet.run(self._lists, work)

    async def put(self, request: web.Request) -> web.Response:
        """Store the body; 201 with the artifact once the store has it. ``If-None-Match: *`` overwrites nothing."""
        names = [name for name in request.query if name.startswith(_META)]
        metadata = {name[len(_META) :].lower(): value for name, value in query(request, *names).items()}
        for name in metadata:
            if not _META_NAME.fullmatch(name):
                raise UsageError("metadata", name, "allowed: 1 to 64 of a-z, 0-9, '-', '_'")
        for name in _NOT_ON_PUT:
            if name in request.headers:
                raise UsageError("put", request.path, f"{name} is not known here")
        create = request.headers.get("If-None-Match")
        if create not in (None, "*"):
            raise UsageError("put", request.path, f"If-None-Match: {create} is not known here", "allowed: *")
        address = parse(_address(request))
        content_type = request.headers.get("Content-Type")
        source = BufferedReader(BodySource(request), BODY_BUFFER)

        def work() -> Json:
            with closing(source):
                stored = self._verbs.artifacts.put(
                    address, source, content_type=content_type, metadata=metadata, overwrite=create is None
                )
            return wire.artifact_json(stored)

        return answer(await self._writes.run(work), web.HTTPCreated.status_code)

    async def remove(self, request: web.Request) -> web.Response:
        """Delete one artifact."""
        query(request)
        address = parse(_address(request))
        await self._questions.run(lambda: self._verbs.artifacts.remove(address))
        return answer({"removed": str(address)})

    async def url(self, request: web.Request) -> web.Response:
        """``{"url": ...}``."""
        asked = query(request, "expires", "version_id")
        address, version_id = parse(_address(request)), asked.get("version_id") or None
        expires = seconds("expires", asked.get("expires"), DEFAULT_EXPIRES, MAX_EXPIRES)
        artifacts = self._verbs.artifacts
        link = await self._questions.run(lambda: artifacts.url(address, expires=expires, version_id=version_id))
        return answer({"url": link})

    async def history(self, request: web.Request) -> web.Response:
        """``{"versions": [...]}``, the newest first."""
        query(request)
        address = parse(_address(request))

        def work() -> bytes:
            return wire.dumps({"versions": [version.json() for version in self._verbs.artifacts.history(address)]})

        return answer(await self._questions.run(work))

    async def restore(self, request: web.Request) -> web.Response:
        """The artifact that is the newest now."""
        version_id = query(request, "version_id").get("version_id") or None
        address = parse(_address(request))
        artifacts = self._verbs.artifacts
        artifact = await self._questions.run(lambda: artifacts.restore(address, version_id=version_id))
        return answer(wire.artifact_json(artifact))


def _address(request: web.Request) -> str:
    return "/".join(segments(request)[2:])


class _Part(NamedTuple):
    """Which bytes a request gets, and the head of its answer."""

    status: int
    headers: dict[str, str]
    start: int
    length: int


class _Refused(Exception):
    """A condition of the request that does not hold, with its own HTTP status."""

    def __init__(self, told: CacheSyncError, status: int, headers: dict[str, str]) -> None:
        super().__init__(told)
        self.told = told
        self.status = status
        self.headers = headers


def _part(request: web.Request, reading: Reading) -> _Part:
    """The bytes that Range and If-Match ask for. Raises _Refused."""
    artifact = reading.artifact
    etag = wire.etag(artifact)
    headers = {
        "ETag": f'"{etag}"',
        "Accept-Ranges": "bytes",
        "Content-Type": _header(artifact.content_type or "application/octet-stream"),
        "X-Cachesync-Source": reading.source,
        "X-Cachesync-Unverified": "true" if reading.unverified else "false",
        "X-Cachesync-Artifact": wire.dumps(wire.artifact_json(artifact)).decode(),
    }
    expected = request.headers.get("If-Match")
    if expected is not None and expected.strip() not in ("*", etag, f'"{etag}"'):
        told = PreconditionFailed("read", artifact.address, "it is another version now", "open it again")
        raise _Refused(told, web.HTTPPreconditionFailed.status_code, {"ETag": headers["ETag"]})
    asked = _RANGE.fullmatch(request.headers.get("Range", "").replace(" ", ""))
    if asked is None or not any(asked.groups()):  # none, several or unknown: RFC 9110 answers with the whole
        return _Part(web.HTTPOk.status_code, headers, 0, artifact.size)
    first, last = asked.groups()
    start = int(first) if first else max(0, artifact.size - int(last))
    end = min(int(last) + 1, artifact.size) if first and last else artifact.size
    if start >= end:
        told_range = UsageError("read", artifact.address, f"it has {artifact.size} bytes, none of that range")
        content_range = {"Content-Range": f"bytes */{artifact.size}"}
        raise _Refused(told_range, web.HTTPRequestRangeNotSatisfiable.status_code, content_range)
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{artifact.size}"
    return _Part(web.HTTPPartialContent.status_code, headers, start, end - start)


def _header(text: str) -> str:
    """A content type as a header's value; what is in the store may be anybody's."""
    return text if text.isascii() and text.isprintable() else "application/octet-stream"
