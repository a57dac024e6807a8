"""Renaming through the mount: on the disk what stands there, and in the store, without bringing it, what is only there.

A directory may have both. What is only in the store goes first, also what the daemon dropped meanwhile, and the
directory on the disk when nothing of it is in the store only: nobody brings anything to its old name then. Each step is
one turn (turns.py).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat as st
from functools import partial

from cachesync.fuse import Later, Request, linux, wire
from cachesync.model.record import record
from cachesync.mount.mutations import Changing, check_name, removing
from cachesync.mount.nodes import Node
from cachesync.mount.view import KINDS, View, split
from cachesync.watch.hints import Hint

_LEFT_OR_CHANGED = (Hint.GONE | Hint.CHANGED).value
_COME = (Hint.CHANGED | Hint.CLOSED | Hint.TREE).value
"""Plain numbers: an enum's arithmetic takes longer than the rest of a hint."""

_ROUNDS = 5
"""Of moving what was dropped while the last round went on; what is ignored by now and stands here stays out of it."""


@record(frozen=True, slots=True)
class _Names:
    """Two places, and the flags of renameat2."""

    old_parent: Node
    old_name: bytes
    new_parent: Node
    new_name: bytes
    flags: int

    @property
    def old(self) -> bytes:
        return self.old_parent.child(self.old_name)

    @property
    def new(self) -> bytes:
        return self.new_parent.child(self.new_name)

    @property
    def exchanged(self) -> bool:
        return bool(self.flags & linux.RENAME_EXCHANGE)


class Renaming:
    """Handlers; see fuse.loop.Handler."""

    def __init__(self, view: View, changing: Changing) -> None:
        self._view = view
        self._changing = changing

    def rename(self, r: Request) -> bytes:
        """RENAME."""
        (number,) = wire.U64.unpack_from(r.buffer, wire.HEADER)
        return self._rename(r, number, 0, 8)

    def rename2(self, r: Request) -> bytes:
        """RENAME2: with flags."""
        number, flags, _ = wire.RENAME2_IN.unpack_from(r.buffer, wire.HEADER)
        return self._rename(r, number, flags, 16)

    def _rename(self, r: Request, number: int, flags: int, start: int) -> bytes:
        view = self._view
        old_name, new_name = r.text(start).split(b"\0", 1)
        names = _Names(view.nodes[r.node], old_name, view.nodes[number], new_name, flags)
        check_name(view, names.new_parent, new_name)
        view.keep_reading(names.old)
        view.keep_reading(names.new)
        source, target = _lstat(names.old_parent, old_name), _lstat(names.new_parent, new_name)
        kind = self._kind(names.old, source)
        if names.exchanged:
            self._whole(names.old, source)
            self._whole(names.new, target)
            return self._finish(names, kind)
        self._make_way(names, kind, target)
        if source is not None and not (kind == st.S_IFDIR and self._partly_away(names.old)):
            return self._finish(names, kind)
        if b"/" not in names.old or b"/" not in names.new:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))  # a whole session
        if kind != st.S_IFDIR and (target is not None or view.away(names.new) is not None):
            raise view.bring_path(names.old, directory=False)
        if source is not None:
            view.stand(names.new_parent)
        raise self._moving(names, kind)

    def _kind(self, path: bytes, found: os.stat_result | None) -> int:
        """The type bits of what stands at a path, or is only in the store. Raises OSError (ENOENT), Later."""
        if found is not None:
            return st.S_IFMT(found.st_mode)
        away = self._view.away(path)
        if away is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return KINDS[away.kind]

    def _partly_away(self, directory: bytes) -> bool:
        return self._view.any_away_below(directory) or self._view.evicted(directory) is not None

    def _whole(self, path: bytes, found: os.stat_result | None) -> None:
        """What is exchanged stands on the disk. Raises OSError (EXDEV: a directory of which not all does), Later."""
        is_directory = self._kind(path, found) == st.S_IFDIR
        if is_directory and self._view.any_away_below(path):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        if found is None:
            raise self._view.bring_path(path, directory=is_directory)

    def _make_way(self, names: _Names, kind: int, target: os.stat_result | None) -> None:
        """What has the new name may be replaced, and where only the store has it, that is foreseen. Raises OSError,
        Later.

        The daemon says that it drops a file before it does: one that stands here may count as dropped already.
        """
        view = self._view
        away = view.away(names.new)
        if away is None and target is None:
            return
        if names.flags & linux.RENAME_NOREPLACE:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        there = self._kind(names.new, target)
        if (there == st.S_IFDIR) != (kind == st.S_IFDIR):
            number = errno.EISDIR if there == st.S_IFDIR else errno.ENOTDIR
            raise OSError(number, os.strerror(number))
        if there == st.S_IFDIR and (
            view.any_away_below(names.new)
            or (target is not None and os.listdir(names.new_parent.below(names.new_name)))
            or (target is None and b"/" not in names.new)
        ):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        if away is None:
            return
        if there == st.S_IFREG:
            if not away.foreseen:
                raise view.foresee(names.new)
        elif target is None:
            raise removing(view, names.new, directory=there == st.S_IFDIR)

    def _moving(self, names: _Names, kind: int, begun: int = 0) -> Later:
        """What to raise so that what is only in the store has moved, and then the rest."""
        move = partial(self._view.keeper.move, split(names.old), split(names.new), directory=kind == st.S_IFDIR)
        then = partial(self._finish, names, kind, begun=begun + 1)
        return Later(move, then, party=split(names.old)[0], remote=True)

    def _finish(self, names: _Names, kind: int, *, begun: int = 0) -> bytes:
        """Rename on the disk what stands there; ``begun`` is how often what was in the store only has been moved there.
        Raises OSError, Later."""
        view = self._view
        stands = _lstat(names.old_parent, names.old_name) is not None
        is_left = self._is_left(names.old, stands=stands, directory=kind == st.S_IFDIR)
        if is_left and not names.exchanged and begun < _ROUNDS:
            raise self._moving(names, kind, begun)  # dropped a moment ago
        if stands or names.exchanged:
            self._grasp_target(names)
            put = partial(
                _put, names.old_parent.below(names.old_name), flags=names.flags, begun=begun > 0 and kind == st.S_IFDIR
            )
            try:
                self._changing.place_in(names.new_parent, names.new_name, put)
            except Later as later:  # the directory was dropped meanwhile; what moved in the store must not move again
                raise later.followed_by(partial(self._finish, names, kind, begun=begun)) from None
        self._renamed(names)
        view.hint(names.old_parent, names.old_name, _LEFT_OR_CHANGED if names.flags else Hint.GONE.value)
        view.hint(names.new_parent, names.new_name, _COME)
        if kind == st.S_IFDIR or names.exchanged:
            return b""
        return self._changing.forget(names.old_parent, names.old_name)

    def _grasp_target(self, names: _Names) -> None:
        """Hold the file that is about to lose its name."""
        other = self._view.nodes.at(names.new_parent, names.new_name)
        if other is not None and not names.exchanged:
            with contextlib.suppress(FileNotFoundError):
                self._view.nodes.grasp(other, names.new_parent.below(names.new_name))

    def _is_left(self, path: bytes, *, stands: bool, directory: bool) -> bool:
        """Whether something of what is renamed is in the store only."""
        return self._partly_away(path) if directory else not stands and self._view.evicted(path) is not None

    def _renamed(self, names: _Names) -> None:
        nodes = self._view.nodes
        node, other = nodes.at(names.old_parent, names.old_name), nodes.at(names.new_parent, names.new_name)
        nodes.vacate(names.old_parent, names.old_name)
        nodes.vacate(names.new_parent, names.new_name)
        if other is not None and other is not node and not names.exchanged:
            self._changing.lost(other)
        if other is not None and names.exchanged:
            nodes.moved(other, names.old_parent, names.old_name)
        if node is not None:
            nodes.moved(node, names.new_parent, names.new_name)


def _lstat(parent: Node, name: bytes) -> os.stat_result | None:
    try:
        return os.lstat(parent.below(name))
    except FileNotFoundError:
        return None


def _put(old: bytes, new: bytes, *, flags: int, begun: bool) -> None:
    """Rename; what of a directory was moved in the store may have been brought here under its new name already: then
    the rest goes to that. Raises OSError."""
    try:
        linux.rename(old, new, flags)
    except OSError as error:
        if not begun or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        _merge(old, new)


def _merge(old: bytes, new: bytes) -> None:
    with os.scandir(old) as found:
        entries = list(found)
    for entry in entries:
        there = os.path.join(new, entry.name)
        if entry.is_dir(follow_symlinks=False) and os.path.lexists(there):
            _merge(entry.path, there)
        else:
            os.rename(entry.path, there)
    os.rmdir(old)
