"""The mount's server: a process of its own, with one thread that answers the kernel.

Not in the daemon's: one busy Python thread beside the request loop makes a file's creation a hundred times slower.
"""

from __future__ import annotations

import gc
import logging
import os
import stat
import sys
import threading
import time
from collections.abc import Callable

from cachesync import fuse
from cachesync.journal.evicted_reader import AbsentNames
from cachesync.model.record import record
from cachesync.mount.daemon_client import Keeper
from cachesync.mount.data_io import WriteThrough
from cachesync.mount.descriptors import raise_limit
from cachesync.mount.filesystem import build
from cachesync.mount.invalidate import follow
from cachesync.mount.view import View, hidden_names

logger = logging.getLogger(__name__)

_LOOK = 1.0

REPLACED = 75
"""The exit code of a server whose root is not there any more: EX_TEMPFAIL of sysexits.h."""


@record(frozen=True, slots=True)
class Plan:
    """What is mounted where, as it travels from the supervisor. Paths are absolute. ``private`` as Context has it."""

    root: str
    state: str
    directory: str
    through: WriteThrough
    read_only: bool
    others: bool
    revalidate: float
    private: int


def serve(plan: Plan, keeper: Keeper, absent: AbsentNames, ready: Callable[[], None]) -> None:
    """Mount, and answer until it is unmounted. If another root stands there, the process ends with REPLACED.

    Raises UsageError.
    """
    os.umask(0)  # what a program asks for is what it gets (see changing.masked)
    raise_limit()
    device = fuse.mount(plan.directory, source=plan.root, read_only=plan.read_only, others=plan.others)
    identity = _identity(plan.root)
    needed = [plan.state, "/proc", sys.prefix, sys.base_prefix, *filter(None, sys.path)]
    if not fuse.confine(plan.root, away_from=plan.directory, needed=needed) and os.geteuid() == 0:
        logger.warning("links under the root cannot be kept from being followed: no private view of the mounts")
    handed_down = os.stat(".").st_mode & stat.S_ISGID
    view = View(absent, keeper, hidden_names(plan.root, plan.state), plan.revalidate, plan.private | handed_down)
    loop = build(view, device, plan.through)
    loop.greet(passthrough=os.geteuid() == 0, depth=2 if fuse.kind_at(plan.root) == "overlay" else 1)

    def tend() -> None:
        while True:
            time.sleep(_LOOK)
            with loop.lock:
                absent.refresh()
            loop.let_go()
            if _identity(plan.root) != identity:
                logger.error("another directory stands at %s: the mount ends, and begins anew", plan.root)
                os._exit(REPLACED)  # whoever supervises us unmounts: our view of the mounts does not have it

    threading.Thread(target=tend, name="tend", daemon=True).start()
    follow(keeper, view, loop, device)
    gc.collect()
    gc.freeze()  # what is there now stays: no collection walks over it
    sys.setswitchinterval(0.001)
    ready()
    loop.serve()


def _identity(root: str) -> tuple[int, int] | None:
    try:
        found = os.stat(root)
    except OSError:
        return None
    return found.st_dev, found.st_ino
