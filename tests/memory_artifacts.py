"""Artifacts and a session's life, made up: what a front can be tried on without an engine."""

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, BinaryIO, Self

from cachesync.artifacts.listing import one_level
from cachesync.model.address import Address
from cachesync.model.errors import ArtifactExists, NoSuchSession, ObjectNotFound, UsageError
from cachesync.model.outcomes import (
    Artifact,
    CloseReport,
    EvictReport,
    OnProgress,
    OpenReport,
    PastVersion,
    Progress,
    VerifyReport,
    no_progress,
)
from cachesync.model.reports import Failure, FlushReport, Pending

PIECE = 1024 * 1024


class MemoryReading:
    """Bytes in memory; ``pieces`` replaces them by whatever an iterator does."""

    def __init__(self, artifact: Artifact, content: bytes, pieces: Callable[[int], Iterator[bytes]] | None) -> None:
        self.artifact = artifact
        self.source = "store"
        self.unverified = False
        self.closed = False
        self._content = content
        self._pieces = pieces

    def chunks(self, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        if self._pieces is not None:
            yield from self._pieces(start)
            return
        end = len(self._content) if length is None else min(len(self._content), start + length)
        for at in range(start, end, PIECE):
            yield self._content[at : min(at + PIECE, end)]

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class MemoryArtifacts:
    """A dictionary of bytes by address. ``calls`` is what it was asked; ``error`` is raised by everything."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.extra: dict[str, dict[str, Any]] = {}
        self.pieces: dict[str, tuple[int, Callable[[int], Iterator[bytes]]]] = {}
        self.put_metadata: dict[str, Any] = {}
        self.readings: list[MemoryReading] = []
        self.calls: list[tuple[Any, ...]] = []
        self.error: Exception | None = None
        self.lists: Callable[[Address], Iterator[Artifact]] | None = None
        self.unverified = False
        self.source = "store"
        self.store_put: Callable[[BinaryIO], bytes] = lambda source: source.read()

    def describe(self, address: str) -> Artifact:
        if address in self.pieces:
            size, _ = self.pieces[address]
            return Artifact(address, "file", "stored", size, 1.0, version="made-up")
        content = self.contents.get(address)
        extra = self.extra.get(address, {})
        if content is None and not extra:
            raise ObjectNotFound("read", address, "there is none")
        digest = hashlib.sha256(content or b"").hexdigest()
        made = Artifact(
            address,
            "file",
            "stored",
            len(content or b""),
            1_795_526_656.0,
            version=digest[:32],
            version_id="v1",
            sha256=digest,
            content_type="text/plain",
        )
        return replace(made, **extra)

    def list(self, address: Address, *, shallow: bool = False) -> Iterator[Artifact]:
        self._ask("list", address)
        if self.lists is not None:
            yield from self.lists(address)
            return
        if shallow:
            yield from one_level(address, self.list(address))
            return
        base = str(address)
        if address.session == "ghost":
            raise NoSuchSession("list", "ghost", "there is none")
        found = False
        for name in sorted({*self.contents, *self.extra, *self.pieces}):
            if name == base or name.startswith(f"{base}/" if base else ""):
                found = True
                yield self.describe(name)
        if not found:
            raise ObjectNotFound("list", base, "nothing is there")

    def read(self, address: Address, *, version_id: str | None = None) -> MemoryReading:
        self._ask("read", address, version_id)
        artifact = self.describe(str(address))
        pieces = self.pieces.get(str(address))
        reading = MemoryReading(artifact, self.contents.get(str(address), b""), pieces and pieces[1])
        reading.unverified, reading.source = self.unverified, self.source
        self.readings.append(reading)
        return reading

    def put(
        self,
        address: Address,
        source: BinaryIO,
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        overwrite: bool = True,
    ) -> Artifact:
        self._ask("put", address, content_type, dict(metadata or {}))
        if not overwrite and str(address) in self.contents:
            raise ArtifactExists("put", str(address), "it is there already")
        self.contents[str(address)] = self.store_put(source)
        return self.describe(str(address))

    def remove(self, address: Address) -> None:
        self._ask("remove", address)
        if self.contents.pop(str(address), None) is None:
            raise ObjectNotFound("remove", str(address), "there is none")

    def url(self, address: Address, *, expires: float = 3600.0, version_id: str | None = None) -> str:
        self._ask("url", address, expires, version_id)
        return f"https://bucket/{address}?X-Amz-Expires={expires:g}"

    def history(self, address: Address) -> Sequence[PastVersion]:
        self._ask("history", address)
        name = str(address)
        return [
            PastVersion(name, None, "v2", 0, 1_795_526_700.0, latest=True, deleted=True),
            PastVersion(name, "etag", "v1", 1_500, 1_795_526_656.0, latest=False, deleted=False),
        ]

    def restore(self, address: Address, *, version_id: str | None = None) -> Artifact:
        self._ask("restore", address, version_id)
        return self.describe(str(address))

    def _ask(self, *words: Any) -> None:
        self.calls.append(words)
        if self.error is not None:
            raise self.error


OPENED = OpenReport("demo", "/r/demo", 3, 30, 2, 20, 1, 0, seconds=1.5)
EVICTED = EvictReport("demo", 2, 20)
FLUSHED = FlushReport("demo", stored=True, files=3, bytes=30)


class MemoryLifecycle:
    """Answers from its fields; with ``steps`` set, open and verify wait for it to be released after each progress."""

    def __init__(self) -> None:
        self.opened = OPENED
        self.closed = CloseReport(FLUSHED, closed=True, evicted=EVICTED)
        self.evicted = EVICTED
        self.verified = VerifyReport("demo", 3, 30, seconds=0.5)
        self.calls: list[tuple[Any, ...]] = []
        self.error: BaseException | None = None
        self.progresses = [Progress(1, 3, 10, 30), Progress(2, 3, 20, 30)]
        self.steps: threading.Semaphore | None = None
        self.finished = threading.Event()

    def new(
        self,
        session: str | None = None,
        *,
        project: str | None = None,
        workspace: str | None = None,
        templates: Sequence[str] = (),
    ) -> str:
        self.calls.append(("new", session, project, workspace, list(templates)))
        if session == "demo":
            raise UsageError("new", "demo", "there is one")
        return session or "session-1"

    def open(
        self,
        session: str,
        *,
        lazy: bool = False,
        into: str | None = None,
        timeout: float | None = None,
        progress: OnProgress = no_progress,
    ) -> OpenReport:
        self.calls.append(("open", session, lazy, into, timeout))
        self._go(session, progress)
        return self.opened

    def close(
        self,
        session: str,
        *,
        keep: bool = False,
        timeout: float,
        confirm_deletes: bool = False,
        force: bool = False,
    ) -> CloseReport:
        self.calls.append(("close", session, keep, timeout, confirm_deletes, *["force"] * force))
        return replace(self.closed, evicted=None) if keep else self.closed

    def evict(self, session: str, *, force: bool = False) -> EvictReport:
        self.calls.append(("evict", session, *["force"] * force))
        return self.evicted

    def verify(self, session: str, *, repair: bool = False, progress: OnProgress = no_progress) -> VerifyReport:
        self.calls.append(("verify", session, "repair") if repair else ("verify", session))
        self._go(session, progress)
        return self.verified

    def _go(self, session: str, progress: OnProgress) -> None:
        if session == "ghost":
            raise NoSuchSession("open", session, "there is none")
        for step in self.progresses:
            progress(step)
            if self.steps is not None:
                assert self.steps.acquire(timeout=30)
        if self.error is not None:
            raise self.error
        self.finished.set()


BAD = [Failure("a\nb", "denied")]
LEFT = [Pending("c", "is being written")]


class MemoryOnDemand:
    """What a mount asks, remembered; ``error`` is what it is answered."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.error: Exception | None = None

    def bring(self, session: str, path: str) -> None:
        self._ask("bring", session, path)

    def make_empty(self, session: str, path: str) -> None:
        self._ask("make_empty", session, path)

    def foresee(self, session: str, path: str) -> None:
        self._ask("foresee", session, path)

    def remove(self, session: str, path: str) -> None:
        self._ask("remove", session, path)

    def move(self, session: str, path: str, to_session: str, to_path: str) -> None:
        self._ask("move", session, path, to_session, to_path)

    def store(self, session: str, path: str, *, timeout: float) -> None:
        self._ask("store", session, path, timeout)

    def notice(self, hints: Mapping[str, Mapping[str, int]]) -> None:
        self._ask("notice", hints)

    def changes(self) -> Iterator[Mapping[str, Sequence[str]]]:
        self._ask("changes")
        yield {"demo": ["a", "d/b"]}
        yield {}

    def sessions(self) -> list[str]:
        self._ask("sessions")
        return ["away", "here"]

    def _ask(self, *asked: Any) -> None:
        self.asked.append(asked)
        if self.error is not None:
            raise self.error
