"""Making directories: each has its rights before it gets its name, and a session all of its files."""

from __future__ import annotations

import os
import stat as st
from collections.abc import Mapping

from cachesync.model.errors import UsageError
from cachesync.model.values import Rights
from cachesync.root.openat2 import HOLD
from cachesync.root.rename import move
from cachesync.root.rights import give, give_link
from cachesync.root.staging import Staging, make_directories, translated
from cachesync.root.tree import Tree

DIRECTORY_BITS = st.S_ISGID | st.S_ISVTX | 0o777
"""The permission bits of a directory that are restored."""

NO_MODES: Mapping[str, int] = {}
NO_RIGHTS: Mapping[str, Rights] = {}
_STEP = HOLD | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def make_directory(staging: Staging, parent: int, name: str, mode: int | None, rights: Rights | None) -> bool:
    """Make a directory in the open directory ``parent``. A ``mode`` of None is the process's default, with the parent's
    set-group-ID bit. Returns False if something has the name. Raises OSError."""
    made, folder = staging.name(), staging.inward
    os.mkdir(made, dir_fd=folder)
    try:
        held = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
        try:
            if mode is None:
                mode = st.S_IMODE(os.fstat(held).st_mode) | os.fstat(parent).st_mode & st.S_ISGID
            give(held, rights, parent, mode)
        finally:
            os.close(held)
        move(folder, made, parent, name)
    except BaseException as error:
        os.rmdir(made, dir_fd=folder)
        if not isinstance(error, FileExistsError):
            raise
        return False
    return True


def make_path(
    staging: Staging,
    base: int,
    path: str,
    modes: Mapping[str, int] = NO_MODES,
    rights: Mapping[str, Rights] = NO_RIGHTS,
) -> list[str]:
    """Make what is missing of ``path`` under an open directory, without following a link; returns what was made, each
    ending in "/". ``modes`` and ``rights`` are by the same names. Raises OSError."""
    made, here, held = [], "", os.dup(base)
    try:
        for part in filter(None, path.split("/")):
            here += part + "/"
            try:
                step = os.open(part, _STEP, dir_fd=held)
            except FileNotFoundError:
                mode = modes.get(here)
                given = None if mode is None else mode & 0o777 | st.S_IRWXU
                if make_directory(staging, held, part, given, rights.get(here)):
                    made.append(here)
                step = os.open(part, _STEP, dir_fd=held)
            os.close(held)
            held = step
    finally:
        os.close(held)
    return made


def make_session(tree: Tree, staging: Staging, session: str, mode: int, rights: Rights | None) -> bool:
    """Make a session's directory; whether it was not there. Without ``rights`` it belongs to whom the root does. Raises
    UsageError if something else has its name, and FileUnwritable."""
    if tree.session_directory(session) is not None:
        return False
    if os.geteuid() != 0:
        mode |= st.S_IRWXU  # this process works in it
    with translated("make the session's directory", session):
        made = make_directory(staging, tree.descriptor, session, mode & DIRECTORY_BITS, rights)
    if not made and tree.session_directory(session) is None:
        raise UsageError("make", session, "something that is no directory stands in its place")
    return made


def make_whole_session(tree: Tree, staging: Staging, session: str, files: Mapping[str, bytes], mode: int) -> bool:
    """Make a session with its files, all at one instant; False if something has its name. It belongs to whom the root
    does. Raises FileUnwritable."""
    name = staging.name()
    with translated("make the session's directory", session):
        os.mkdir(name, 0o700, dir_fd=staging.inward)
        base = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=staging.inward)
        try:
            for path, data in files.items():
                make_directories(base, path.rpartition("/")[0])
                with open(path, "xb", opener=lambda path, flags: os.open(path, flags, 0o666, dir_fd=base)) as file:
                    file.write(data)
            for _, folders, names, held in os.fwalk(dir_fd=base):
                for made in (*folders, *names):
                    give_link(held, made, None, tree.descriptor)
            give(base, None, tree.descriptor, mode)
            move(staging.inward, name, tree.descriptor, session)
        except FileExistsError:
            return False
        finally:
            os.close(base)
    return True
