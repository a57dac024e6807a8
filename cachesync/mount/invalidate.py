"""Letting the kernel forget what the daemon has changed in the root: what it brought, dropped, put and restored."""

from __future__ import annotations

import threading
import time

from cachesync.fuse import Device, Loop, wire
from cachesync.mount.daemon_client import Keeper
from cachesync.mount.nodes import Node
from cachesync.mount.view import View

_AGAIN = 0.5


def follow(keeper: Keeper, view: View, loop: Loop, device: Device) -> None:
    """Begin to follow, in a thread of its own: the kernel may hold a directory's lock while it asks us something, and
    waits for that lock to forget a name."""

    def work() -> None:
        while True:
            for session, path in keeper.changes():
                for message in _messages(view, loop, session, path):
                    device.send(message)
            time.sleep(_AGAIN)  # no daemon: it is believed for a second, as what others change

    threading.Thread(target=work, name="follow", daemon=True).start()


def _messages(view: View, loop: Loop, session: bytes, path: bytes) -> list[bytes]:
    """What to tell the kernel of one path, if it knows it."""
    with loop.lock:
        node: Node | None = view.nodes.root
        names = [session, *path.split(b"/")] if path else [session]
        told = []
        for name in filter(None, names):
            parent = node
            assert parent is not None, "the loop ends where nothing is known"  # noqa: S101
            node = view.nodes.at(parent, name)
            if node is None:
                return [wire.inval_entry(parent.number, name)]
            told = [wire.inval_inode(node.number)]
            if not node.is_directory:  # whose name is dropped under a program that stands in it, if we say so
                told.append(wire.inval_entry(parent.number, name))
    return told
