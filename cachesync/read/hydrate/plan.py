"""What is to be brought, and who remembers that it was: the journal, or for a copy elsewhere nobody."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cachesync.journal.journal import Journal
from cachesync.model.record import record
from cachesync.model.values import Entry, FileStat, Kind, Rights, Skipped, Stored
from cachesync.root.session_dir import Ground
from cachesync.sync.remote_listing import Astray, Learner


@record(frozen=True, slots=True)
class Wanted:
    """A file to fetch. ``replaces`` is the entry of the clean file that stands in its place, as an older version.
    ``rights`` are those that it had when it was last here."""

    path: str
    stored: Stored
    replaces: Entry | None = None
    rights: Rights | None = None


@record(frozen=True, slots=True)
class Placed:
    """A file that was put into its place: what it was made from, and what it is there."""

    wanted: Wanted
    stored: Stored
    stat: FileStat


@dataclass(slots=True)
class Plan:
    """What a session lacks here. ``directories`` are to be made and to get mode and time at the end; ``standing`` are
    clean ones that stand, and get their time again if something was put into them. ``rights`` are those that links and
    directories had when they were last here."""

    files: dict[str, int] = field(default_factory=dict)
    links: list[tuple[str, FileStat]] = field(default_factory=list)
    directories: dict[str, FileStat] = field(default_factory=dict)
    standing: dict[str, FileStat] = field(default_factory=dict)
    rights: dict[str, Rights] = field(default_factory=dict)
    present: int = 0
    present_bytes: int = 0
    skipped: list[Skipped] = field(default_factory=list)

    def add_link(self, entry: Entry, stat: FileStat) -> None:
        """Add an evicted link."""
        self.links.append((entry.path, stat))
        self._add_rights(entry)

    def add_directory(self, entry: Entry, stat: FileStat) -> None:
        """Add an evicted directory."""
        self.directories[entry.path] = stat
        self._add_rights(entry)

    def _add_rights(self, entry: Entry) -> None:
        if entry.rights is not None:
            self.rights[entry.path] = entry.rights


class Marks(Protocol):
    """Who says what is wanted and is told what was placed. Safe to call from many threads."""

    def plan(self) -> Plan:
        """What is lacking."""

    def recall(self, paths: Sequence[str]) -> dict[str, Wanted]:
        """What is to be fetched now for each of a hundred paths at most, without those of which nothing is any more."""

    def still(self, path: str) -> bool:
        """Whether a link or directory of the plan is wanted still, or is the one that stood there: it may have been
        renamed or removed meanwhile."""

    def placed(self, files: Sequence[Placed], others: Sequence[tuple[str, FileStat]]) -> None:
        """Files and links have their names, directories their modes and times."""


class JournalMarks:
    """For a session of the root. ``resumed`` says that the last time was not brought to its end: its directories have
    got the times of being filled, and get those of the manifest again."""

    def __init__(self, journal: Journal, ground: Ground, astray: Astray, *, resumed: bool) -> None:
        self._journal = journal
        self._ground = ground
        self._astray = astray
        self._resumed = resumed
        self._session = ground.session

    def plan(self) -> Plan:
        """See Marks."""
        plan = Plan()
        for entry in self._journal.entries.walk(self._session):
            if entry.kind is Kind.FILE:
                self._plan_file(plan, entry)
            elif entry.tombstone or entry.stat is None:
                continue
            elif entry.kind is Kind.LINK:
                self._plan_link(plan, entry)
            elif not entry.resident:
                plan.add_directory(entry, entry.stat)
            elif self._resumed and (told := self._astray.others.get(entry.path)) is not None:
                plan.directories[entry.path] = told
            elif not entry.dirty:
                plan.standing[entry.path] = entry.stat
        return plan

    def _plan_file(self, plan: Plan, entry: Entry) -> None:
        if entry.tombstone:
            plan.skipped.append(Skipped(entry.path, "it was deleted here, and its deletion is under way"))
        elif not entry.resident:
            if entry.stored is not None:
                plan.files[entry.path] = entry.stored.size
        elif entry.path in self._astray.replaced and not entry.dirty:
            plan.files[entry.path] = self._astray.replaced[entry.path].size
        else:
            plan.present += 1
            plan.present_bytes += entry.stat.size if entry.stat is not None else 0
            if entry.path in self._astray.deleted and not entry.dirty:
                plan.skipped.append(Skipped(entry.path, "another host deleted it in the store; the file here stays"))

    def _plan_link(self, plan: Plan, entry: Entry) -> None:
        if not entry.resident and entry.stat is not None:
            plan.add_link(entry, entry.stat)
        elif not entry.dirty and entry.stat is not None:
            told = self._astray.others.get(entry.path)
            if told is not None and told.target != entry.stat.target:
                plan.skipped.append(Skipped(entry.path, "another host made it lead elsewhere; the link here stays"))

    def recall(self, paths: Sequence[str]) -> dict[str, Wanted]:
        """See Marks."""
        entries = self._journal.entries.some(self._session, paths)
        return {entry.path: wanted for entry in entries if (wanted := self._wanted(entry)) is not None}

    def _wanted(self, entry: Entry) -> Wanted | None:
        path = entry.path
        if entry.kind is not Kind.FILE or entry.stored is None or entry.tombstone:
            return None
        if not entry.resident:
            return Wanted(path, entry.stored, rights=entry.rights)
        newer = self._astray.replaced.get(path)
        if newer is None or entry.dirty or entry.unsettled or entry.stored.version.etag == newer.version.etag:
            return None
        return Wanted(path, newer, entry)

    def still(self, path: str) -> bool:
        """See Marks."""
        entry = self._journal.entries.entry(self._session, path)
        if entry is None or entry.tombstone:
            return False
        return not entry.resident or (entry.kind is Kind.DIRECTORY and self._stands(entry))

    def _stands(self, directory: Entry) -> bool:
        found = self._ground.tree.lstat(self._session, directory.path.rstrip("/"))
        return isinstance(found, FileStat) and directory.stat is not None and found.inode == directory.stat.inode

    def placed(self, files: Sequence[Placed], others: Sequence[tuple[str, FileStat]]) -> None:
        """See Marks."""
        residence, identity = self._journal.residence, self._ground.identity
        new = [(done.wanted.path, done.stat, done.stored) for done in files if done.wanted.replaces is None]
        residence.placed(self._session, identity, new, others)
        for done in files:
            if done.wanted.replaces is not None:
                residence.renewed(done.wanted.replaces, identity, done.stat, done.stored)


class NoMarks:
    """For a copy of a session elsewhere: all that the store has, and nothing is remembered. Raises StoreError."""

    def __init__(self, learner: Learner, session: str) -> None:
        self._files, self._others, self.flaws, self.mode = learner.look(session)

    @property
    def empty(self) -> bool:
        """Whether the store has nothing of the session."""
        return not self._files and not self._others

    def plan(self) -> Plan:
        """See Marks."""
        plan = Plan(files={path: stored.size for path, stored in self._files.items()})
        for path, stat in self._others.items():
            if stat.kind is Kind.DIRECTORY:
                plan.directories[path] = stat
            elif path not in self._files:
                plan.links.append((path, stat))
        return plan

    def recall(self, paths: Sequence[str]) -> dict[str, Wanted]:
        """See Marks."""
        return {path: Wanted(path, self._files[path]) for path in paths}

    def still(self, path: str) -> bool:  # noqa: ARG002 -- nobody else is there
        """See Marks."""
        return True

    def placed(self, files: Sequence[Placed], others: Sequence[tuple[str, FileStat]]) -> None:
        """See Marks."""


def parents(paths: Iterable[str]) -> set[str]:
    """Every directory that the paths lie in, each ending in "/"."""
    found: set[str] = set()
    for path in paths:
        above = path.rstrip("/").rpartition("/")[0]
        while above and above + "/" not in found:
            found.add(above + "/")
            above = above.rpartition("/")[0]
    return found


def deepest_first(directories: Mapping[str, FileStat]) -> Iterator[tuple[str, FileStat]]:
    """Directories, each after all that lie in it."""
    return iter(sorted(directories.items(), key=lambda item: (-item[0].count("/"), os.fsencode(item[0]))))
