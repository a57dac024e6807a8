"""Evicts local files whose bytes the store has, and no others (P10).

The journal records an eviction before the file is removed. If the process dies in between, the file still exists, and
the next scan records it as resident again. The other order could leave an expected file missing, which would count as a
deletion (P8). Each file is moved out of the tree, checked where no path leads to it, and then removed or put back.

All of that happens under the session lock (journal.turns), so a program at the mount sees only the state before or
after it.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

from cachesync.journal.session_lock import Turn
from cachesync.model.errors import FileUnreadable, FileUnwritable
from cachesync.model.events import What
from cachesync.model.outcomes import EvictReport
from cachesync.model.reports import Pending
from cachesync.model.values import Entry, FileStat, Kind
from cachesync.root.session_dir import Ground, drop_leftover
from cachesync.root.staging import Leftover, Staging
from cachesync.sync.context import Context
from cachesync.sync.remote_listing import Astray
from cachesync.sync.scanner.batch import ScanResult
from cachesync.sync.scanner.scan import Scanner
from cachesync.watch.hints import Hint

logger = logging.getLogger(__name__)

IN_USE = "a program has it open for writing"
"""Also the reason for a file that a program at the mount has just closed: the kernel reports the close with a delay."""

_BATCH = 100
"""Entries that are evicted under one lock. Other changes of the session's names wait some milliseconds for it."""


@dataclass(slots=True)
class _Run:
    """One eviction of one session. ``kept`` maps each path that stays to the reason. ``above`` are the directories that
    contain such a path, ``emptied`` those from which an entry was removed."""

    ground: Ground
    force: bool
    evicted: int = 0
    bytes: int = 0
    kept: dict[str, str] = field(default_factory=dict)
    above: set[str] = field(default_factory=set)
    emptied: set[str] = field(default_factory=set)

    def take(self, path: str) -> None:
        """Record that a path was removed from its directory."""
        self.emptied.add(path.rstrip("/").rpartition("/")[0] + "/")

    def keep(self, path: str, reason: str) -> None:
        """Record that a path stays, and why."""
        self.kept[path] = reason
        parent = path.rstrip("/").rpartition("/")[0]
        while parent and parent + "/" not in self.above:
            self.above.add(parent + "/")
            parent = parent.rpartition("/")[0]


class Evictor:
    """Evicts sessions. The caller runs at most one eviction of a session at a time."""

    def __init__(self, context: Context, scanner: Scanner) -> None:
        self._c = context
        self._scanner = scanner

    def evict(
        self,
        session: str,
        staging: Staging,
        scan: ScanResult,
        astray: Astray,
        *,
        force: bool = False,
        closing: bool = False,
    ) -> EvictReport:
        """Evict clean, idle files. ``scan`` and ``astray`` are recent differences between the journal and the disk or
        the store. With ``force``, an unknown writer counts as none. The directory of a session of which the
        store has nothing is removed only if it is ``closing``. Raises RootHalted, JournalUnavailable."""
        with Ground(self._c.tree, session, staging) as ground:
            run = _Run(ground, force)
            for failure in scan.failures:
                run.keep(failure.path, failure.error)
            for skipped in scan.skipped:
                run.keep(skipped.path, skipped.reason)
            self._c.pulse.beat()
            directories = self._files(run, astray)
            self._directories(run, directories)
            with self._c.journal.turns.alone(session):
                # The mount shows no session that is neither here nor in the store: its agent could not get in any more.
                entries = self._c.journal.entries
                goes = not run.kept and (closing or entries.any_away(session))
                # What the journal expects in an empty directory is a deletion that was not noticed yet.
                if goes and (entries.any_resident(session) or not ground.remove()):
                    run.keep(".", "a program created or deleted something in it a moment ago")
        kept = [Pending(path, reason) for path, reason in sorted(run.kept.items())]
        logger.info("evicted", extra={"session": session, "files": run.evicted, "bytes": run.bytes, "kept": len(kept)})
        self._c.events.tell(What.EVICTED, session, files=run.evicted, bytes=run.bytes)
        return EvictReport(session, run.evicted, run.bytes, kept)

    def drop_superseded(self, session: str, staging: Staging, astray: Astray) -> None:
        """Evict the clean, idle files of which another host has stored a newer version. Raises as ``evict``."""
        with Ground(self._c.tree, session, staging) as ground:
            entries = (self._c.journal.entries.entry(session, path) for path in sorted(astray.replaced))
            resident = (entry for entry in entries if entry is not None and entry.resident and not entry.tombstone)
            self._drop_batches(_Run(ground, force=False), (e for e in resident if _must_stay(e, astray) is None))

    # -- files and links -----------------------------------------------------------------------------------------------

    def _files(self, run: _Run, astray: Astray) -> list[Entry]:
        """Evict files and links. Returns the directories."""
        directories = list[Entry]()
        self._drop_batches(run, self._candidates(run, astray, directories))
        return directories

    def _drop_batches(self, run: _Run, candidates: Iterator[Entry]) -> None:
        session = run.ground.session
        while batch := list(itertools.islice(candidates, _BATCH)):
            with self._c.journal.turns.alone(session) as turn:
                back = self._drop(run, batch, turn)
            if back:
                self._scanner.notice(session, {entry.path: Hint.CHANGED for entry in back})

    def _drop(self, run: _Run, batch: list[Entry], turn: Turn) -> list[Entry]:
        """Evict the entries that are not in use.

        Returns entries that stay because they changed after the journal recorded their eviction. They are resident
        again.
        """
        session, back = run.ground.session, list[Entry]()
        idle = [entry for entry in batch if not self._is_kept(run, entry, turn)]
        accepted = self._c.journal.residence.evicted(session, [(e, run.ground.rights(e.path)) for e in idle])
        going = {entry.path for entry in accepted}
        for entry in idle:
            if entry.path not in going:
                run.keep(entry.path, "it changed a moment ago")
        for entry in accepted:
            if (reason := self._take_out(run, entry)) is not None:
                run.keep(entry.path, reason)
                back.append(entry)
                continue
            run.take(entry.path)
            if entry.kind is Kind.FILE:
                run.evicted += 1
                run.bytes += entry.stat.size if entry.stat is not None else 0
        if back:
            self._c.journal.residence.not_evicted(session, back)
        return back

    def _is_kept(self, run: _Run, entry: Entry, turn: Turn) -> bool:
        """Check the disk: whether the file or link stays. Records the reason."""
        if entry.stat is None:
            reason: str | None = "it was not scanned yet"
        elif entry.kind is Kind.FILE and turn.is_written(entry.stat.inode):
            reason = IN_USE
        else:
            reason = run.ground.refuses(entry.path, entry.stat, force=run.force)
        if reason is not None:
            run.keep(entry.path, reason)
        return reason is not None

    def _candidates(self, run: _Run, astray: Astray, directories: list[Entry]) -> Iterator[Entry]:
        """Check the journal: yield the files and links that may go. Records what stays, and collects directories."""
        for entry in self._c.journal.entries.walk(run.ground.session):
            if entry.tombstone and entry.dirty:
                run.keep(entry.path, "its deletion is not stored yet")
            elif not entry.resident or entry.tombstone:
                continue
            elif entry.kind is Kind.DIRECTORY:
                directories.append(entry)
            elif (reason := _must_stay(entry, astray)) is not None:
                run.keep(entry.path, reason)
            else:
                yield entry

    def _take_out(self, run: _Run, entry: Entry) -> str | None:
        """Remove one file or link, unless it is resident again in the journal. Returns why it stays, or None."""

        def still() -> bool:
            now = self._c.journal.entries.entry(entry.session, entry.path)
            return now is not None and not now.resident

        try:
            return None if entry.stat is None else run.ground.take_out(entry.path, entry.stat, still, force=run.force)
        except FileUnwritable as error:
            return error.reason

    # -- directories ---------------------------------------------------------------------------------------------------

    def _directories(self, run: _Run, directories: list[Entry]) -> None:
        """Remove empty directories, the deepest first. Directories that stay get back their mtime."""
        deepest_first = iter(sorted(directories, key=lambda entry: -entry.path.count("/")))
        while batch := list(itertools.islice(deepest_first, _BATCH)):
            with self._c.journal.turns.alone(run.ground.session):
                back = self._remove(run, batch)
            if back:
                self._scanner.notice(run.ground.session, back)

    def _remove(self, run: _Run, batch: list[Entry]) -> dict[str, Hint]:
        """Remove the empty directories of the batch. Returns hints for those that must be scanned again."""
        session, ground = run.ground.session, run.ground
        going, staying = dict[str, Entry](), list[Entry]()
        for entry in batch:
            reason = self._directory_must_stay(entry, going, run)
            if reason is None:
                going[entry.path] = entry
                continue
            if reason:
                run.keep(entry.path, reason)
            staying.append(entry)
        empty = [(entry, ground.rights(entry.path)) for entry in going.values()]
        accepted = self._c.journal.residence.evicted_directories(session, empty)
        back: dict[str, Hint] = {}

        def remove(path: str) -> None:
            try:
                if ground.remove_directory(path):
                    run.take(path)
                else:
                    back[path.rstrip("/")] = Hint.TREE
            except FileUnwritable as error:
                run.keep(path, error.reason)
                back[path.rstrip("/")] = Hint.TREE

        for path in self._c.journal.residence.while_evicted(session, [entry.path for entry in accepted], remove):
            run.keep(path, "it changed a moment ago")
        for entry in staying:
            if entry.path in run.emptied and entry.stat is not None:
                self._reset_time(ground, entry.path.rstrip("/"), entry.stat)
        return back

    def _directory_must_stay(self, entry: Entry, going: dict[str, Entry], run: _Run) -> str | None:
        """Return why a directory stays, or None if it may go.

        The reason is "" if the directory is missing, or if a path in it has a reason.
        """
        try:
            listing = self._c.tree.listing(run.ground.session, entry.path)
        except FileUnreadable as error:
            return error.reason
        if listing is None:
            return ""
        if listing.special or any(f"{entry.path}{name}/" not in going for name in listing.found):
            return "" if entry.path in run.above else "it is not empty"
        return "its mode or time is not in the manifest yet" if entry.dirty else None

    def _reset_time(self, ground: Ground, path: str, told: FileStat) -> None:
        found = self._c.tree.lstat(ground.session, path)
        if isinstance(found, FileStat) and (found.inode, found.mode) == (told.inode, told.mode):
            ground.finish_directory(path, told.mode, told.mtime_ns)

    # -- after a crash -------------------------------------------------------------------------------------------------

    def recover(self, staging: Staging) -> None:
        """Finish the evictions of a crashed process: remove a file if it is the evicted one, else put it back. If a
        session's directory cannot be opened, the next start tries again."""
        for left in staging.leftovers():
            try:
                if not self._finish(left):
                    self._c.make_session(left.session, staging)
                    with Ground(self._c.tree, left.session, staging) as ground:
                        ground.put_back(left)
                    logger.warning("file put back", extra={"session": left.session, "path": left.path})
            except (FileUnreadable, FileUnwritable) as error:
                logger.error("file not put back yet: %s", error, extra={"session": left.session, "path": left.path})

    def _finish(self, left: Leftover) -> bool:
        entry = self._c.journal.entries.entry(left.session, left.path)
        if entry is None or entry.stat is None or entry.dirty:
            return False
        if self._c.tree.lstat(left.session, left.path) == entry.stat:
            return drop_leftover(self._c.tree, left, None)  # its downloaded replacement
        return drop_leftover(self._c.tree, left, entry.stat)


def _must_stay(entry: Entry, astray: Astray) -> str | None:
    """Return why the journal or the store does not allow the eviction of a file or link; None if they do."""
    if entry.dirty:
        return entry.error or "it is not stored yet"
    if entry.unsettled:
        return "a program may still write to it"
    if entry.kind is Kind.FILE and entry.stored is None:
        return "it is not stored"
    if entry.path in astray.deleted:
        return "another host deleted it in the store"
    if entry.path in astray.replaced and (entry.superseded is None or entry.superseded.stored is None):
        return "another host replaced it in the store"
    return None
