"""The mount's file system, put together: which handler answers which request."""

from __future__ import annotations

from functools import partial

from cachesync.fuse import Device, Handler, Loop, Request
from cachesync.fuse.wire import Op
from cachesync.mount.data_io import Passing, WriteThrough
from cachesync.mount.locks import Locking
from cachesync.mount.lookup import Looking
from cachesync.mount.mutations import Changing
from cachesync.mount.open_files import Holding
from cachesync.mount.renaming import Renaming
from cachesync.mount.turns import InTurn
from cachesync.mount.view import View


def build(view: View, device: Device, through: WriteThrough) -> Loop:
    """A loop that serves ``view`` on ``device``."""
    loop = Loop(device, view.nodes.forget, view.keeper.break_off)
    looking, changing = Looking(view), Changing(view, loop)
    renaming = Renaming(view, changing)
    holding, passing = Holding(view, changing, device, loop, through), Passing(view, loop, through)
    locking = Locking(view.nodes, loop)
    in_turn, sure = InTurn(view.absent.turns, view.nodes), partial(_until_sure, view)
    loop.handle(
        {
            Op.LOOKUP: looking.lookup,
            Op.GETATTR: looking.getattr,
            Op.READLINK: looking.readlink,
            Op.STATFS: looking.statfs,
            Op.OPENDIR: looking.opendir,
            Op.READDIR: in_turn.handler(looking.readdir),
            Op.READDIRPLUS: in_turn.handler(looking.readdirplus),
            Op.RELEASEDIR: looking.releasedir,
            Op.FSYNCDIR: looking.fsyncdir,
            Op.GETXATTR: looking.getxattr,
            Op.LISTXATTR: looking.listxattr,
            Op.MKDIR: in_turn.handler(changing.mkdir),
            Op.MKNOD: in_turn.handler(changing.mknod),
            Op.SYMLINK: in_turn.handler(changing.symlink),
            Op.LINK: in_turn.handler(sure(changing.link)),
            Op.UNLINK: in_turn.handler(sure(changing.unlink)),
            Op.RMDIR: in_turn.handler(sure(changing.rmdir)),
            Op.RENAME: in_turn.renaming(sure(renaming.rename)),
            Op.RENAME2: in_turn.renaming(sure(renaming.rename2)),
            Op.SETATTR: in_turn.handler(sure(changing.setattr)),
            Op.SETXATTR: sure(changing.setxattr),
            Op.REMOVEXATTR: sure(changing.removexattr),
            Op.OPEN: in_turn.opening(holding.open),
            Op.CREATE: in_turn.handler(holding.create),
            Op.TMPFILE: holding.tmpfile,
            Op.RELEASE: locking.releasing(holding.release),
            Op.SETLK: locking.lock,
            Op.SETLKW: locking.lock,
            Op.READ: passing.read,
            Op.WRITE: passing.write,
            Op.FALLOCATE: passing.fallocate,
            Op.LSEEK: passing.lseek,
            Op.COPY_FILE_RANGE: passing.copy,
            Op.FSYNC: passing.fsync,
            Op.FLUSH: passing.flush,
        }
    )
    return loop


def _until_sure(view: View, handler: Handler) -> Handler:
    """Run a handler again if it found nothing and the journal changed meanwhile.

    Between its two checks, a file may have moved from the disk to the store, or back. A handler that finds nothing has
    changed nothing.
    """

    def handle(r: Request) -> bytes:
        version = None
        while True:
            try:
                return handler(r)
            except FileNotFoundError:
                if version is not None and version == view.version():
                    raise
            version = view.version()

    return handle
