"""``migrate --dry-run``: what would be sent, and what that would cost. Reads; writes nothing anywhere."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cachesync.model.attributes import to_stored
from cachesync.model.errors import FileChanging, FileUnreadable, ObjectNotFound, Unstorable
from cachesync.model.keys import from_key, manifest_key, session_prefix, to_key
from cachesync.model.outcomes import MigrateReport, OnProgress, Progress, no_progress
from cachesync.model.record import record
from cachesync.model.values import FileStat, Kind, ObjectInfo
from cachesync.ops.migrate.survey import Survey
from cachesync.ops.migrate.tally import Tally, put_requests
from cachesync.root.snapshot import take
from cachesync.root.tree import Tree
from cachesync.sync import manifest
from cachesync.sync.manifest import FoundManifest, ManifestFile
from cachesync.sync.parallel import in_parallel

if TYPE_CHECKING:
    from cachesync.config import Config
    from cachesync.store.base import ObjectStore

_THREADS = 8
_TELL = 0.1


@record(frozen=True, slots=True)
class _Candidate:
    """A file, and what the store has at its key."""

    session: str
    path: str
    stat: FileStat
    object: ObjectInfo | None
    row: ManifestFile | None


def rehearse(config: Config, store: ObjectStore, *, progress: OnProgress = no_progress) -> MigrateReport:
    """Count what ``migrate`` would send. A file whose object is as long is read and compared by checksum; an object
    that carries none counts as to be sent. Raises UsageError, RootHalted, StoreError."""
    begun = time.monotonic()
    with contextlib.closing(Tree(config.root, writable=False)) as tree:
        return _Rehearsal(config, store, tree, progress).run(begun)


class _Rehearsal:
    def __init__(self, config: Config, store: ObjectStore, tree: Tree, progress: OnProgress) -> None:
        self._config = config
        self._store = store
        self._tree = tree
        self._progress = progress
        self._tally = Tally()
        self._survey = Survey(tree)
        self._requests = 0
        self._to_commit: set[str] = set()
        """Sessions whose manifest would be written."""
        self._lock = threading.Lock()
        self._told_at = 0.0

    def run(self, begun: float) -> MigrateReport:
        names, others = self._tree.sessions()
        in_parallel(self._candidates(names), self._judge, _THREADS)
        self._tally.skipped += [*others, *self._survey.skipped]
        for failure in self._survey.failed:
            self._tally.fail(failure.path, failure.error)
        return self._tally.report(
            str(self._config.root),
            dry_run=True,
            sessions=len(names),
            requests=self._requests + len(self._to_commit - self._incomplete()),
            seconds=time.monotonic() - begun,
        )

    def _incomplete(self) -> set[str]:
        """Sessions of which not everything can be stored: their manifest has to wait."""
        paths = [*(row.path for row in self._tally.failed), *(row.path for row in self._tally.pending)]
        return {path.partition("/")[0] for path in paths}

    def _candidates(self, names: list[str]) -> Iterator[_Candidate]:
        for name in names:
            prefix = session_prefix(self._config.prefix, name)
            found = self._manifest(name)
            if found is None:
                self._to_commit.add(name)
            rows = {} if found is None else found.files
            objects = {
                path: info
                for info in self._store.list(prefix)
                if (path := from_key(self._config.prefix, name, info.key)) is not None
            }
            others = dict[str, FileStat]()
            for path, stat in self._survey.entries(name):
                if stat.kind is Kind.FILE:
                    yield _Candidate(name, path, stat, objects.get(path), rows.get(path))
                else:
                    others[path] = stat
            if found is not None and _listed(others) != _listed(dict(found.others)):
                with self._lock:
                    self._to_commit.add(name)

    def _manifest(self, session: str) -> FoundManifest | None:
        try:
            return manifest.read(self._store, manifest_key(self._config.prefix, session))
        except ObjectNotFound:
            return None

    def _judge(self, candidate: _Candidate, _: threading.Event) -> None:
        where, size = f"{candidate.session}/{candidate.path}", candidate.stat.size
        try:
            present = self._is_present(candidate)
        except FileChanging as error:
            self._tally.wait(where, error.reason, size)
            return
        except (FileUnreadable, Unstorable) as error:
            self._tally.fail(where, error.reason, size)
            return
        if present is None:
            return
        self._tally.stored(size, sent=not present)
        with self._lock:
            if not present:
                self._requests += put_requests(size)
                self._to_commit.add(candidate.session)
            if (now := time.monotonic()) - self._told_at < _TELL:
                return
            self._told_at = now
        files, size = self._tally.counts["files"], self._tally.counts["bytes"]
        self._progress(Progress(files, files, size, size))

    def _is_present(self, candidate: _Candidate) -> bool | None:
        """Whether the store has the file's bytes and mode; None if there is no such file any more."""
        key = to_key(self._config.prefix, candidate.session, candidate.path)
        file = self._tree.open(candidate.session, candidate.path)
        if file is None:
            return None
        with file:
            if candidate.object is None or candidate.object.size != file.stat.size:
                return False
            row = candidate.row
            if row is not None and row.etag == candidate.object.version.etag and row.sha256 is not None:
                sha256, mode = row.sha256, row.mode
            else:
                stored = to_stored(self._store.head(key), fallback_mode=file.stat.mode)
                if stored.sha256 is None:
                    return False
                sha256, mode = stored.sha256, stored.mode
            return mode == file.stat.mode and take(file).body.sha256 == sha256


def _listed(others: dict[str, FileStat]) -> dict[str, tuple[object, ...]]:
    """What a manifest shows of links and directories."""
    return {
        path: (stat.kind, stat.mtime_ns, stat.target if stat.kind is Kind.LINK else stat.mode)
        for path, stat in others.items()
    }
