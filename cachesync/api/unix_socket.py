"""A socket of the daemon's in the file system: made, replaced and removed."""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from cachesync.api.socket_address import connect, short_address
from cachesync.model.errors import ConfigError, DaemonUnavailable, is_passing

_log = logging.getLogger(__name__)


class UnixSocket:
    """A socket at ``path``: mode 0600, or 0660 for ``group`` (a name or a number). ``for_others`` is one that other
    users trust: nobody but root and this process's user may be able to put another one in its place."""

    def __init__(self, path: Path, group: str | None, *, for_others: bool = False) -> None:
        self.path = path
        self._for_others = for_others
        self._group = group
        self._inode = (0, 0)

    def listen(self) -> socket.socket:
        """Make it. A socket that nobody serves is replaced; anything else that is there is left alone.

        The umask is the process's, and is narrowed for the moment of the bind: call this before threads that create
        files. Raises ConfigError if the socket cannot be created, DaemonUnavailable if the error is temporary.
        """
        group = None if self._group is None else _group_id(self._group)
        try:
            return self._bound(group)
        except OSError as error:
            if is_passing(error):
                hint = "start the daemon again later, or run cachesync doctor"
                raise DaemonUnavailable("open the control socket", str(self.path), error.strerror, hint) from error
            raise ConfigError("open the control socket", str(self.path), error.strerror or error) from error

    def remove(self) -> None:
        """Remove it, unless something else is in its place."""
        try:
            with short_address(self.path) as address:
                found = os.lstat(address)
                if (found.st_dev, found.st_ino) == self._inode:
                    os.unlink(address)
        except OSError as error:
            _log.debug("socket %s is gone already: %s", self.path, error)

    def _bound(self, group: int | None) -> socket.socket:
        with suppress(FileExistsError):
            self.path.parent.mkdir(mode=0o700, parents=True)
            if group is not None:  # else its group would not get as far as the socket
                os.chown(self.path.parent, -1, group)
                self.path.parent.chmod(0o750)
        if self._for_others:
            self._check_directory()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with short_address(self.path) as address:
                self._clear(address)
                before = os.umask(0o177)  # the socket is born 0600: there is no moment when others can connect
                try:
                    listener.bind(address)
                finally:
                    os.umask(before)
                if group is not None:
                    os.chown(address, -1, group)
                    os.chmod(address, 0o660)
                made = os.lstat(address)
                self._inode = (made.st_dev, made.st_ino)
        except BaseException:
            listener.close()
            raise
        return listener

    def _check_directory(self) -> None:
        directory = self.path.parent
        found = directory.stat()
        if found.st_uid not in (0, os.geteuid()):
            cause = f"its directory {directory} belongs to user {found.st_uid}, who could put another socket there"
        elif stat.S_IMODE(found.st_mode) & 0o022:
            cause = f"other users can write its directory {directory}, and could put another socket there"
        else:
            return
        hint = "give it a directory of root's or the daemon's own (mode 0755); one that does not exist is made so"
        raise ConfigError("setting", "agent_socket", cause, hint)

    def _clear(self, address: str) -> None:
        """Remove the socket of a daemon that is gone. Raises ConfigError for anything else that is in the way."""
        try:
            found = os.lstat(address)
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise ConfigError("open the control socket", str(self.path), "something that is not a socket is there")
        try:
            connect(self.path, timeout=1.0).close()
        except OSError as error:
            if error.errno != errno.ECONNREFUSED:
                raise
            os.unlink(address)
            return
        cause = "another process serves it"
        raise ConfigError("open the control socket", str(self.path), cause, "give each daemon a socket of its own")


def _group_id(name: str) -> int:
    import grp  # not on every system, and needed for a group only

    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError("socket group", name, "there is no such group") from None
