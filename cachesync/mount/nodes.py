"""The nodes that the kernel knows: numbers for files, and the paths that lead to them.

A node has a number, which the kernel speaks of it by until it forgets it, and a place: a parent and a name. What stands
there is asked of the disk each time. Which file a node is, is told by device and inode, so that the names of one file
are one node; what is only in the store is told by its place. A number is used again for another file once the file is
gone, which happens behind our back: so it is believed only of a file that is open, or still stands where it was seen,
or, where that name is gone and others are left, was born when it was.
"""

from __future__ import annotations

import errno
import os
import stat as st
from collections import OrderedDict
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from cachesync.fuse import linux, wire
from cachesync.mount.remote import RemoteFile
from cachesync.root.openat2 import birth_ns

_LONG = 2000
"""Bytes of a path from which on it is begun at an open directory: PATH_MAX is 4,096."""

_GRASPED = 128
"""Files without their names that are held at most; the kernel forgets nearly all of them at once."""

Key = tuple[int, int]


@dataclass(slots=True, weakref_slot=True, eq=False)
class FileLocks:
    """Who has a file locked, each owner exclusively or not, and the requests that wait for that."""

    holders: dict[int, bool] = field(default_factory=dict)
    waiting: list[int] = field(default_factory=list)

    def take(self, owner: int, *, exclusive: bool) -> bool:
        """Lock it, if nobody else prevents that. The owner's former lock is gone in any case, as flock(2) says."""
        self.holders.pop(owner, None)
        if any(exclusive or held for held in self.holders.values()):
            return False
        self.holders[owner] = exclusive
        return True


class Node:
    """One node. ``key`` is None for what is only in the store. ``inode`` is the inode number that was made up for it
    when it was, and that it keeps: cp takes a file with another one for another file. 0: its file's. ``lost`` says that
    its place is another's now: the file may have more names, but none is known; ``born`` tells it from others then, and
    is known of a file that was seen with more names than one. Of a file that is open: ``file`` is its
    descriptor, and ``backing`` its number with the kernel where that reads and writes past us; ``writers`` of its
    ``opens`` are for writing, and ``announced`` is the inode number that the daemon leaves alone for that, or -1.
    ``locks`` are shared by the nodes that its name has had. ``grip`` is an O_PATH descriptor of a file that has lost
    its name while the kernel knew it, or -1."""

    __slots__ = (
        "announced", "backing", "born", "file", "grip", "held", "inode", "key", "kind", "locks", "lookups",
        "lost", "name", "number", "opener", "opens", "parent", "remote", "unlinked", "writable", "writers",
    )  # fmt: skip

    def __init__(self, number: int, parent: Node | None, name: bytes, key: Key | None, kind: int) -> None:
        self.number = number
        self.parent = parent
        self.name = name
        self.key = key
        self.kind = kind
        self.inode = 0
        self.born: int | None = None
        self.locks: FileLocks | None = None
        self.lookups = 0
        self.lost = False
        self.file = -1
        self.writable = False
        self.backing = 0
        self.opener: int | bytes | None = None
        self.opens = 0
        self.writers = 0
        self.announced = -1
        self.unlinked = False
        self.held = -1
        self.grip = -1
        self.remote: RemoteFile | None = None

    @property
    def is_directory(self) -> bool:
        """Whether it is one."""
        return self.kind == st.S_IFDIR

    @property
    def readable(self) -> int | bytes:
        """A descriptor of it or a path to it, for what is only read. A link at its end is followed if it is held."""
        return self.file if self.file >= 0 else self.grasped if self.gripped else self.place

    @property
    def gripped(self) -> bool:
        """Whether it has lost its name, and is held."""
        return self.lost and self.grip >= 0

    @property
    def grasped(self) -> bytes:
        """A path to the file of ``grip``; whatever opens it follows links."""
        return b"/proc/self/fd/%d" % self.grip

    @property
    def path(self) -> bytes:
        """Its path from the root; of the root itself ".". Raises OSError (ESTALE) if it has none that is known."""
        if self.lost:
            raise stale()
        parts, node = [self.name], self.parent
        while node is not None and node.parent is not None:
            if node.lost:
                raise stale()
            parts.append(node.name)
            node = node.parent
        parts.reverse()
        return b"/".join(parts)

    @property
    def place(self) -> bytes:
        """A path to it that the system takes, however deep it lies, from the root as working directory."""
        path = self.path
        return path if len(path) < _LONG or self.parent is None else self.parent.below(self.name)

    def below(self, name: bytes) -> bytes:
        """A path to a name in it that the system takes."""
        if self.parent is None:
            return name
        path = self.path + b"/" + name
        if len(path) < _LONG:
            return path
        if self.held < 0:
            self.held = os.open(self.place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return b"/proc/self/fd/%d/%b" % (self.held, name)

    def child(self, name: bytes) -> bytes:
        """The path of a name in it, from the root."""
        return name if self.parent is None else self.path + b"/" + name

    def let_go(self) -> None:
        """Drop the descriptors that long paths to it begin at: other directories may stand there now."""
        node: Node | None = self
        while node is not None:
            if node.held >= 0:
                os.close(node.held)
                node.held = -1
            node = node.parent


class Nodes:
    """All that the kernel knows. Used under the loop's lock."""

    def __init__(self) -> None:
        found = os.lstat(".")
        self.root = Node(wire.ROOT, None, b".", (found.st_dev, found.st_ino), st.S_IFDIR)
        self._nodes = {wire.ROOT: self.root}
        self._by_key: dict[Key, Node] = {(found.st_dev, found.st_ino): self.root}
        self._by_place: dict[tuple[int, bytes], Node] = {}
        self._last = wire.ROOT
        self._grasped: OrderedDict[int, Node] = OrderedDict()
        self._locks: WeakValueDictionary[tuple[int, bytes], FileLocks] = WeakValueDictionary()
        self.read_in_store: set[Node] = set()
        """The nodes that are open, and that have ``remote``."""

    def __getitem__(self, number: int) -> Node:
        """The node of a number. Raises OSError (ESTALE) if there is none."""
        node = self._nodes.get(number)
        if node is None:
            raise stale()
        return node

    def at(self, parent: Node, name: bytes) -> Node | None:
        """The node that was last seen at a place, if the kernel knows one."""
        return self._by_place.get((parent.number, name))

    def local(self, parent: Node, name: bytes, found: os.stat_result) -> Node:
        """The node of what was found on the disk, counted once more."""
        key, kind = (found.st_dev, found.st_ino), st.S_IFMT(found.st_mode)
        node = self._by_key.get(key)
        if node is not None and node.kind == kind and not node.unlinked and self._is_at(node, parent, name, key):
            if node.lost or node.parent is not parent or node.name != name:
                self.moved(node, parent, name)
        else:
            node = self.at(parent, name)
            if node is not None and node.kind == kind and (kind == st.S_IFDIR or node.key is None):
                self.settle(node, key)  # it was brought here, or made anew: to the kernel it is what it was
            else:
                node = self._new(parent, name, key, kind)
                self._by_key[key] = node
        if found.st_nlink > 1 and kind == st.S_IFREG and node.born is None:
            node.born = _birth(parent, name)
        node.lookups += 1
        return node

    def _is_at(self, node: Node, parent: Node, name: bytes, key: Key) -> bool:
        """Whether a node that had this key has it still, now that it is seen at a place."""
        if node.parent is parent and node.name == name and not node.lost:
            return True
        if node.lost and node.file < 0:
            return node.born is not None and node.born == _birth(parent, name)
        try:
            found = os.fstat(node.file) if node.file >= 0 else os.lstat(node.place)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == key

    def absent(self, parent: Node, name: bytes, kind: int) -> Node:
        """The node of what is only in the store, counted once more."""
        node = self.at(parent, name)
        if node is None or node.kind != kind or not (kind == st.S_IFDIR or node.key is None):
            node = self._new(parent, name, None, kind)
        node.lookups += 1
        return node

    def settle(self, node: Node, key: Key) -> None:
        """A node is this file now."""
        if node.key is not None and self._by_key.get(node.key) is node:
            del self._by_key[node.key]
        node.key, node.born = key, None
        self._by_key[key] = node

    def locks(self, node: Node) -> FileLocks:
        """The locks of a file."""
        if node.locks is None:
            node.locks = FileLocks()
            if not node.lost and node.parent is not None:
                self._locks[node.parent.number, node.name] = node.locks
        return node.locks

    def moved(self, node: Node, parent: Node, name: bytes) -> None:
        """A node has another place."""
        self.left(node)
        if node.held >= 0:
            os.close(node.held)
            node.held = -1
        node.parent, node.name = parent, name
        self._put(node)

    def _put(self, node: Node) -> None:
        """A node stands at its place, and whatever was there does not."""
        assert node.parent is not None, "the root stays where it is"  # noqa: S101
        before = self._by_place.get((node.parent.number, node.name))
        if before is not None:
            before.lost = True
        node.lost = False
        place = node.parent.number, node.name
        self._by_place[place] = node
        if node.locks is not None:
            self._locks[place] = node.locks
        else:
            node.locks = self._locks.get(place)

    def left(self, node: Node) -> None:
        """A node has lost its place."""
        if node.parent is not None and self._by_place.get((node.parent.number, node.name)) is node:
            del self._by_place[node.parent.number, node.name]
        node.lost = node.parent is not None

    def vacate(self, parent: Node, name: bytes) -> None:
        """A program takes a name away, or puts another file there: the locks of what stands there do not stay."""
        self._locks.pop((parent.number, name), None)

    def grasp(self, node: Node, place: bytes, *, flags: int = os.O_NOFOLLOW) -> None:
        """Hold a file or link that stands at ``place`` and is about to lose that name: a program that has looked it up
        may be about to open it. It is held until the kernel forgets it, or ``_GRASPED`` others were held since.

        Raises FileNotFoundError if nothing is there.
        """
        if node.file >= 0:
            return
        self._release(node)
        try:
            grip = os.open(place, os.O_PATH | os.O_CLOEXEC | flags)
        except FileNotFoundError:
            raise
        except OSError:
            return  # no descriptor is to be had: the kernel looks the name up again
        found = os.fstat(grip)
        if (found.st_dev, found.st_ino) != node.key or st.S_ISDIR(found.st_mode):
            os.close(grip)
            return
        node.grip = grip
        self._grasped[node.number] = node
        if len(self._grasped) > _GRASPED:
            self._release(next(iter(self._grasped.values())))

    def _release(self, node: Node) -> None:
        if self._grasped.pop(node.number, None) is not None:
            os.close(node.grip)
            node.grip = -1

    def _new(self, parent: Node, name: bytes, key: Key | None, kind: int) -> Node:
        self._last += 1
        node = self._nodes[self._last] = Node(self._last, parent, name, key, kind)
        self._put(node)
        return node

    def forget(self, number: int, count: int) -> None:
        """The kernel drops ``count`` of its references; with the last one the number means nothing any more."""
        node = self._nodes.get(number)
        if node is None or number == wire.ROOT:
            return
        node.lookups -= count
        if node.lookups > 0:
            return
        del self._nodes[number]
        self.left(node)
        self._release(node)
        if node.key is not None and self._by_key.get(node.key) is node:
            del self._by_key[node.key]
        if node.held >= 0:
            os.close(node.held)
            node.held = -1


def _birth(parent: Node, name: bytes) -> int | None:
    try:
        return birth_ns(linux.AT_FDCWD, os.fsdecode(parent.below(name)))
    except OSError:
        return None


def stale() -> OSError:
    """The node is not what the kernel takes it for: it looks the name up again."""
    return OSError(errno.ESTALE, os.strerror(errno.ESTALE))


def session_of(node: Node) -> bytes:
    """The name of the session that a node is in, or is; of the root b"". Pure."""
    while node.parent is not None and node.parent.parent is not None:
        node = node.parent
    return node.name
