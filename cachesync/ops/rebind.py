"""``rebind``: moves a root to another store.

Local files are stored again in the new store. The new store must already have the evicted files, by a copy of the
bucket; else the user must confirm that the journal forgets them. A copy of the journal is kept, because it records
where the bytes of these files are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

from cachesync.config import Config
from cachesync.daemon.engine import Engine
from cachesync.model.errors import ConfigError, ExitCode
from cachesync.model.keys import RESERVED, from_key, printable, session_prefix
from cachesync.model.record import record
from cachesync.model.reports import Failure, Json
from cachesync.model.values import Kind
from cachesync.store.base import ObjectStore


@record(frozen=True, slots=True)
class RebindReport:
    """The result of ``rebind``. ``files`` counts the local files, which ``store`` will get. ``missing`` are files that
    only ``was``, the old store, has. With such files the root is ``rebound`` only if the user confirmed that. ``kept``
    is the copy of the journal."""

    root: str
    store: str
    was: str | None
    files: int = 0
    missing: tuple[Failure, ...] = ()
    rebound: bool = False
    kept: str | None = None

    @property
    def exit_code(self) -> ExitCode:
        """FAILED if the root is not rebound."""
        return ExitCode.DONE if self.rebound else ExitCode.FAILED

    def json(self) -> Json:
        """Return what ``rebind --json`` prints."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return plain | {"missing": [{"path": printable(row.path), "error": row.error} for row in self.missing]}


def rebind(config: Config, store: ObjectStore, *, confirmed: bool) -> RebindReport:
    """Bind the root's journal to ``store``. ``confirmed`` lets the journal forget files that only the old store has.

    Raises RootLocked, UsageError, StoreError.
    """
    if config.embedded:
        cause = "no store is configured"
        raise ConfigError("rebind", str(config.root), cause, "set the new store, such as CACHESYNC_STORE=s3://BUCKET")
    engine = Engine(config, store, watched=False, bind=False, rebinds=True)
    try:
        next(iter(store.list(session_prefix(config.prefix, RESERVED))), None)  # is there a bucket?
        known = engine.journal.binding.get()
        names = engine.journal.sessions.names()
        missing = {name: rows for name in names if (rows := list(_missing(engine, name)))}
        report = RebindReport(
            str(config.root),
            config.store.shown,
            None if known is None else known.shown,
            sum(_standing(engine, name) for name in names),
            tuple(Failure(f"{name}/{row.path}", row.error) for name, rows in missing.items() for row in rows),
        )
        if known is None:  # the first upload binds it
            return replace(report, rebound=True)
        if missing and not confirmed:
            return report
        kept = config.state / f"journal.db.before-rebind-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        engine.journal.binding.keep(kept)
        for name, rows in missing.items():
            for row in rows:
                engine.journal.sessions.forget_evicted(name, row.path)
        engine.identity.rebind()
        return replace(report, rebound=True, kept=str(kept))
    finally:
        engine.close(0.2)


def _standing(engine: Engine, session: str) -> int:
    counts = engine.journal.waiting.counts(session)
    return counts.files - counts.evicted


def _missing(engine: Engine, session: str) -> Iterator[Failure]:
    """Yield the evicted files that the new store lacks or has with another size."""
    evicted = {
        entry.path: entry.stored.size
        for entry in engine.journal.entries.walk(session)
        if not entry.resident and entry.kind is Kind.FILE and entry.stored is not None
    }
    if not evicted:
        return
    prefix = engine.config.prefix
    there = {
        path: info.size
        for info in engine.store.list(session_prefix(prefix, session))
        if (path := from_key(prefix, session, info.key)) is not None
    }
    for path, size in sorted(evicted.items()):
        if path not in there:
            yield Failure(path, "it is neither on this host nor in the new store")
        elif there[path] != size:
            yield Failure(path, f"it is not on this host, and has {there[path]} bytes in the new store, not {size}")
