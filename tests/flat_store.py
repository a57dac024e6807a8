"""An S3-shaped store in memory that can be told to fail: down, answering late, killing the caller.

Flat as S3 is ("d" and "d/a" are two objects), which no fsspec file system is; and fast, so that a state machine makes
thousands of steps a minute. tests/contract runs the same contract over it as over the real ones, where that is asked.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto
from urllib.parse import quote

from cachesync.model.errors import ObjectNotFound, PreconditionFailed, StoreTransient, StoreUnreachable, UsageError
from cachesync.model.values import Attributes, Multipart, ObjectInfo, PastObject, Tail, Version
from cachesync.store.base import Body, Download, Resume, Traits, folder_info


class Crash(BaseException):
    """The process ends here: nothing after it runs, not even an ``except Exception``."""


class Fault(Enum):
    """What goes wrong with one request."""

    CRASH_BEFORE = auto()
    CRASH_AFTER = auto()
    LOST_REPLY = auto()
    REFUSED = auto()


@dataclass(frozen=True, slots=True)
class Held:
    """One object."""

    data: bytes
    info: ObjectInfo
    tags: tuple[tuple[str, str], ...] = ()
    writer: str = "us"


class FlatStore:
    """``faults`` maps the number of a request from now (0 is the next), or a verb, to what happens to it once; ``down``
    is an outage.

    ``watch`` is called before each change of an object, with its key, what it was and what it will be.
    """

    def __init__(self) -> None:
        self.objects: dict[str, Held] = {}
        self.past: dict[str, list[tuple[str, Held | None]]] = {}
        """Each state that a key ever had, oldest first, by version id; None is a deletion."""
        self.deleted_by: dict[str, str] = {}
        self.faults: dict[int | str, Fault] = {}
        self.down = False
        self.requests = 0
        self.writes = 0
        self.watch: Callable[[str, Held | None, Held | None], None] = lambda *_: None
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()

    @property
    def largest(self) -> int | None:
        """See ObjectStore."""
        return None

    @property
    def traits(self) -> Traits:
        return Traits("flat://", conditional=True, versioned=True)

    @property
    def silent_for(self) -> float | None:
        return None

    @property
    def archive(self) -> FlatArchive:
        return FlatArchive(self)

    # -- as the engine calls it ----------------------------------------------------------------------------------------

    def head(self, key: str) -> ObjectInfo:
        after = self._begin("head", key)
        info = self._find("head", key).info
        after()
        return info

    def get(self, key: str, *, version: Version | None = None, start: int = 0, length: int | None = None) -> Download:
        after = self._begin("get", key)
        held = self._find("get", key)
        if version is not None and held.info.version != version:
            raise PreconditionFailed("get", key)
        after()
        return Download(held.info, iter([held.data[start : None if length is None else start + length]]))

    def put(
        self,
        key: str,
        body: Body,
        attributes: Attributes,
        *,
        expect: Version | None,
        resume: Resume | None = None,
        tail: Tail | None = None,
    ) -> ObjectInfo:
        length = body.part_size if body.part_sha256 else body.size
        data = b"".join(body.read(at, min(length, body.size - at)) for at in range(0, body.size, length or 1))
        assert hashlib.sha256(data).hexdigest() == body.sha256, "a body whose digest is not its own"
        after = self._begin("put", key)
        with self._lock:
            self._expect("put", key, expect)
            info = self._place(key, data, attributes, "us")
        after()
        return info

    def copy(
        self,
        source: str,
        target: str,
        attributes: Attributes | None = None,
        *,
        source_version: Version,
        expect: Version | None,
    ) -> ObjectInfo:
        after = self._begin("copy", target)
        with self._lock:
            found = self._find("copy", source)
            if found.info.version != source_version:
                raise PreconditionFailed("copy", source)
            self._expect("copy", target, expect)
            kind = found.info.content_type or "application/octet-stream"
            carried = attributes or Attributes(kind, found.info.metadata, dict(found.tags))
            info = self._place(target, found.data, carried, "us")
        after()
        return info

    def delete(self, key: str, *, expect: Version) -> None:
        after = self._begin("delete", key)
        with self._lock:
            held = self.objects.get(key)
            if held is not None:
                self._expect("delete", key, expect)
                self.watch(key, held, None)
                self.writes += 1
                self._remove(key, "us")
        after()

    def list(self, prefix: str, *, shallow: bool = False) -> Iterator[ObjectInfo]:
        after = self._begin("list", prefix)
        with self._lock:
            found = {
                key: replace(held.info, sha256=None, metadata={}, content_type=None)
                for key, held in self.objects.items()
                if key.startswith(prefix)
            }
        after()
        if shallow:
            folders = {key[: key.index("/", len(prefix)) + 1] for key in found if "/" in key[len(prefix) :]}
            found = {key: info for key, info in found.items() if "/" not in key[len(prefix) :]}
            found |= {key: folder_info(key) for key in folders}
        yield from (found[key] for key in sorted(found))

    def discard(self, upload: Multipart) -> None:
        self._begin("discard", upload.key)()

    def close(self) -> None:
        """Nothing is kept open."""

    # -- as another writer does ----------------------------------------------------------------------------------------

    def foreign_put(self, key: str, data: bytes, *, digest: bool = True) -> None:
        """Another writer's unconditional PUT; without ``digest`` as a tool does that sends no checksum."""
        with self._lock:
            metadata = {"writer": "another"} if digest else {}
            self._place(key, data, Attributes("text/plain", metadata), "another", digest=digest)

    def foreign_copy(self, source: str, number: int, target: str) -> Held | None:
        """Another writer's unconditional copy of a past version, metadata and all, as ``aws s3 cp`` makes it; what it
        copied, if there is anything to copy. ``number`` counts versions from the newest, and begins anew at the end."""
        with self._lock:
            past = [held for _, held in self.past.get(source, []) if held is not None]
            if not past:
                return None
            held = past[-1 - number % len(past)]
            carried = Attributes(held.info.content_type or "", held.info.metadata, dict(held.tags))
            self._place(target, held.data, carried, "another", digest=held.info.sha256 is not None)
            return held

    def foreign_delete(self, key: str) -> None:
        """Another writer's unconditional DELETE."""
        with self._lock:
            if key in self.objects:
                self._remove(key, "another")

    # -- small things --------------------------------------------------------------------------------------------------

    def _begin(self, verb: str, key: str) -> Callable[[], None]:
        """Count a request, and fail it before its effect or give back what happens after it."""
        with self._lock:
            self.requests += 1
            fault = self.faults.pop(0, None) or self.faults.pop(verb, None)
            self.faults = {at - 1 if isinstance(at, int) else at: what for at, what in self.faults.items()}
        if fault is Fault.CRASH_BEFORE:
            raise Crash
        if self.down:
            raise StoreUnreachable(verb, key, "nobody answers")
        if fault is Fault.REFUSED:
            raise StoreTransient(verb, key, "503")

        def after() -> None:
            if fault is Fault.CRASH_AFTER:
                raise Crash
            if fault is Fault.LOST_REPLY:
                raise StoreTransient(verb, key, "connection reset")

        return after

    def _find(self, verb: str, key: str) -> Held:
        try:
            return self.objects[key]
        except KeyError:
            raise ObjectNotFound(verb, key, "there is no such object") from None

    def _expect(self, verb: str, key: str, expect: Version | None) -> None:
        held = self.objects.get(key)
        if (held and held.info.version) != expect:
            raise PreconditionFailed(verb, key)

    def _place(self, key: str, data: bytes, attributes: Attributes, writer: str, *, digest: bool = True) -> ObjectInfo:
        sha256 = hashlib.sha256(data).hexdigest() if digest else None
        version = Version(f"v{next(self._numbers)}")
        metadata = dict(attributes.metadata)
        info = ObjectInfo(key, len(data), version, 1.0e9, sha256, metadata, attributes.content_type)
        held = Held(data, info, tuple(attributes.tags.items()), writer)
        if writer == "us":
            self.watch(key, self.objects.get(key), held)
            self.writes += 1
        self.objects[key] = held
        self.past.setdefault(key, []).append((version.etag, held))
        self.deleted_by.pop(key, None)
        return info

    def _remove(self, key: str, who: str) -> None:
        del self.objects[key]
        self.past[key].append((f"d{next(self._numbers)}", None))
        self.deleted_by[key] = who


class FlatArchive:
    """Every version that there ever was. Ids are the ETags, which never come twice; infos leave the id out."""

    def __init__(self, store: FlatStore) -> None:
        self._store = store

    def history(self, prefix: str) -> Iterator[PastObject]:
        after = self._store._begin("history", prefix)
        with self._store._lock:
            found = [
                PastObject(
                    key=key,
                    size=0 if held is None else held.info.size,
                    version=Version("" if held is None else held.info.version.etag, version_id),
                    modified=1.0e9,
                    latest=number == len(states),
                    deleted=held is None,
                )
                for key, states in sorted(self._store.past.items())
                if key.startswith(prefix)
                for number, (version_id, held) in reversed(list(enumerate(states, 1)))
            ]
        after()
        yield from found

    def read(self, key: str, version_id: str) -> Download:
        after = self._store._begin("read", key)
        held = self._find("read", key, version_id)
        after()
        return Download(held.info, iter([held.data]))

    def revive(self, key: str, version_id: str, *, expect: Version | None, without: Collection[str] = ()) -> ObjectInfo:
        after = self._store._begin("revive", key)
        with self._store._lock:
            self._store._expect("revive", key, expect)
            held = self._find("revive", key, version_id)
            info = held.info
            if self._store.objects.get(key) != held:
                kept = {name: value for name, value in info.metadata.items() if name not in without}
                carried = Attributes(info.content_type or "", kept, dict(held.tags))
                info = self._store._place(key, held.data, carried, "us", digest=info.sha256 is not None)
        after()
        return info

    def url(self, key: str, *, expires: float, version_id: str | None = None) -> str:
        if not 1 <= expires <= 604_800:
            raise UsageError("link to", key)
        return f"flat://{quote(key)}?expires={expires:g}" + (f"&version={version_id}" if version_id else "")

    def _find(self, verb: str, key: str, version_id: str) -> Held:
        held = dict(self._store.past.get(key, [])).get(version_id)
        if held is None:
            raise ObjectNotFound(verb, key, "there is no such version")
        return held
