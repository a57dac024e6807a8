"""The tools. Each is one verb, confined to the session, and answers what the design note's tool did."""

from __future__ import annotations

import base64
import binascii
import io
import json
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from cachesync.model.address import Address, Space
from cachesync.model.errors import NoSuchSession, ObjectNotFound, UsageError
from cachesync.model.keys import printable
from cachesync.model.limits import DEFAULT_EXPIRES, MAX_EXPIRES, MIN_EXPIRES
from cachesync.model.outcomes import Artifact
from cachesync.model.reports import FlushReport, SessionStatus
from cachesync.model.values import Kind
from cachesync.programs.mcp_server import answers
from cachesync.programs.mcp_server.answers import (
    MOST_LISTED,
    MOST_READ,
    Content,
    Flushed,
    History,
    Link,
    Listed,
    Past,
    Restored,
    Row,
    Status,
    Written,
    first_few,
)
from cachesync.programs.mcp_server.scope import URL, Scope
from cachesync.programs.mcp_server.shared import AgentVerbs, Shared

FLUSH_TIMEOUT = 50.0
"""Seconds. Most clients give up a call after 60, and an answer that says what is left is worth more than none."""

Path = Annotated[str, Field(description="Artifact path (e.g., terraform/main.tf)")]
Session = Annotated[str | None, Field(description="Session name; leave it out where the server is bound to a session")]
Metadata = Annotated[
    dict[str, Any] | None,
    WithJsonSchema(
        {
            "type": "object",
            "description": "Optional metadata",
            "properties": {"artifactType": {"type": "string"}, "version": {"type": "number"}},
        }
    ),
]
VersionId = Annotated[str | None, Field(description="A versionId of artifact_history; default: the version before")]


class Tools:
    """Blocking; the SDK runs each call in a thread. Each raises CacheSyncError."""

    def __init__(self, shared: Shared, scope: Scope) -> None:
        self._shared = shared
        self._scope = scope

    def write_artifact(
        self,
        path: Path,
        content: Annotated[str, Field(description="Artifact content")],
        metadata: Metadata = None,
        encoding: Annotated[
            Literal["utf-8", "base64"], Field(description="base64 if content is binary data in base64")
        ] = "utf-8",
        session: Session = None,
    ) -> Written:
        """Write artifact to session storage (S3). Replaces what is there; returns once it is stored."""
        address = self._scope.address(path, session)
        data = _bytes(path, content, encoding)
        with self._shared.use() as verbs:
            stored = verbs.artifacts.put(address, io.BytesIO(data), metadata=_texts(metadata or {}))
        return Written(success=True, s3Uri=_uri(stored))

    def read_artifact(
        self,
        path: Annotated[str, Field(description="Artifact path")],
        offset: Annotated[int, Field(ge=0, description="First byte to read")] = 0,
        length: Annotated[int | None, Field(ge=1, le=MOST_READ, description="Bytes to read at most")] = None,
        session: Session = None,
    ) -> Content:
        """Read artifact from session storage (S3). Binary content comes as base64, with encoding "base64"."""
        address = self._scope.address(path, session)
        with self._shared.use() as verbs, verbs.artifacts.read(address) as reading:
            size, version = reading.artifact.size, reading.artifact.version
            if size > MOST_READ and not offset and length is None:
                hint = (
                    f"read it in pieces: offset=0 and length={MOST_READ}, then offset=nextOffset of each answer;"
                    " or let artifact_url give a link for a program to download"
                )
                raise UsageError("read", path, f"{size} bytes are more than one answer holds ({MOST_READ})", hint)
            found = b"".join(reading.chunks(offset, min(length or MOST_READ, max(0, size - offset))))
            answer = answers.content(found, offset, size)
            if "size" in answer and version is not None:
                answer["version"] = version
            if reading.unverified:
                answer["unverified"] = True
        return answer

    def list_artifacts(
        self,
        prefix: Annotated[str, Field(description="Only paths that begin with this, e.g. artifacts/terraform/")] = "",
        after: Annotated[str, Field(description="Go on after this path: next of the last answer")] = "",
        session: Session = None,
    ) -> Listed:
        """List the artifacts of the session: path, size, and whether each is stored."""
        folder = self._scope.folder(prefix, session)
        rows: list[Row] = []
        answer = Listed(artifacts=rows)
        with self._shared.use() as verbs:
            try:
                for artifact in verbs.artifacts.list(folder):
                    path = artifact.address.partition("/")[2] if folder.session else URL + artifact.address
                    if artifact.kind == Kind.DIRECTORY or not path.startswith(prefix) or path <= after:
                        continue
                    if len(rows) == MOST_LISTED:
                        answer["next"] = rows[-1]["path"]
                        break
                    rows.append(_row(path, artifact))
            except ObjectNotFound:
                pass
            except NoSuchSession:
                if self._scope.bound is None:
                    raise  # a name that was mistyped, more likely than a session that nothing was written to yet
        return answer

    def artifact_url(
        self,
        path: Path,
        expiresIn: Annotated[  # noqa: N803 - the design note's name
            float, Field(ge=MIN_EXPIRES, le=MAX_EXPIRES, description="Seconds for which the link works")
        ] = DEFAULT_EXPIRES,
        session: Session = None,
    ) -> Link:
        """A link by which anybody can download the artifact, for a limited time."""
        address = self._scope.address(path, session)
        with self._shared.use() as verbs:
            return Link(url=verbs.artifacts.url(address, expires=expiresIn), expiresIn=expiresIn)

    def flush_session(
        self,
        timeout: Annotated[float, Field(ge=0, le=3600, description="Seconds to wait at most")] = FLUSH_TIMEOUT,
        session: Session = None,
    ) -> Flushed:
        """Store everything written in the session's directory before now, and say whether all of it is stored."""
        name = self._scope.session(session)
        with self._shared.use() as verbs:
            try:
                report = verbs.flush(name, timeout=timeout)
                summary = _summary(report)
            except NoSuchSession:
                report = FlushReport(name, True, *_only_stored(verbs, name))
                summary = (
                    "stored: nothing of it is on this machine, and each write_artifact was stored when it returned"
                )
        told = answers.fit(report.json())
        return Flushed(
            session=name,
            stored=report.stored,
            summary=summary,
            files=report.files,
            bytes=report.bytes,
            failed=first_few(told["failed"]),
            pending=first_few(told["pending"]),
            conflicts=first_few(told["conflicts"]),
            skipped=first_few(told["skipped"]),
        )

    def session_status(self, session: Session = None) -> Status:
        """What of the session is stored, what is not yet, and what failed."""
        name = self._scope.session(session)
        with self._shared.use() as verbs:
            try:
                found = next(iter(verbs.status(name).sessions), None)
            except NoSuchSession:
                found = None
            if found is None:
                files, size = _only_stored(verbs, name)
                found = SessionStatus(name, "open", files, size, 0, 0, 0, 0, files, 0, None)
        told = answers.fit(found.json())
        return Status(
            session=name,
            safeToKill=told["safe_to_kill"],
            files=told["files"],
            bytes=told["bytes"],
            dirty=told["dirty"],
            inFlight=told["in_flight"],
            failed=told["failed"],
            evicted=told["evicted"],
            failures=first_few(told["failures"]),
        )

    def artifact_history(self, path: Path, session: Session = None) -> History:
        """Every version that the store keeps of an artifact, newest first, deletions too."""
        address = self._scope.address(path, session)
        with self._shared.use() as verbs:
            versions = [
                Past(
                    versionId=past.version_id,
                    size=past.size,
                    modified=past.modified,
                    latest=past.latest,
                    deleted=past.deleted,
                )
                for past in verbs.artifacts.history(address)
            ]
        return History(path=path, versions=versions)

    def restore_artifact(
        self,
        path: Path,
        versionId: VersionId = None,  # noqa: N803 - as in the design note
        session: Session = None,
    ) -> Restored:
        """Make a past version of an artifact the newest again, also of one that was deleted. Nothing is lost by it."""
        address = self._scope.address(path, session)
        with self._shared.use() as verbs:
            restored = verbs.artifacts.restore(address, version_id=versionId)
        return Restored(success=True, s3Uri=_uri(restored), size=restored.size)


def _bytes(path: str, content: str, encoding: str) -> bytes:
    try:
        return content.encode() if encoding == "utf-8" else base64.b64decode(content, validate=True)
    except UnicodeEncodeError:
        raise UsageError("write", path, "the content is no valid Unicode", 'use encoding="base64"') from None
    except binascii.Error as error:
        raise UsageError("write", path, f"the content is no base64: {error}", 'use encoding="utf-8"') from None


def _texts(metadata: dict[str, Any]) -> dict[str, str]:
    """Metadata as S3 keeps it, with numbers spelled as the client spelled them."""
    given = {key.lower(): value for key, value in metadata.items() if value is not None}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in given.items()}


def _row(path: str, artifact: Artifact) -> Row:
    kind, state, size, modified = str(artifact.kind), artifact.state, artifact.size, artifact.modified
    return Row(path=printable(path), kind=kind, state=state, size=size, modified=modified)


def _uri(artifact: Artifact) -> str:
    return str(answers.fit(artifact.uri or artifact.key or artifact.address))


def _only_stored(verbs: AgentVerbs, session: str) -> tuple[int, int]:
    """Files and bytes of a session that is only in the store. Raises NoSuchSession."""
    sizes = [each.size for each in verbs.artifacts.list(Address(Space.SESSIONS, session)) if each.kind == Kind.FILE]
    return len(sizes), sum(sizes)


def _summary(report: FlushReport) -> str:
    if report.stored:
        return "stored: everything that was written before the flush is in the store"
    if report.failed:
        return "NOT stored: some files cannot be stored as they are; mend the causes under 'failed' and flush again"
    return "NOT stored yet: see 'pending'; flush again, with a longer timeout"
