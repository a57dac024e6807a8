"""What stands where: the root's files, and the names that only the store has, as one tree.

The disk is asked first. What it has not, the journal is asked for; and what the journal says should stand, the disk is
asked for once more, since a file is brought here first and written down after.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat as st
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ParamSpec, TypeVar

from cachesync.fuse import Later, wire
from cachesync.journal.evicted_reader import UNTOLD, Absent, AbsentNames, Known
from cachesync.model.errors import CacheSyncError, SessionTaken
from cachesync.model.keys import RESERVED, is_session_name
from cachesync.model.policy import check_owner
from cachesync.model.values import Kind
from cachesync.mount.daemon_client import Keeper, meaning
from cachesync.mount.leases import opened
from cachesync.mount.nodes import Node, Nodes, stale
from cachesync.mount.remote import RemoteFile
from cachesync.root.rights import restorable

logger = logging.getLogger(__name__)

KINDS = {Kind.FILE: st.S_IFREG, Kind.LINK: st.S_IFLNK, Kind.DIRECTORY: st.S_IFDIR}
_MODES = {Kind.FILE: 0o600, Kind.LINK: 0o777, Kind.DIRECTORY: 0o755}
"""Where nobody wrote it down."""

P = ParamSpec("P")
T = TypeVar("T")

_AWAY = 1 << 62
"""Added to a node's number it is the inode number of what is not on a disk, and of nothing that is."""

_KNOWN = 2.0
"""Seconds that the store is asked anew what it has of a session that is known, before what is known counts."""

VALID = (1, 0)
"""Seconds and nanoseconds that the kernel believes a name and attributes. The root may be changed behind the mount, by
the daemon or by anybody, and is seen that much later."""


@dataclass(slots=True)
class View:
    """The tree, and what its handlers share. Used under the loop's lock, with the root as working directory."""

    absent: AbsentNames
    keeper: Keeper
    hidden: frozenset[bytes]
    revalidate: float
    private: int = 0o700
    clock: Callable[[], float] = time.monotonic
    nodes: Nodes = field(default_factory=Nodes)
    began_ns: int = field(default_factory=time.time_ns)
    _elsewhere: set[bytes] = field(default_factory=set)
    _listed_at: float = float("-inf")
    _learned_at: dict[bytes, float] = field(default_factory=dict)

    # -- asking --------------------------------------------------------------------------------------------------------

    def away(self, path: bytes) -> Absent | None:
        """What is only in the store at a path at which the disk has nothing.

        Raises Later where the daemon has to ask the store for it first.
        """
        session, inside = split(path)
        if path == b"." or not is_session_name(os.fsdecode(session)):
            return None
        if inside:
            self.ensure_learned(session)
            return self._of_its_user(session, _asked(self.absent.find, session, inside), None)
        found = _asked(self.absent.find, session, b"")
        if found is None:
            self._ensure_listed()
            if session in self._elsewhere and not _asked(self.absent.knows, session):
                found = UNTOLD
        return found

    def evicted(self, path: bytes) -> Absent | None:
        """What the journal has, at a path in a session, as only in the store; the store is not asked what it has. The
        daemon says that it drops a file before it does, so that one may still stand on the disk. Raises OSError."""
        session, inside = split(path)
        return self._of_its_user(session, _asked(self.absent.find, session, inside), None) if inside else None

    def _of_its_user(self, session: bytes, found: T, nothing: T) -> T:
        """Return what was ``found`` as evicted, or ``nothing`` if another user made the session's directory."""
        if found:
            try:
                user, owner = os.lstat(session).st_uid, _asked(self.absent.owner, session)
                check_owner(os.fsdecode(session), user, owner, own=os.geteuid())
            except FileNotFoundError:
                return found
            except SessionTaken:
                return nothing
        return found

    def version(self) -> bytes:
        """Another one after each change of what is only in the store."""
        return _asked(self.absent.version)

    def children_away(self, path: bytes) -> dict[bytes, Absent]:
        """What is directly in a directory, and only in the store. Raises Later as ``away``."""
        if path == b".":
            self._ensure_listed()
            unmet = self._elsewhere - _asked(self.absent.names)
            return dict.fromkeys(unmet, UNTOLD) | _asked(self.absent.sessions)
        session, inside = split(path)
        if not is_session_name(os.fsdecode(session)):
            return {}
        self.ensure_learned(session)
        return self._of_its_user(session, _asked(self.absent.children, session, inside), {})

    def any_away_below(self, path: bytes) -> bool:
        """Whether anything below a directory is only in the store."""
        session, inside = split(path)
        return self._of_its_user(session, _asked(self.absent.any_below, session, inside), False)

    def known(self, path: bytes) -> Known | None:
        """What the journal knows of the file at a path."""
        session, inside = split(path)
        return _asked(self.absent.known, session, inside) if inside else None

    def ensure_learned(self, session: bytes) -> None:
        """Let the journal know what the store has of a session of which something is not here, and know it anew every
        ``revalidate`` seconds: other hosts write to it too. If the store does not answer soon, what is known counts.
        Where the session's directory stands, or the store did not answer the last time, nobody waits for it.

        Raises Later.
        """
        now = self.clock()
        if now - self._learned_at.get(session, float("-inf")) < self.revalidate:
            return
        known = _asked(self.absent.knows, session)
        if known and (os.path.lexists(session) or session in self.keeper.unlearned):
            self._learned_at[session] = now
            if self.any_away_below(session):
                self.keeper.learn_soon(session)
            return
        if not known and session not in self._elsewhere:
            return

        def learn() -> None:
            if known:
                self.keeper.learn_within(session, _KNOWN)
            else:
                self.keeper.learn(session)
            self._learned_at[session] = self.clock()

        raise Later(learn, party=session, remote=True)

    def _ensure_listed(self) -> None:
        if self.clock() - self._listed_at < self.revalidate:
            return

        def ask() -> None:
            try:
                self._elsewhere = self.keeper.sessions()
            except OSError:
                pass  # the ones that were known are shown, and any other can be made
            finally:
                self._listed_at = self.clock()

        raise Later(ask)

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def lookup(self, parent: Node, name: bytes, told: Absent | None = None) -> tuple[Node, wire.Attributes] | None:
        """The node of a name, counted once more, and its attributes, or None. ``told`` is what the journal says of it,
        where that was just asked. Raises OSError, Later."""
        if parent.parent is None and name in self.hidden:
            return None
        found = self._find(parent.below(name), parent.child(name), told)
        if found is None:
            return None
        if isinstance(found, Absent):
            node = self.nodes.absent(parent, name, KINDS[found.kind])
            return node, self.attributes_away(node, found)
        node = self.nodes.local(parent, name, found)
        return node, attributes_here(node, found)

    def _find(self, place: bytes, path: bytes, told: Absent | None = None) -> os.stat_result | Absent | None:
        """Return what the disk or the store has at a path, or None. Raises OSError, Later.

        Between the two checks, a file may move from one to the other. So None needs a journal that did not change.
        """
        version = None
        while True:
            try:
                return os.lstat(place)
            except FileNotFoundError:
                if version is not None and version == self.version():
                    return None
            version = self.version()
            if (away := told or self.away(path)) is not None:
                return away

    def attributes(self, node: Node) -> wire.Attributes:
        """A node's attributes. Raises OSError: ESTALE if it has lost its place."""
        if node.file >= 0:
            return attributes_here(node, os.fstat(node.file))
        if node.gripped:
            return attributes_here(node, os.fstat(node.grip))
        found = self._find(node.place, node.path)
        if found is None or (isinstance(found, Absent) and KINDS[found.kind] != node.kind):
            raise stale()
        if isinstance(found, Absent):
            return self.attributes_away(node, found)
        self.recognise(node, found)
        return attributes_here(node, found)

    def recognise(self, node: Node, found: os.stat_result) -> None:
        """What stands at a node's place is the node's, or it is another file and the kernel has to look it up again:
        raises OSError (ESTALE)."""
        key = (found.st_dev, found.st_ino)
        is_kind = st.S_IFMT(found.st_mode) == node.kind
        if key == node.key and is_kind:
            return
        if not is_kind or node.unlinked or (node.opens and node.remote is None):
            raise stale()
        self.nodes.settle(node, key)

    def attributes_away(self, node: Node, away: Absent) -> wire.Attributes:
        """The attributes of what is only in the store."""
        unknown = self.private if node.parent is self.nodes.root else _MODES[away.kind]
        mode = KINDS[away.kind] | (unknown if away.mode is None else away.mode)
        size = len(away.target) if away.target is not None else away.size
        links = 2 if away.kind is Kind.DIRECTORY else 1
        node.inode = _AWAY | node.number
        owner = self._owner_of(node, away)
        return wire.made_attributes(node.inode, size, away.mtime_ns or self.began_ns, mode, links, owner)

    def _owner_of(self, node: Node, away: Absent) -> tuple[int, int]:
        """Whom something will belong to when it is brought here (root.rights.owner_for)."""
        if away.rights is not None:
            return restorable(away.rights.uid, away.rights.gid)
        above = node.parent
        assert above is not None, "the root is here"  # noqa: S101
        try:
            found = os.lstat(above.place)
        except FileNotFoundError:
            return self._owner_of(above, self.away(above.path) or UNTOLD)
        return restorable(found.st_uid, found.st_gid)

    # -- bringing ------------------------------------------------------------------------------------------------------

    def bring(self, node: Node) -> Later:
        """What to raise so that a node stands in the root when the request is handled again."""
        node.let_go()
        return self.bring_path(node.path, directory=node.is_directory)

    def bring_path(self, path: bytes, *, directory: bool) -> Later:
        """The same for what is at a path."""
        session, inside = split(path)

        def work() -> None:
            with contextlib.suppress(FileNotFoundError):  # renamed or removed meanwhile: the handler looks again
                self.keeper.bring(session, inside, directory=directory)

        return Later(work, party=session, remote=not directory)

    def keep_reading(self, path: bytes) -> None:
        """Let what programs read in the store, at a path or below it, stand in the root before its name goes, so that
        they read on. If it cannot be brought, its name goes all the same. Raises Later."""
        for node in self.nodes.read_in_store:
            remote = node.remote
            if remote is None or remote.given_up or node.file >= 0 or node.lost:
                continue
            if node.path == path or node.path.startswith(path + b"/"):
                self._keep_reading(node, remote)

    def _keep_reading(self, node: Node, remote: RemoteFile) -> None:
        session, inside = split(node.path)
        try:
            file = opened(node, node.place, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:

            def work() -> None:
                try:
                    self.keeper.bring(session, inside, directory=False)
                except InterruptedError:
                    raise
                except OSError as error:
                    remote.given_up = True
                    logger.warning("%s is read in the store, and was not brought (%s)", os.fsdecode(node.path), error)

            raise Later(work, party=session, remote=True) from None
        if self.is_version(node.path, remote):
            found = os.fstat(file)
            self.nodes.settle(node, (found.st_dev, found.st_ino))
            node.file = file
        else:
            os.close(file)
            remote.given_up = True

    def is_version(self, path: bytes, remote: RemoteFile) -> bool:
        """Whether the journal knows what stands at a path as the version that is read in the store."""
        known = self.known(path)
        return known is not None and known.etag == remote.version

    def make_empty(self, path: bytes) -> Later:
        """What to raise so that an empty file stands in the place of one that is only in the store."""
        session, inside = split(path)
        return Later(partial(self.keeper.make_empty, session, inside), party=session)

    def foresee(self, path: bytes) -> Later:
        """What to raise so that a file may be put into the place of one that is only in the store."""
        session, inside = split(path)
        return Later(partial(self.keeper.foresee, session, inside), party=session)

    def stand(self, node: Node) -> os.stat_result:
        """What stands in the root at a node's place, brought there if it has to be. Raises OSError, Later."""
        found = self._find(node.place, node.path)
        if found is None:
            raise stale()
        if isinstance(found, Absent):
            raise self.bring(node)
        self.recognise(node, found)
        return found

    def hint(self, parent: Node, name: bytes, hint: int) -> None:
        """Tell the daemon to look at a name."""
        try:
            place = parent.child(name)
        except OSError:
            return  # of a file that is open still, whose directory is gone
        self.keeper.hint(place, hint)


def _asked(ask: Callable[P, T], *names: P.args, **none: P.kwargs) -> T:
    """What the journal says. Raises OSError where it cannot be read: nobody may take that for "no such file"."""
    try:
        return ask(*names, **none)
    except CacheSyncError as error:
        raise OSError(meaning(error), str(error)) from error


def attributes_here(node: Node, found: os.stat_result) -> wire.Attributes:
    """A node's attributes, which stands on the disk as ``found``."""
    told = wire.attributes(found)
    if not found.st_nlink and not node.unlinked:  # the daemon dropped it: it has its name, and the kernel may link it
        told = (*told[:10], 1, *told[11:])
    return (node.inode, *told[1:]) if node.inode else told


def split(path: bytes) -> tuple[bytes, bytes]:
    """A path as session and path in it. Pure."""
    session, _, inside = path.partition(b"/")
    return session, inside


def hidden_names(root: str, state: str) -> frozenset[bytes]:
    """The names in the root that the mount does not show: our own."""
    inside = os.path.relpath(state, root)
    return frozenset({RESERVED.encode(), os.fsencode(inside.split("/")[0])} - {b"..", b"."})
