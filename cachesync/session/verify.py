"""Reads every object of a session from the store and compares it with the manifest, the journal and the local files.

Only bytes that were just read count. An object that cannot be read now is pending, not a difference.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from cachesync.model.attributes import ATTEMPT
from cachesync.model.errors import (
    IntegrityError,
    NoSuchBucket,
    NoSuchSession,
    ObjectNotFound,
    StoreCredentials,
    StoreError,
    StoreTransient,
    StoreUnreachable,
)
from cachesync.model.keys import RESERVED, check_session, from_key, manifest_key, session_prefix
from cachesync.model.outcomes import OnProgress, Progress, VerifyReport, no_progress
from cachesync.model.reports import Failure, Pending
from cachesync.model.values import Entry, Kind
from cachesync.root.tree import Tree
from cachesync.sync import manifest
from cachesync.sync.context import Context
from cachesync.sync.manifest import FoundManifest
from cachesync.sync.parallel import in_parallel
from cachesync.sync.remote_listing import Learner
from cachesync.sync.scanner.batch import ScanResult
from cachesync.sync.scanner.scan import Scanner
from cachesync.sync.verify_rules import Found, Known, difference

T = TypeVar("T")

THREADS = 8
"""Objects that are read at once; each holds a few pieces of at most 1 MiB in memory."""

MANIFEST = f"{RESERVED}/manifest.json"

_PAUSES = (0.1, 0.4)
_LOOKS = 3
_PIECE = 1024 * 1024
_GIVE_UP = 16
_TELL = 0.1


class Verifier:
    """``verify``. Safe to call from many threads; reads past every cache and writes nothing."""

    def __init__(self, context: Context, learner: Learner, scanner: Scanner) -> None:
        self._c = context
        self._learner = learner
        self._scanner = scanner

    def verify(self, session: str, *, progress: OnProgress = no_progress) -> VerifyReport:
        """Read every object of a session, of this host or of another, and compare.

        Raises NoSuchSession if neither the store nor the journal has anything of the session; StoreError if the
        manifest cannot be read.
        """
        check_session(session)
        begun = time.monotonic()
        stands = self._c.tree.session_directory(session) is not None
        scan = self._scanner.scan(session, recheck=True) if stands else ScanResult()
        found, flaws = self._manifest(session)
        run = _Run(self._c, session, found, progress)
        if found is None and not flaws:
            if not run.known() and not self._learner.is_stored(session):
                raise NoSuchSession("verify", session, "the store has nothing of it")
            flaws = ["there is none: the session was never flushed, or somebody removed it"]
        run.go()
        run.compare_disk()
        if found is not None:
            with contextlib.suppress(StoreTransient, StoreCredentials):  # what was found by then stands
                flaws = self._look_again(run, session, found, flaws)
        differences = [*(Failure(MANIFEST, flaw) for flaw in flaws), *scan.failures]
        differences += [Failure(*row) for row in sorted(run.differences.items())]
        pending = [Pending(*row) for row in sorted(run.pending.items())]
        return VerifyReport(session, run.files, run.bytes, differences, pending, time.monotonic() - begun)

    def _look_again(self, run: _Run, session: str, found: FoundManifest, flaws: list[str]) -> list[str]:
        """If somebody has flushed meanwhile, what differs from the old manifest need not differ from the new one."""
        for _ in range(_LOOKS):
            newer, flaws_now = self._manifest(session) if run.differences else (None, [])
            if newer is None or newer.version == found.version:
                break
            found, flaws = newer, flaws_now
            run.again(found)
        return flaws

    def _manifest(self, session: str) -> tuple[FoundManifest | None, list[str]]:
        """The session's manifest, and what is wrong with it."""
        key = manifest_key(self._c.prefix, session)
        try:
            found = _patiently(lambda: manifest.read(self._c.store, key))
        except ObjectNotFound:
            return None, []
        return found, found.flaws


class _Run:
    """One verification under way: what was read so far, and what was found."""

    def __init__(self, context: Context, session: str, found: FoundManifest | None, progress: OnProgress) -> None:
        self._c = context
        self._session = session
        self._prefix = session_prefix(context.prefix, session)
        self._manifest = found
        self._total_bytes = 0 if found is None else sum(row.size for row in found.files.values())
        self._progress = progress
        self.files = 0
        self.bytes = 0
        self.differences: dict[str, str] = {}
        self.pending: dict[str, str] = {}
        self._there: set[str] = set()
        self._again = False
        self._silent = 0
        self._told_at = 0.0
        self._lock = threading.Lock()

    def go(self) -> None:
        """Check everything that the store has or should have."""
        in_parallel(self._paths(), self._check, THREADS)

    def again(self, found: FoundManifest) -> None:
        """Check what differed against another manifest."""
        self._manifest, self._again = found, True
        paths, self.differences = iter(self.differences), {}
        in_parallel(paths, self._check, THREADS)

    def known(self) -> bool:
        """Whether the journal has an entry for a file of the session."""
        return next(self._entries(), None) is not None

    def compare_disk(self) -> None:
        """Find local files that the store lacks, and local files whose bytes differ from the stored ones."""
        paths = (entry.path for entry in self._entries() if entry.resident and not entry.tombstone)
        in_parallel(paths, self._compare_file, THREADS)

    def _compare_file(self, path: str, _: threading.Event) -> None:
        entry = self._c.journal.entries.entry(self._session, path)
        if entry is None or entry.tombstone or path in self.differences:
            return
        if entry.dirty:
            if entry.stored is None and path not in self._there:
                self.differences[path] = entry.error or "it is on this host, but not in the store"
        elif entry.stored is not None and entry.superseded is None and entry.stored.sha256 is not None:
            digest = local_digest(self._c.tree, entry)
            if digest not in {None, entry.stored.sha256}:
                self.differences[path] = "the local file differs from the stored bytes, but its times do not"

    def _entries(self) -> Iterator[Entry]:
        if self._session in self._c.journal.sessions.names():
            yield from (row for row in self._c.journal.entries.walk(self._session) if row.kind is Kind.FILE)

    def _confirmed(self) -> Iterator[str]:
        return (entry.path for entry in self._entries() if entry.stored is not None)

    def _paths(self) -> Iterator[str]:
        """Each path once: first what is listed, then what should have been."""
        seen: set[str] = set()
        try:
            for info in self._c.store.list(self._prefix):
                path = from_key(self._c.prefix, self._session, info.key)
                if path is not None:
                    seen.add(path)
                    yield path
                elif not info.key.endswith("/") and info.key != self._prefix + MANIFEST:
                    self.differences[info.key[len(self._prefix) :]] = "no manifest lists this object: it is no path"
        except (StoreTransient, StoreCredentials) as error:
            self.pending["."] = f"the listing broke off: {error.reason}"
        for path in () if self._manifest is None else self._manifest.files:
            if path not in seen:
                seen.add(path)
                yield path
        yield from (path for path in self._confirmed() if path not in seen)

    def _check(self, path: str, ended: threading.Event) -> None:
        if self._silent >= _GIVE_UP:
            self.pending[path] = "the store does not answer any more"
            return
        found, wrong = None, None
        try:
            found, wrong = self._look(path, ended)
        except (StoreTransient, StoreCredentials) as error:
            with self._lock:
                self._silent += 1
            self.pending[path] = error.reason
            return
        except IntegrityError as error:
            wrong = error.reason
        except NoSuchBucket:
            raise
        except StoreError as error:
            wrong = f"it cannot be read: {error.advice}"
        if found is not None:
            self._there.add(path)
        if wrong is not None:
            self.differences[path] = wrong
        self._count(found)

    def _look(self, path: str, ended: threading.Event) -> tuple[Found | None, str | None]:
        """Read and compare; again if it was replaced meanwhile, as a session that is worked on is."""
        for _ in range(_LOOKS):
            found = _patiently(lambda: self._read(path, ended))
            entry = self._c.journal.entries.entry(self._session, path)
            known = Known(self._manifest, self._c.journal.sessions.get(self._session))
            wrong = difference(path, found, entry, known)
            if wrong is None or self._etag(path) == (found and found.etag):
                break
        return found, wrong

    def _read(self, path: str, ended: threading.Event) -> Found | None:
        try:
            download = self._c.store.get(self._prefix + path)
        except ObjectNotFound:
            return None
        digest, size = hashlib.sha256(), 0
        for chunk in download.chunks:
            digest.update(chunk)
            size += len(chunk)
            if ended.is_set():
                raise StoreTransient("read", path, "the verification was given up")
        metadata, sha256 = download.info.metadata, digest.hexdigest()
        ours = metadata.get("sha256") == sha256 and self._is_latest(path, metadata.get(ATTEMPT, ""))
        return Found(download.info.version.etag, size, sha256, ours)

    def _is_latest(self, path: str, attempt: str) -> bool:
        """Whether ``attempt`` is this host's latest put of the path, confirmed or not."""
        entry = self._c.journal.entries.entry(self._session, path)
        if entry is None:
            return False
        tried = self._c.journal.lives.tried(entry, self._prefix + path, attempt)
        return tried is not None and tried.number >= entry.puts

    def _etag(self, path: str) -> str | None:
        try:
            return self._c.store.head(self._prefix + path).version.etag
        except ObjectNotFound:
            return None

    def _count(self, found: Found | None) -> None:
        with self._lock:
            self._silent = 0
            if found is not None and not self._again:
                self.files += 1
                self.bytes += found.size
            now = time.monotonic()
            if now - self._told_at < _TELL:
                return
            self._told_at = now
            rows = {} if self._manifest is None else self._manifest.files
            told = Progress(self.files, max(self.files, len(rows)), self.bytes, max(self.bytes, self._total_bytes))
        self._progress(told)


def local_digest(tree: Tree, entry: Entry) -> str | None:
    """Return the SHA-256 of the local file; None if its stat differs from the entry's."""
    file = tree.open(entry.session, entry.path)
    if file is None:
        return None
    with file:
        digest, at = hashlib.sha256(), 0
        while file.stat == entry.stat and (piece := file.read(at, _PIECE)):
            digest.update(piece)
            at += len(piece)
        return digest.hexdigest() if file.restat() == entry.stat else None


def _patiently(ask: Callable[[], T]) -> T:
    """What ``ask`` returns, after a second and third try if the store only hiccups."""
    for pause in _PAUSES:
        try:
            return ask()
        except StoreUnreachable:
            raise
        except StoreTransient:
            time.sleep(pause)
    return ask()
