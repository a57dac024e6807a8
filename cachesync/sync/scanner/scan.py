"""The scanner: finds changes at hinted paths or in a whole session, and marks them in the journal."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Unpack

from cachesync.journal.journal import Journal
from cachesync.model.errors import FileUnreadable
from cachesync.model.events import Events, What
from cachesync.model.ignore import FILE_NAME
from cachesync.model.keys import is_reserved, is_session_name
from cachesync.model.policy import Pace
from cachesync.model.reports import Failure
from cachesync.model.values import Entry, FileStat, Kind, Mark, Session, Skipped
from cachesync.root.tree import Tree, tells_births
from cachesync.sync.scanner.batch import Batch, ScanOptions, ScanResult, Steps, finish
from cachesync.sync.scanner.ignoring import Ignoring
from cachesync.sync.scanner.judging import is_another_directory, is_change, judge
from cachesync.sync.scanner.presence import Presence
from cachesync.sync.scanner.rereading import reread
from cachesync.watch.hearing import Hearing
from cachesync.watch.hints import Hint

logger = logging.getLogger(__name__)

_BATCH = 1000
"""Files between two commits of a scan, and between two pauses of a scan in steps."""

_HINTED, _STEP, _DIRECTORY = 250, 0.03, 20
"""The most hints of a step, and seconds; the files of a listing that cost as much as one directory."""

_LATE, _UNDECIDED = 2.0, 0.2
"""Seconds after a change until its hint counts as missing, and until a missing path is checked again."""


class Scanner:
    """Marks differences between disk and journal. Safe to call from many threads.

    ``wake`` is called after a path was marked. ``tick`` is the resolution of the file system's time stamps, in seconds.
    """

    def __init__(
        self,
        tree: Tree,
        journal: Journal,
        pace: Pace,
        clock: Callable[[], float],
        wake: Callable[[], None],
        events: Events,
        hearing: Hearing,
        tick: float,
    ) -> None:
        self._hearing = hearing
        self._tick_ns = int(tick * 1e9)
        self._tree = tree
        self._journal = journal
        self._pace = pace
        self._clock = clock
        self._wake = wake
        self._tell = events.tell
        self._ignoring = Ignoring(tree, journal)
        self.presence = Presence(tree, journal, pace, clock, events)
        self.unseen: dict[str, list[Failure]] = {}
        """The failures of each session's last whole scan. It is unknown whether these paths are stored."""

    def notice(self, session: str, hints: Mapping[str, Hint]) -> None:
        """Do all steps of ``notice_in_steps``."""
        finish(self.notice_in_steps(session, hints))

    def notice_in_steps(self, session: str, hints: Mapping[str, Hint]) -> Steps[None]:
        """Compare the hinted paths of a session with the journal ("" is its directory). A step takes some 30 ms.

        A missing path becomes a tombstone only if its hint or its directory's hint reports the deletion (P7). The hint
        of a directory does not count in a session that is in doubt.

        Raises RootHalted, and FileUnreadable if the session's directory cannot be read.
        """
        if not is_session_name(session):
            return
        if "" in hints and hints[""] & Hint.GONE:
            self.presence.heard_replaced(session)
        row = self.presence.meet(session)
        if row is None:
            return
        if FILE_NAME in hints:
            self._ignoring.forget(session)
        self.presence.hear(session, hints.values())
        batch = Batch([])
        trees: dict[str, bool] = {}
        yield from self._look_at_all(session, hints, batch, trees)
        for tree, gone in trees.items():
            yield from self._scan_tree(session, tree, gone=gone and not row.doubted)

    def scan(self, session: str, directory: str = "", **options: Unpack[ScanOptions]) -> ScanResult:
        """Do all steps of ``scan_in_steps``, and return its result."""
        return finish(self.scan_in_steps(session, directory, **options))

    def scan_in_steps(
        self,
        session: str,
        directory: str = "",
        *,
        recheck: bool = False,
        unwritten: bool = False,
        expired: Callable[[], bool] = lambda: False,
        whole: Callable[[], bool] | None = None,
    ) -> Steps[ScanResult]:
        """Compare everything under ``directory`` ("" or ending in "/"). Stops unfinished if ``expired`` returns True.

        Between two steps, which take some 30 ms, other sessions may be scanned.
        ``recheck`` reads clean files again whose bytes may have changed without a change of their stat. ``unwritten``
        makes an unknown writer count as none.

        Only a scan of the whole session decides about missing paths. They were deleted if the scan was still, the
        session is not in doubt (``Session.doubted``), no mount changed above them, and the file system records birth
        times. Else they are evicted or left to the next scan. A scan is still if no directory changed while it ran, or
        if ``whole`` says that it missed no file. This is checked only if a decision needs it or ``whole`` is given.
        A session directory that cannot be read is a failure in the result. Raises RootHalted.
        """
        result = ScanResult(still=True)
        try:
            row = self.presence.meet(session)
        except FileUnreadable as error:
            result.failures.append(Failure(".", error.reason))
            self.unseen[session] = result.failures
            return result
        if row is None:
            return result
        if not directory:
            self._ignoring.forget(session)
        batch = Batch([directory], recheck, expired)
        yield from self._walk(session, batch, result)
        if batch.own is not None and batch.own != (row.mode, row.rights):
            self.presence.look_at_rights(session)
        if directory and batch.missing and result.finished:  # only a whole scan decides about missing paths
            return (yield from self.scan_in_steps(session, recheck=recheck, expired=expired))
        if result.finished and not directory:
            # A directory may have no entry of its own, although paths in it have one.
            expected = self._journal.entries.directories(session, directory)
            batch.missing += [path for path in expected if path not in batch.met]
            if whole is not None or batch.missing or batch.others or row.doubted:
                result.still = self.stood_still(session, batch.stamps) or (whole is not None and whole())
                self._decide(row, batch, still=result.still)
        if result.finished and batch.unsettled:
            yield
            result.finished = self._reread(session, batch, unwritten=unwritten)
        result.stamps = batch.stamps
        result.marked, result.changed, result.untold = batch.marked, batch.changed, batch.untold
        if not directory and result.finished:
            self.unseen[session] = result.failures
        return result

    def _scan_tree(self, session: str, directory: str, *, gone: bool) -> Steps[None]:
        """Compare everything under a hinted directory. ``gone``: the hint reported a deletion or replacement there."""
        batch = Batch([directory])
        yield from self._walk(session, batch, ScanResult())
        if not directory:
            self.presence.look_at_rights(session)
        if gone:
            self._delete(session, self._ignoring.rest(session, batch.missing), batch)
            batch.marks += batch.others.values()
            self._commit(session, batch)

    def _walk(self, session: str, batch: Batch, result: ScanResult) -> Steps[None]:
        while batch.trees:
            if batch.expired():
                result.finished = False
                break
            yield from self._compare(session, batch.trees.pop(), batch, result)
            batch.looked += _DIRECTORY
            if len(batch.marks) >= _BATCH or batch.looked >= _BATCH:
                self._commit(session, batch)
            if batch.looked >= _BATCH:
                batch.looked = 0
                yield
        self._commit(session, batch)

    def stood_still(self, session: str, stamps: Mapping[str, int]) -> bool:
        """Whether no directory changed since the scan that filled ``stamps`` listed it.

        If so, the scan saw the whole tree as it was at one moment.
        """
        return all(self._tree.stamp(session, directory) == stamp for directory, stamp in stamps.items())

    def look_again(self, entry: Entry) -> None:
        """Compare a path whose state on disk is not the entry's, and postpone its upload."""
        path = entry.path.rstrip("/")
        self.notice(entry.session, {path: Hint.ATTRIBUTES})  # not a creation or write
        stands = self.presence.stands(entry.session, entry.path)
        # Only a hint or a scan decides about a missing path, so an earlier check is useless.
        pause = self._pace.settle if stands or entry.tombstone else _UNDECIDED
        self._journal.work.postpone(entry, self._clock() + pause)

    def changed_since_read(self, session: str, paths: Sequence[str]) -> bool:
        """Read the unsettled files among ``paths`` again. Returns whether any changed; these are dirty then."""
        entries = [entry for path in paths if (entry := self._journal.entries.entry(session, path)) is not None]
        doubtful = [entry for entry in entries if entry.unsettled]
        batch = Batch(unsettled=[entry.path for entry in doubtful if not entry.dirty])
        self._reread(session, batch, unwritten=False)
        return batch.marked > 0 or any(entry.dirty for entry in doubtful)

    def left_out(self, session: str, path: str) -> str | None:
        """Return why a path is skipped or ignored, or None. Raises RootHalted."""
        found = self._tree.lstat(session, path)
        if isinstance(found, Skipped):
            return found.reason
        return self._ignoring.rules(session).reason(path, found is not None and found.kind is Kind.DIRECTORY)

    def forget_rules(self, session: str | None) -> None:
        """Discard the cached ignore rules of one session, or of all (None)."""
        self._ignoring.forget(session)

    # -- one directory, one path ---------------------------------------------------------------------------------------

    def _compare(self, session: str, directory: str, batch: Batch, result: ScanResult) -> Steps[None]:
        batch.met.add(directory)
        seen = self._journal.entries.seen(session, directory)
        try:
            listing = self._tree.listing(session, directory, seen)
        except FileUnreadable as error:
            result.failures.append(Failure(directory or ".", error.reason))
            return
        if listing is None:
            if directory:
                batch.missing.append(directory)
            return
        # A later change within the same tick would get the same stamp.
        young = 0 <= listing.stamped_at - listing.stamp < self._tick_ns
        batch.stamps[directory] = -1 if young else listing.stamp
        if listing.volume is not None:
            batch.volumes[directory] = listing.volume
        batch.own = batch.own or listing.own
        result.skipped.extend(listing.special)
        known = self._journal.entries.children(session, directory) if listing.found else {}
        ignored = self._ignoring.leave_out(session, directory, listing, known, result)
        batch.trees.extend(f"{directory}{name}/" for name in listing.directories() if name not in ignored)
        for count, (name, stat) in enumerate(listing.found.items(), 1):
            if not count % _BATCH:
                self._commit(session, batch)
                yield
                if batch.expired():
                    result.finished = False
                    return
            place = name + "/" * (stat.kind is Kind.DIRECTORY)
            raw = os.fsencode(place)
            seen.pop(raw, None)
            if name in ignored:
                continue
            if is_another_directory(stat, row := known.get(raw)):
                batch.others[directory + place] = Mark(directory + place, stat, self._clock())
            else:
                judge(directory + place, stat, row, batch, now=self._clock(), pace=self._pace)
        batch.looked += len(listing.found) % _BATCH
        missing = [name for raw in seen if (name := os.fsdecode(raw)).rstrip("/") not in ignored]
        batch.missing += [directory + name for name in missing]

    # -- what is missing -----------------------------------------------------------------------------------------------

    def _decide(self, row: Session, batch: Batch, *, still: bool) -> None:
        """Decide about the missing paths of a whole scan: deleted, evicted, or left to the next scan.

        ``row`` is from before the scan.
        """
        session, missing = row.name, self._ignoring.rest(row.name, batch.missing)
        if not (missing or batch.others or row.doubted):
            return
        self._hearing.catch_up(session)  # process the hints of deletions first
        if not still:
            return
        if missing and (batch.volumes or self._journal.sessions.has_mounts(session)):
            self.presence.vanished(session, (), {path: batch.volume_of(path) for path in missing})
        unseen = missing
        if not row.doubted:
            unseen = [path for path in missing if any(path.startswith(other) for other in batch.others)]
            rest = [] if len(unseen) == len(missing) else sorted({*missing} - {*unseen})
            if tells_births(row.directory):
                self._delete(session, rest, batch)
            elif self._clock() - self.presence.last_gone(session)[0] > _LATE:  # no hint is on its way
                unseen += rest
        if unseen:
            self.presence.vanished(session, unseen)
        batch.marks += batch.others.values()
        self._commit(session, batch)
        # If a missing path exists again, the next scan decides: it may be a directory that lost its content.
        if row.doubted and not any(self.presence.stands(session, path) for path in missing):
            self._journal.sessions.trust(session)

    def _delete(self, session: str, missing: Sequence[str], batch: Batch) -> None:
        for path in missing:
            if not path.endswith("/"):
                batch.marks.append(Mark(path, None, self.presence.gone_due()))
            elif not self.presence.stands(session, path):
                batch.marked += self.presence.tree_gone(session, path)

    def _look_at_all(
        self, session: str, hints: Mapping[str, Hint], batch: Batch, trees: dict[str, bool]
    ) -> Steps[None]:
        begun = self._clock()
        for count, (path, hint) in enumerate(hints.items(), 1):
            # Hints of deletions write the journal one by one, and wait for its other writers.
            if not count % _HINTED or self._clock() - begun > _STEP:
                self._commit(session, batch)
                yield
                begun = self._clock()
            if not path:
                trees[""] = False
            elif not is_reserved(path):
                try:
                    self._look(session, path, hint, batch, trees)
                except FileUnreadable as error:
                    logger.warning("%.200s: %s", path, error.reason, extra={"session": session})
        self._commit(session, batch)

    def _look(self, session: str, path: str, hint: Hint, batch: Batch, trees: dict[str, bool]) -> None:
        rules = self._ignoring.rules(session)
        left_out = rules.reason(path, is_dir=False)
        if left_out and rules.reason(path, is_dir=True):
            return  # ignored as a file and as a directory
        known = self._journal.entries.known(session, path)
        stat = self._tree.lstat(session, path)
        if isinstance(stat, FileStat) and stat.kind is Kind.DIRECTORY:
            if not rules.reason(path, is_dir=True):
                self._look_at_directory(session, path, hint, batch, trees, stat, is_known=known is not None)
        elif left_out:
            return
        elif isinstance(stat, FileStat):
            if hint & (Hint.GONE | Hint.TREE):  # it may have replaced a directory
                self.presence.tree_gone(session, path + "/")
            closed = bool(hint & Hint.CLOSED)
            judge(path, stat, known, batch, now=self._clock(), pace=self._pace, closed=closed)
        elif hint & Hint.GONE or stat is not None:
            self.presence.gone(session, path)
            if known is not None:
                batch.marks.append(Mark(path, None, self.presence.gone_due()))
        elif known is not None and known.resident:
            self._journal.entries.missed(session, path)

    def _look_at_directory(
        self,
        session: str,
        path: str,
        hint: Hint,
        batch: Batch,
        trees: dict[str, bool],
        stat: FileStat,
        *,
        is_known: bool,
    ) -> None:
        if is_known:  # it replaced a file or link
            batch.marks.append(Mark(path, None, self.presence.gone_due()))
        path += "/"
        known = self._journal.entries.known(session, path)
        if known is None or hint & (Hint.TREE | Hint.GONE):
            trees[path] = bool(hint & Hint.GONE)
        if hint & Hint.GONE or not is_another_directory(stat, known):  # else a whole scan decides
            judge(path, stat, known, batch, now=self._clock(), pace=self._pace)

    def _reread(self, session: str, batch: Batch, *, unwritten: bool) -> bool:
        """Read unsettled files again and mark changed ones. Returns False if the time ran out."""
        found = reread(
            self._tree,
            self._journal,
            session,
            batch.unsettled,
            clock=self._clock,
            expired=batch.expired,
            unwritten=unwritten,
        )
        now = self._clock()
        batch.marks.extend(Mark(path, stat, now) for path, stat in found.changed)
        batch.rechecked.update(path for path, _ in found.changed)
        self._commit(session, batch)
        return found.finished

    # -- small things --------------------------------------------------------------------------------------------------

    def _commit(self, session: str, batch: Batch) -> None:
        if batch.returned:
            stands = partial(self.presence.stands, session)
            self._journal.entries.returned(session, batch.returned, stands=stands)
            batch.returned.clear()
        if batch.marks:
            for mark in batch.marks:  # before the commit: a busy uploader stores a row as soon as it is there
                if mark.stat is None or mark.stat.kind is Kind.FILE:
                    self._tell(What.DIRTY, session, mark.path, size=None if mark.stat is None else mark.stat.size)
            look = partial(self.presence.look, session)
            self._journal.entries.mark(session, batch.marks, self._clock(), look=look)
            self._wake()
            changes = [mark for mark in batch.marks if is_change(mark) and mark.path not in batch.rechecked]
            batch.marked += len(batch.marks)
            batch.changed += len(changes)
            batch.untold += sum(self._is_late(session, mark) for mark in changes)
            batch.marks.clear()

    def _is_late(self, session: str, mark: Mark) -> bool:
        """Whether the hint for a change is overdue."""
        at = self.presence.last_gone(session)[0] if mark.stat is None else mark.stat.ctime_ns / 1e9
        return self._clock() - at > _LATE
