"""Every check, one after the other, each with a limit in time, so that doctor ends whatever hangs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from cachesync.api.client import ControlClient
from cachesync.daemon.store_factory import open_store, s3_settings
from cachesync.journal.database import check_sound, store_of
from cachesync.journal.journal import check_store
from cachesync.model.errors import CacheSyncError
from cachesync.model.keys import RESERVED
from cachesync.model.reports import NOT_CONFIGURED
from cachesync.ops.doctor import host, probes, root_checks, stored
from cachesync.ops.doctor.finding import Finding, Verdict, problem, warning
from cachesync.store.folder import is_store
from cachesync.sync.run_with_timeout import StillRunning, within

if TYPE_CHECKING:
    from cachesync.config import Config
    from cachesync.model.reports import StatusReport
    from cachesync.store.devserver import DevServer

ANSWER = 10.0
"""Seconds for one answer of the store."""

_LOCAL = 20.0
_STORE = 30.0
"""Seconds until the next finding: of this machine, and of the store, which may need a few answers for it."""

_DAEMON = 5.0


def examine(config: Config, dev_server: DevServer | None = None) -> Iterator[Finding]:
    """Every finding, as it comes. ``dev_server`` is the one that the daemon of this root runs."""
    status, silent = _status(config)
    yield from _bounded("root", _LOCAL, lambda: _ground(config, status))
    yield from host.daemon(status, silent)
    if sys.platform.startswith("linux"):
        yield from _bounded("watches", _LOCAL, lambda: _host(config, status))
        yield from _bounded("mounts", _LOCAL, lambda: _mounting(config))
    yield from _bounded("store", _STORE, lambda: _store(config, dev_server, status))


def _bounded(check: str, seconds: float, call: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings of ``call``, each within ``seconds``; one that takes longer is the last."""
    try:
        findings = iter(call())
        while (found := within(seconds, lambda: next(findings, None))) is not None:
            yield found
    except StillRunning:
        yield problem(check, f"no answer within {seconds:.0f} s; what comes after was not checked", "what hangs there?")
    except OSError as error:
        yield problem(check, f"{error.filename or 'looking'}: {error.strerror}", "let this user look there")


def _status(config: Config) -> tuple[StatusReport | None, CacheSyncError | None]:
    client = ControlClient.of(config)
    try:
        return (within(_DAEMON, client.status), None) if client.is_serving() else (None, None)
    except CacheSyncError as error:
        return None, error
    except StillRunning:
        return None, CacheSyncError("ask", str(config.socket), f"no answer within {_DAEMON:.0f} s", "see its log")


def _ground(config: Config, status: StatusReport | None) -> Iterator[Finding]:
    root, state = probes.where_it_leads(config.root), probes.folder(config.state)
    journal = config.state / "journal.db"
    there = os.path.lexists(journal)
    yield from root_checks.root(root, state=state.real, known=there)
    if root.error is None:
        yield from root_checks.space(probes.space(config.root))
    device = root.device if root.error is None else None
    yield from root_checks.state(state, root_device=device, user=os.geteuid())
    # Where nothing is configured, the daemon's store is the one that counts (``run --dev-server``).
    store = status.store if status is not None and config.embedded else config.store.shown
    yield from root_checks.journal(str(journal), there=there, fault=_journal_fault(journal, store) if there else None)
    beside = state.device == device
    yield from root_checks.capabilities(probes.capabilities(config.state / "tmp" if beside else config.root / RESERVED))


def _journal_fault(path: Path, store: str) -> CacheSyncError | None:
    try:
        check_sound(path)
        check_store(path, store)
    except CacheSyncError as error:
        return error
    return None


def _host(config: Config, status: StatusReport | None) -> Iterator[Finding]:
    daemon = status.daemon.pid if status is not None and status.daemon is not None else None
    yield from host.watches(probes.inotify(config.root, daemon))
    yield from host.open_files(probes.open_files(daemon), config.transfers)


def _mounting(config: Config) -> Iterator[Finding]:
    root = probes.where_it_leads(config.root)
    found = probes.mounting(root.kind)
    able = host.mounting(found)
    yield from able
    if all(row.verdict is Verdict.OK for row in able):
        yield from host.passthrough(found)
        yield from host.polling(probes.polling())
    yield from host.mounts(probes.mounts(), root.real)


def _store(config: Config, dev_server: DevServer | None, status: StatusReport | None) -> Iterator[Finding]:
    if status is not None and status.store != config.store.shown:
        yield from stored.another(status.store, config.store.shown, chosen=not config.embedded)
        if config.embedded:
            return
    if config.embedded:
        yield warning("store", NOT_CONFIGURED, "set store to s3://BUCKET/PREFIX and require_remote to true")
    if config.store.bucket is not None:
        from cachesync.ops.doctor import bucket

        settings = replace(s3_settings(config, config.store.bucket, dev_server), timeout=ANSWER)
        yield from bucket.examine(settings, config.prefix)
        return
    from cachesync.ops.doctor import objects

    if config.store.scheme == "file":
        place = Path(unquote(config.store.place))
        begun = is_store(str(place))  # opening it would make it one, be it the bare place where a disk was mounted
        known = store_of(config.state / "journal.db") == config.store.shown
        root = probes.where_it_leads(config.root)
        yield from root_checks.store(probes.where_it_leads(place), root, begun=begun, known=known)
        if not begun:
            yield from stored.versioning(None, objects.NO_VERSIONS)
            return
    try:
        store = open_store(replace(config, bandwidth=None))
    except CacheSyncError as error:
        yield from stored.unreachable(error)
        return
    yield from objects.examine(store, config.prefix, config.store.shown)
    store.close()
