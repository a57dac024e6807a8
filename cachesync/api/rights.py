"""Who asks over an AF_UNIX socket, and which sessions the kernel would let that user read.

The kernel tells user and groups of the process that connected (SO_PEERCRED, SO_PEERGROUPS). The rights are computed
here from mode bits and ACL, as acl(5) says, because the daemon cannot become that user. Root gets what the bits give,
no more: it has the operator's socket.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from cachesync.api.socket_address import CREDENTIALS
from cachesync.model.errors import CacheSyncError
from cachesync.model.policy import check_owner
from cachesync.model.record import record

_PEERGROUPS = 59
"""SO_PEERGROUPS of asm-generic/socket.h, which the socket module does not name."""

_ROOM = 1024
"""Bytes, the most that the socket module takes: 256 groups. Of a user with more, only the primary one counts."""

_READ, _PASS = 4, 1
_ACL = "system.posix_acl_access"
_ENTRY = struct.Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32

Entry = tuple[int, int, int]
"""Of an ACL: its tag, its rights as three bits, and whose it is."""


class Connection(Protocol):
    """What is asked for a peer; ``socket.socket`` and asyncio's wrapper have it."""

    @property
    def family(self) -> int:
        """Its address family."""
        ...

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        """An option of its."""
        ...


@record(frozen=True, slots=True)
class Peer:
    """The process at the other end, as it was when it connected."""

    user: int
    groups: frozenset[int]


def peer_of(connection: Connection) -> Peer:
    """Raises OSError where the system does not tell."""
    _, user, group = CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
    try:
        groups = connection.getsockopt(socket.SOL_SOCKET, _PEERGROUPS, _ROOM)
    except OSError as error:
        if error.errno not in (errno.ERANGE, errno.ENOPROTOOPT):
            raise
        groups = b""
    return Peer(user, frozenset((group, *(number for (number,) in struct.iter_unpack("=I", groups)))))


def is_own(connection: Connection | None) -> bool:
    """Whether the peer is a process of this process's user that sees the same files: the same mount namespace. So what
    this process writes for it, it could write. Never over TCP."""
    try:
        if connection is None or connection.family != socket.AF_UNIX:
            return False
        process, user, _ = CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        )
        return bool(user == os.geteuid() and os.readlink(f"/proc/{process}/ns/mnt") == os.readlink("/proc/self/ns/mnt"))
    except (OSError, AttributeError):  # it is gone, or the system does not tell
        return False


class SessionRights:
    """The rights of peers in the sessions of a root. ``owner`` is the user of a session as the journal has it."""

    def __init__(self, root: Path, owner: Callable[[str], int | None] = lambda _: None) -> None:
        self._root = root
        self._owner = owner
        self._unknown = frozenset(_unmapped(name) for name in ("overflowuid", "overflowgid"))

    def may_read(self, peer: Peer, session: str) -> bool:
        """Whether a peer may list a session's directory, and pass through the root. False if it does not stand, or if
        another user than the session's made it."""
        directory = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            root = os.open(self._root, directory)
            try:
                found = os.open(session, directory | os.O_NOFOLLOW, dir_fd=root)
                try:
                    check_owner(session, os.fstat(found).st_uid, self._owner(session), own=os.geteuid())
                    return self._allows(peer, root, _PASS) and self._allows(peer, found, _READ | _PASS)
                finally:
                    os.close(found)
            finally:
                os.close(root)
        except (OSError, CacheSyncError):
            return False

    def _allows(self, peer: Peer, directory: int, wanted: int) -> bool:
        found = os.fstat(directory)
        return allows(_entries(directory, found), (found.st_uid, found.st_gid), self._known(peer), wanted)

    def _known(self, peer: Peer) -> Peer:
        """The peer without ids that stand for everybody whom this user namespace does not know."""
        user = -1 if peer.user in self._unknown else peer.user
        return Peer(user, peer.groups - self._unknown)


def allows(entries: list[Entry], owner: tuple[int, int], peer: Peer, wanted: int) -> bool:
    """Whether the entries of an ACL give a peer all rights of ``wanted``; ``owner`` is the file's user and group."""
    mask = next((rights for tag, rights, _ in entries if tag == _MASK), 7)
    if peer.user == owner[0]:
        return any(rights & wanted == wanted for tag, rights, _ in entries if tag == _USER_OBJ)
    for tag, rights, whose in entries:
        if tag == _USER and whose == peer.user:
            return rights & mask & wanted == wanted
    of_groups = [
        rights & mask
        for tag, rights, whose in entries
        if (tag == _GROUP_OBJ and owner[1] in peer.groups) or (tag == _GROUP and whose in peer.groups)
    ]
    if of_groups:
        return any(rights & wanted == wanted for rights in of_groups)
    return any(rights & wanted == wanted for tag, rights, _ in entries if tag == _OTHER)


def _entries(directory: int, found: os.stat_result) -> list[Entry]:
    try:
        raw = os.getxattr(directory, _ACL)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise
        mode = stat.S_IMODE(found.st_mode)
        return [(_USER_OBJ, mode >> 6 & 7, 0), (_GROUP_OBJ, mode >> 3 & 7, 0), (_OTHER, mode & 7, 0)]
    return [_ENTRY.unpack_from(raw, at) for at in range(4, len(raw), _ENTRY.size)]


def _unmapped(name: str) -> int:
    """The id that the kernel shows for those that a user namespace does not have."""
    try:
        return int(Path("/proc/sys/kernel", name).read_text("ascii"))
    except (OSError, ValueError):
        return 65534
