"""The files that hold settings, and which of them are used: nothing that a stranger can put in the way counts.

A program stands in an agent's session, or in /tmp, when it starts: a ``cachesync.toml`` there may be anybody's, and it
names the server that gets signed requests. So a file counts if it and its directory belong to root or the caller and
nobody else can write them, and never below a root.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from cachesync.model.errors import ConfigError
from cachesync.model.keys import RESERVED

NAME = "cachesync.toml"
_SIZE = 1024 * 1024
"""Bytes. A settings file has a few hundred."""

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


def user_file(environ: Mapping[str, str]) -> Path | None:
    """Where the user's own settings are; None without a home."""
    place, home = environ.get("XDG_CONFIG_HOME", ""), environ.get("HOME", "")
    if not place.startswith("/"):
        place = f"{home}/.config" if home.startswith("/") else ""
    return Path(place, "cachesync", NAME) if place else None


def read_system(path: Path) -> str:
    """The text of the machine's file, which may be a link; empty if there is none. Raises ConfigError."""
    try:
        descriptor = os.open(path, _FLAGS)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise _unreadable(path, error.strerror) from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _unreadable(path, "it is not a regular file")
        return _text(path, descriptor)
    finally:
        os.close(descriptor)


def read_own(path: Path, roots: Iterable[Path]) -> str:
    """The text of a file in the working directory or in the caller's home; empty if there is none that counts.

    What others can cause is left out with a warning. Raises ConfigError for a file of root or the caller that others
    can write, or that cannot be read.
    """
    with contextlib.ExitStack() as stack:
        try:
            directory = os.open(path.parent, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return ""
        stack.callback(os.close, directory)
        try:
            descriptor = os.open(path.name, _FLAGS | os.O_NOFOLLOW, dir_fd=directory)
        except FileNotFoundError:
            return ""
        except OSError as error:
            return _unopened(path, directory, error)
        stack.callback(os.close, descriptor)
        if (reason := _foreign(path, os.fstat(descriptor), os.fstat(directory), roots)) is not None:
            return _left_out(path, reason)
        return _text(path, descriptor)


def _foreign(path: Path, found: os.stat_result, directory: os.stat_result, roots: Iterable[Path]) -> str | None:
    """Why a file that is there does not count. Raises ConfigError where the caller has to mend it."""
    if not stat.S_ISREG(found.st_mode):
        return "it is not a regular file"
    trusted = (0, os.geteuid())
    for what, one in (("it", found), ("its directory", directory)):
        if one.st_uid not in trusted:
            return f"{what} belongs to user {one.st_uid}"
    if (root := _root_around(path.parent, roots)) is not None:
        return f"it lies below the root {root}, where agents write"
    for place, one in ((path, found), (path.parent, directory)):
        if stat.S_IMODE(one.st_mode) & 0o022:
            if one is directory and one.st_mode & stat.S_ISVTX:
                return "everybody can write its directory"
            raise _unreadable(path, f"other users can write {place}", f"run: chmod go-w {place}")
    return None


def _root_around(directory: Path, roots: Iterable[Path]) -> Path | None:
    """The root that a directory is, or lies in: one of ``roots``, or one that the state folder in it shows."""
    here = directory.resolve()
    for root in roots:
        if here.is_relative_to(root.resolve()):
            return root
    for place in (here, *here.parents):
        try:
            state = os.lstat(place / RESERVED)
        except OSError:
            continue
        if stat.S_ISDIR(state.st_mode) and state.st_uid in (0, os.geteuid()):  # else anybody could make one
            return place
    return None


def _unopened(path: Path, directory: int, error: OSError) -> str:
    """What cannot be opened may be a stranger's, or a link, or a socket: only the caller's own file is an error."""
    found = os.stat(path.name, dir_fd=directory, follow_symlinks=False)
    if stat.S_ISREG(found.st_mode) and found.st_uid in (0, os.geteuid()):
        raise _unreadable(path, error.strerror)
    return _left_out(path, "it is a link" if stat.S_ISLNK(found.st_mode) else "it is not a regular file")


def _left_out(path: Path, reason: str) -> str:
    import logging  # nearly nobody needs it

    logging.getLogger(__name__).warning("cachesync: %s is not used: %s", path, reason)
    return ""


def _text(path: Path, descriptor: int) -> str:
    with open(descriptor, "rb", closefd=False) as file:
        data = file.read(_SIZE + 1)
    try:
        if len(data) > _SIZE:
            raise ValueError("it is too large")
        return data.decode()
    except ValueError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, cause: object, hint: str = "allowed: TOML") -> ConfigError:
    return ConfigError("read", str(path), cause, hint)
