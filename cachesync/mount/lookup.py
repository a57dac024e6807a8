"""Requests that change nothing: names, attributes, links, directories, extended attributes."""

from __future__ import annotations

import errno
import os
import stat as st
from dataclasses import dataclass

from cachesync.fuse import Later, Request, wire
from cachesync.journal.evicted_reader import Absent, Known
from cachesync.mount.nodes import Node, session_of, stale
from cachesync.mount.view import KINDS, VALID, View
from cachesync.root.rights import ACCESS, DEFAULT

OURS = b"user.cachesync."
STATE = b"user.cachesync.state"
VERSION = b"user.cachesync.version"

ACLS = (os.fsencode(ACCESS), os.fsencode(DEFAULT))
_CAPABILITY = b"security.capability"
"""The kernel asks for it before the first write to each file. The mount is nosuid, so it would mean nothing."""


@dataclass(slots=True)
class Listing:
    """A directory as it was read first: name, type bits, inode number (0: only in the store), and what the journal told
    of those that are not here when its version was ``version``."""

    version: bytes
    names: list[tuple[bytes, int, int]]
    away: dict[bytes, Absent]


class Looking:
    """Handlers; see fuse.loop.Handler."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._listings: dict[int, Listing] = {}
        self._last = 0

    def lookup(self, r: Request) -> bytes:
        """LOOKUP."""
        found = self._view.lookup(self._view.nodes[r.node], r.text())
        if found is None:
            return wire.no_entry(VALID)
        return wire.entry_out(found[0].number, VALID, found[1])

    def getattr(self, r: Request) -> bytes:
        """GETATTR."""
        return wire.attr_out(VALID, self._view.attributes(self._view.nodes[r.node]))

    def readlink(self, r: Request) -> bytes:
        """READLINK."""
        node = self._view.nodes[r.node]
        if node.gripped:
            return os.readlink(b"", dir_fd=node.grip)
        try:
            return os.readlink(node.place)
        except FileNotFoundError:
            away = self._view.away(node.path)
            if away is None or away.target is None:
                raise stale() from None
            return away.target

    def statfs(self, _r: Request) -> bytes:
        """STATFS: the root's file system."""
        return wire.statfs_out(os.statvfs("."))

    # -- directories ---------------------------------------------------------------------------------------------------

    def opendir(self, r: Request) -> bytes:
        """OPENDIR. The listing is made when it is first read."""
        self._view.nodes[r.node]
        self._last += 1
        return wire.open_out(self._last, 0)

    def releasedir(self, r: Request) -> bytes:
        """RELEASEDIR."""
        self._listings.pop(wire.U64.unpack_from(r.buffer, wire.HEADER)[0], None)
        return b""

    def readdir(self, r: Request) -> bytes:
        """READDIR."""
        handle, offset, size, *_ = wire.READ_IN.unpack_from(r.buffer, wire.HEADER)
        node, out = self._view.nodes[r.node], bytearray()
        listing = self._listed(node, handle, offset)
        for number in range(offset + 1, len(listing.names) + 1):
            name, kind, inode = listing.names[number - 1]
            entry = wire.dirent(inode or number, number, kind, name)
            if len(out) + len(entry) > size:
                break
            out += entry
        return bytes(out)

    def readdirplus(self, r: Request) -> bytes:
        """READDIRPLUS: names and attributes in one go."""
        handle, offset, size, *_ = wire.READ_IN.unpack_from(r.buffer, wire.HEADER)
        node, out = self._view.nodes[r.node], bytearray()
        listing = self._listed(node, handle, offset)
        away = listing.away if self._view.version() == listing.version else {}
        for number in range(offset + 1, len(listing.names) + 1):
            name, kind, inode = listing.names[number - 1]
            if len(out) + 152 + len(name) + 7 > size:
                break
            found = None if name in (b".", b"..") else self._view.lookup(node, name, away.get(name))
            entry = wire.NO_NODE
            if found is not None:
                entry = wire.entry_out(found[0].number, VALID, found[1])
            elif name not in (b".", b".."):
                continue  # it went a moment ago
            out += wire.direntplus(entry, inode or number, number, kind, name)
        return bytes(out)

    def fsyncdir(self, r: Request) -> bytes:
        """FSYNCDIR, in a thread of the pool, because other requests must not wait for the disk."""
        node = self._view.nodes[r.node]
        place = node.place

        def work() -> None:
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

        raise Later(work, bytes, party=session_of(node))

    def _listed(self, node: Node, handle: int, offset: int) -> Listing:
        """The listing that a handle reads; a new one when it begins anew."""
        listing = self._listings.get(handle)
        if listing is None or offset == 0:
            listing = self._listings[handle] = self._listing(node)
        return listing

    def _listing(self, node: Node) -> Listing:
        version = self._view.version()
        away = self._view.children_away(node.path)
        names = [(b".", st.S_IFDIR, node.number), (b"..", st.S_IFDIR, 0)]
        hidden = self._view.hidden if node.parent is None else ()
        try:
            with os.scandir(node.place) as found:
                for entry in found:
                    name = entry.name
                    if name not in hidden:
                        names.append((name, _kind(entry), entry.inode()))
                        away.pop(name, None)
        except FileNotFoundError:
            if not away and self._view.away(node.path) is None:
                raise
        if self._view.version() != version:  # some may have gone from the disk before they were come to
            here = {name for name, _, _ in names}
            away |= {name: what for name, what in self._view.children_away(node.path).items() if name not in here}
        names += [(name, KINDS[what.kind], 0) for name, what in away.items() if name not in hidden]
        return Listing(version, names, away)

    # -- extended attributes -------------------------------------------------------------------------------------------

    def getxattr(self, r: Request) -> bytes:
        """GETXATTR. Ours tell how a file stands with the store; they are not listed, so nothing copies them."""
        size, _ = wire.GETXATTR_IN.unpack_from(r.buffer, wire.HEADER)
        name, node = r.text(8), self._view.nodes[r.node]
        if name == _CAPABILITY:
            raise OSError(errno.ENODATA, "none")
        if name.startswith(OURS):
            return _sized(self._ours(node, name), size)
        value = self._acl(node, name) if name in ACLS else self._attribute(node, name)
        if value is None:
            raise OSError(errno.ENODATA, "none")
        return _sized(value, size)

    def _attribute(self, node: Node, name: bytes) -> bytes | None:
        """An extended attribute; None for what is only in the store. Raises OSError."""
        try:
            return os.getxattr(node.readable, name, follow_symlinks=node.file >= 0 or node.gripped)
        except FileNotFoundError:
            return None

    def _acl(self, node: Node, name: bytes) -> bytes | None:
        """A POSIX ACL, here or in the store only. The kernel asks for it before it lets a program in: that the file
        system of the root has none is no error. Raises OSError, Later."""
        try:
            if (value := self._attribute(node, name)) is not None:
                return value
            if (away := self._view.away(node.path)) is not None:
                return acls_of(away).get(name)
            return self._attribute(node, name)  # it may have been brought here between the two questions
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return None
            raise

    def listxattr(self, r: Request) -> bytes:
        """LISTXATTR."""
        size, _ = wire.GETXATTR_IN.unpack_from(r.buffer, wire.HEADER)
        node = self._view.nodes[r.node]
        try:
            names = os.listxattr(node.readable, follow_symlinks=node.file >= 0 or node.gripped)
        except FileNotFoundError:
            names = [os.fsdecode(name) for name in acls_of(self._view.away(node.path))]
        return _sized(b"".join(os.fsencode(name) + b"\0" for name in names), size)

    def _ours(self, node: Node, name: bytes) -> bytes:
        if node.kind != st.S_IFREG or name not in (STATE, VERSION):
            raise OSError(errno.ENODATA, "none")
        known = self._view.known(node.path)
        try:
            found: os.stat_result | None = os.fstat(node.file) if node.file >= 0 else os.lstat(node.place)
        except FileNotFoundError:
            found = None
        state = state_of(found, known)
        if name == STATE:
            return state.encode()
        if known is None or known.etag is None or state == "dirty":
            raise OSError(errno.ENODATA, "none")
        return (known.version_id or known.etag).encode()


def acls_of(away: Absent | None) -> dict[bytes, bytes]:
    """The POSIX ACLs of what is only in the store, by the names of the attributes. Pure."""
    if away is None or away.rights is None:
        return {}
    values = zip(ACLS, (away.rights.acl, away.rights.default_acl), strict=True)
    return {name: value for name, value in values if value is not None}


def state_of(found: os.stat_result | None, known: Known | None) -> str:
    """How a file stands with the store: dirty, clean, evicted or failed. ``found`` is what stands on the disk now: a
    change that nobody has noticed yet is one too. Pure."""
    if known is None:
        return "dirty"
    if found is None:
        return "evicted"
    s = known.stat
    seen = None if s is None else (s.size, s.mtime_ns, s.ctime_ns, s.inode % 2**64)
    if not known.resident or known.gone or seen != (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino):
        return "dirty"
    if known.failed:
        return "failed"
    return "dirty" if known.dirty else "clean"


def _kind(entry: os.DirEntry[bytes]) -> int:
    if entry.is_symlink():
        return st.S_IFLNK
    if entry.is_dir(follow_symlinks=False):
        return st.S_IFDIR
    return st.S_IFREG if entry.is_file(follow_symlinks=False) else 0


def _sized(value: bytes, size: int) -> bytes:
    """A value, or, where no room is given for it, how much it needs."""
    if not size:
        return wire.TWO_U32.pack(len(value), 0)
    if len(value) > size:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    return value
