"""Changing artifacts of a session whose directory stands in the local root: through the file, never around it.

The bytes go where the agent sees them, and the same uploader stores them under the same conditions as any other change
(P9); what is added is waiting until it has, and labels that travel along.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator

from cachesync.model import attributes
from cachesync.model.address import Address
from cachesync.model.errors import (
    ArtifactExists,
    ObjectNotFound,
    PreconditionFailed,
    StoreError,
    StoreTransient,
    Unstorable,
    UsageError,
)
from cachesync.model.record import record
from cachesync.model.values import Counts, Entry, FileStat, Kind, Labels, Stored
from cachesync.root.making import make_path
from cachesync.root.openat2 import HOLD, open_beneath
from cachesync.root.rename import move
from cachesync.root.rights import rights_at
from cachesync.root.staging import Staging, Temporary, translated
from cachesync.sync.conflicts import with_digest
from cachesync.sync.context import Context
from cachesync.sync.remote_listing import Learner
from cachesync.sync.removal import Removal
from cachesync.sync.scanner.scan import Scanner
from cachesync.sync.uploader import Uploader
from cachesync.sync.wait_stored import Awaiter
from cachesync.watch.hints import Hint

_MODE = 0o644
_SLOWEST = 1024 * 1024
"""Bytes a second of which an upload is surely faster; a large file is waited for that much longer."""


@record(frozen=True, slots=True)
class LocalRoot:
    """What gives access to the root that this process owns. ``staging`` gives the one staging folder of this process;
    ``patience`` is how many seconds a change is waited for until the store has it."""

    context: Context
    scanner: Scanner
    learner: Learner
    uploader: Uploader
    removal: Removal
    staging: Callable[[], Staging]
    patience: float = 60.0


class Local:
    """Files of one root, by address."""

    def __init__(self, root: LocalRoot) -> None:
        self.root = root
        self._c = root.context

    def stands(self, address: Address) -> bool:
        """Whether the directory of the address's session stands here. Raises RootHalted."""
        return address.session is not None and self._c.tree.session_directory(address.session) is not None

    def has_file(self, address: Address) -> bool:
        """Whether a file stands here for the address, that is stored or will be."""
        if address.session is None:
            return False
        found = self._c.tree.lstat(address.session, address.path)
        is_file = isinstance(found, FileStat) and found.kind is Kind.FILE
        return is_file and not self.root.scanner.left_out(address.session, address.path)

    def knows(self, session: str | None) -> bool:
        """Whether this root has, or ever had, a session. Raises RootHalted."""
        if session is None:
            return False
        return session in self._c.journal.sessions.names() or self._c.tree.session_directory(session) is not None

    def known(self) -> set[str]:
        """The names of those sessions. Raises RootHalted."""
        return {*self._c.tree.sessions()[0], *self._c.journal.sessions.names()}

    def counts(self, session: str) -> Counts | None:
        """A session in numbers, as far as the journal knows it; None for one of which it has learned nothing."""
        row = self._c.journal.sessions.get(session)
        return None if row is None or not row.learned else self._c.journal.waiting.counts(session)

    def look(self, address: Address) -> bool:
        """Let the journal know what there is under an address now: from the disk, and once from the store; of a session
        that is not here from the store each time. If the store gives no answer, what was known counts, and it is False.
        """
        session, path = address.name, address.path
        scanner, learner = self.root.scanner, self.root.learner
        scanner.notice(session, {} if address.whole else {path: Hint.CHANGED})
        if not self.stands(address):
            try:
                learner.again(session)
            except StoreError:
                return False
            return True
        if not address.whole:
            found = self._c.tree.lstat(session, path)
            path = f"{path}/" if isinstance(found, FileStat) and found.kind is Kind.DIRECTORY else ""
        if path or address.whole:
            scanner.scan(session, path)
        try:
            return learner.ensure(session, wait=True)
        except StoreError:
            return False

    def owns(self, address: Address) -> bool:
        """Whether a local file exists for the address that this host stored. The store need not be asked then whether
        it has the object."""
        if address.session is None or address.session not in self._c.journal.sessions.names():
            return False
        entry = self._c.journal.entries.entry(address.session, address.path)
        if entry is None or not entry.resident or entry.tombstone:
            return False
        return entry.stored is not None and entry.puts > 0

    def put(
        self,
        address: Address,
        chunks: Iterable[bytes],
        labels: Labels,
        *,
        mode: int | None = None,
        overwrite: bool = True,
    ) -> Entry:
        """Write the file, in one atomic step, and return when it is stored. It keeps the permission bits of the one
        that it replaces; ``mode`` are those of a new one.

        Raises Unstorable, FileUnwritable, DiskFull; ArtifactExists if one is here or in the store and is not to be
        replaced; StoreTransient if it is written here and the store does not have it in time, StorePermanent if the
        store will not take it.
        """
        session, path = address.name, address.path
        self._c.key(session, path)
        if reason := self.root.scanner.left_out(session, path):
            raise Unstorable("put", str(address), f"it would not be stored: {reason}")
        if overwrite:
            self._settle(address)
        else:
            self._check_free(address)
        started, size, digest = self._c.clock(), 0, hashlib.sha256()
        with contextlib.ExitStack() as stack:
            file = self.root.staging().temporary()
            stack.callback(file.discard)
            for chunk in chunks:
                file.write(chunk, size)
                digest.update(chunk)
                size += len(chunk)
            if overwrite:
                self._adopt(address)
            found = self._c.tree.lstat(session, path)
            kept = found.mode if isinstance(found, FileStat) and found.kind is Kind.FILE else mode
            file.seal(_MODE if kept is None else kept, time.time_ns())
            made = self._place(file, address, overwrite=overwrite)
        hints = {directory.rstrip("/"): Hint.CHANGED for directory in made}
        self.root.scanner.notice(session, hints | {path: Hint.CHANGED | Hint.CLOSED})
        entries = self._c.journal.entries
        entries.reveal(session, path)
        entries.label(session, path, None if labels == Labels() else labels, self._c.clock())
        marked = entries.entry(session, path)
        generation = 0 if marked is None else marked.generation

        def stored(entry: Entry | None) -> bool:
            if entry is None or entry.tombstone or entry.kind is not Kind.FILE:
                raise ObjectNotFound("put", str(address), "the file was deleted again while it was being stored")
            return entry.synced >= generation

        entry = self._await(address, stored, started, self.root.patience + size / _SLOWEST)
        assert entry is not None, "stored() says so"  # noqa: S101 -- an invariant, not a check of input
        if entry.stored is None or entry.stored.sha256 != digest.hexdigest():
            hint = "the newer file is stored; put it again if it should be this one"
            raise PreconditionFailed("put", str(address), "it was overwritten here before the store had it", hint)
        return entry

    def _check_free(self, address: Address) -> None:
        """Raise ArtifactExists if there is something here or in the store, StoreError if the store cannot be asked."""
        session, path = address.name, address.path
        if self._c.tree.lstat(session, path) is None:
            self.root.scanner.notice(session, {path: Hint.GONE})
            entry = self._c.journal.entries.entry(session, path)
            if entry is not None and entry.tombstone:
                return  # the object goes when the new one comes: the journal knows its version
            try:
                self._c.store.head(self._c.key(session, path))
            except ObjectNotFound:
                self.learn(address, None)
                return
        raise ArtifactExists("put", str(address), "it is there already")

    def _settle(self, address: Address) -> None:
        """Let the store have first what the file holds that is to go, so that it is a past version after."""
        session, path = address.name, address.path
        self.root.scanner.notice(session, {path: Hint.CHANGED | Hint.CLOSED})
        entry = self._c.journal.entries.entry(session, path)
        if entry is None or not entry.dirty or entry.tombstone or entry.kind is not Kind.FILE or entry.failed:
            return
        patience = self.root.patience + (entry.stat.size if entry.stat else 0) / _SLOWEST
        try:
            self._await(address, self._is_settled, self._c.clock(), patience)
        except StoreTransient as error:
            error.hint = "nothing was done: what changed in the file would be lost; it is stored as soon as that can be"
            raise

    def _is_settled(self, entry: Entry | None) -> bool:
        """Whether the store has the file, or the file no longer exists."""
        if entry is None or not entry.dirty or entry.tombstone:
            return True
        return self._c.tree.lstat(entry.session, entry.path) is None

    def remove(self, address: Address) -> bool:
        """Remove the file or link, and return when the store has no object of it that is ours; False if none stands
        here. Where the store keeps versions, it first gets what it does not have yet. Raises UsageError (a directory),
        FileUnwritable, StoreError."""
        session, path = address.name, address.path
        found = self._c.tree.lstat(session, path)
        if self.root.scanner.left_out(session, path):
            if session in self._c.journal.sessions.names():  # it may have been ignored since the last scan
                self._c.journal.entries.let_go(session, path, is_dir=False)
            return False
        if not isinstance(found, FileStat):
            return self._remove_missing(address)
        if found.kind is Kind.DIRECTORY:
            raise UsageError("remove", str(address), "is a directory", "name a file")
        if self._c.store.traits.versioned is not False:
            self._settle(address)
        started = self._c.clock()
        self.root.scanner.notice(session, {path: Hint.CHANGED})  # what the journal never knew cannot be missed
        with translated("remove", str(address)), self._parent(address) as (parent, name):
            try:
                os.unlink(name, dir_fd=parent)
            except FileNotFoundError:  # another thread or process removed it; it is still requested by name
                return self._remove_missing(address)
        self._c.tree.changes.note(session, path)
        self._delete(address, started, wait=found.kind is Kind.FILE)
        return True

    def _remove_missing(self, address: Address) -> bool:
        """Remove what the journal still takes for a file that stands here: it went a moment ago, or was renamed with a
        directory. The journal has to know before the object goes, or the file would be clean should it come back."""
        self.root.scanner.notice(address.name, {})  # what another directory of the session had is not here
        entry = self._c.journal.entries.entry(address.name, address.path)
        if entry is None or not entry.resident or entry.kind is not Kind.FILE:
            return False
        self._delete(address, self._c.clock(), wait=True)
        return True

    def _delete(self, address: Address, started: float, *, wait: bool) -> None:
        """Let the engine delete the object of what is gone here."""
        with self.root.removal.asked(address.name, address.path):
            self.root.scanner.notice(address.name, {address.path: Hint.GONE})
            if wait:
                self._await(address, lambda entry: entry is None or not entry.tombstone, started, self.root.patience)

    def leave(self, address: Address) -> None:
        """An object is about to be changed in the store itself. Let the journal know that what it had here is gone, if
        the session's directory does not stand, and that the store may have another object should we die in the middle
        of it. Raises RootHalted."""
        if address.session is not None and address.session in self._c.journal.sessions.names():
            self.root.scanner.notice(address.session, {})
            self._c.journal.sessions.unlearn(address.session)

    def learn(self, address: Address, stored: Stored | None) -> bool:
        """Record that the object was changed in the store (None: deleted). An evicted entry takes over that state.
        Returns whether the entry was one that the store had lost."""
        session = address.session
        if session is None or session not in self._c.journal.sessions.names():
            return False
        if stored is not None:
            self._c.identity.confirmed()
        with self.root.learner.standing:
            return self._c.journal.sessions.changed(session, address.path, stored)

    def _adopt(self, address: Address) -> None:
        """What stands in the store under a name that is not here was asked to be replaced: it is no rival's."""
        entry = self._c.journal.entries.entry(address.name, address.path)
        if (entry is not None and entry.resident) or self.root.uploader.store_down_since is not None:
            return
        self.root.scanner.notice(address.name, {})  # makes the session known
        store = self._c.store
        with contextlib.suppress(StoreError):  # then it is settled when the file is stored
            try:
                found = with_digest(store, store.head(self._c.key(address.name, address.path)))
            except ObjectNotFound:
                self.learn(address, None)
            else:
                self.learn(address, attributes.to_stored(found))

    def _place(self, file: Temporary, address: Address, *, overwrite: bool) -> list[str]:
        """Put a sealed file in the place of whatever file or link stands there; returns the directories made."""
        with translated("put", str(address)):
            base = open_beneath(self._c.tree.descriptor, address.name, HOLD | os.O_DIRECTORY)
            try:
                made = make_path(self.root.staging(), base, address.path.rpartition("/")[0])
            finally:
                os.close(base)
            with self._parent(address) as (parent, name):
                file.give(rights_at(parent, name), parent)
                if overwrite:
                    os.rename(file.name, name, src_dir_fd=file.folder, dst_dir_fd=parent)
                else:
                    try:
                        move(file.folder, file.name, parent, name)
                    except FileExistsError:
                        raise ArtifactExists("put", str(address), "it is there already") from None
        self._c.tree.changes.note(address.name, address.path)
        return made

    @contextlib.contextmanager
    def _parent(self, address: Address) -> Iterator[tuple[int, str]]:
        above, _, name = f"{address.name}/{address.path}".rpartition("/")
        held = open_beneath(self._c.tree.descriptor, above, HOLD | os.O_DIRECTORY)
        try:
            yield held, name
        finally:
            os.close(held)

    def _await(
        self, address: Address, done: Callable[[Entry | None], bool], started: float, patience: float
    ) -> Entry | None:
        """See sync.wait_stored.Awaiter."""
        return Awaiter(self._c, self.root.uploader).wait(address.name, address.path, done, started, patience)
