"""A root, a folder beside it, a watcher, and a listener that follows its hints as the daemon would."""

import ctypes
import os
import threading
import time

from cachesync.watch.hints import Hint, Hints
from cachesync.watch.watch import Watcher

WRITTEN = Hint.CHANGED | Hint.CLOSED
DEADLINE = 20.0


def exchange(one: str, other: str) -> None:
    """Let two names change places (renameat2 with RENAME_EXCHANGE)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), one)


def write(path: str) -> None:
    """Make a file and the folders above it."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write("x")


class Bench:
    """``known`` is every path that hints led to and that stood there when it was looked at."""

    def __init__(self, base: str, root: str = "") -> None:
        self.root = root or f"{base}/root"
        self.out = f"{base}/out"
        for folder in (f"{self.root}/s", f"{self.root}/.cachesync", self.out):
            os.makedirs(folder)
        self.now = 0.0
        self.woken = threading.Event()
        self.known: set[str] = self.on_disk()
        self.rescan: set[str] = set()
        self.fences = 0
        self.watcher = Watcher(
            self.root,
            canary=f"{self.root}/.cachesync/canary",
            on_hints=self.woken.set,
            clock=lambda: self.now + time.monotonic(),
        )

    def on_disk(self, top: str = "") -> set[str]:
        """Every path at and below ``top``, but for our own folder and the fences."""
        found = {top} if top and os.path.lexists(f"{self.root}/{top}") else set()
        for folder, folders, files in os.walk(f"{self.root}/{top}" if top else self.root):
            if folder == self.root and ".cachesync" in folders:
                folders.remove(".cachesync")
            inside = os.path.relpath(folder, self.root)
            found.update(os.path.normpath(f"{inside}/{name}") for name in folders + files)
        return {name for name in found if not name.startswith("fence")}

    def follow(self, wait: float) -> Hints:
        """Take what is there, or comes within ``wait`` seconds, and look at each path."""
        self.woken.wait(wait)
        self.woken.clear()
        hints = self.watcher.take()
        self.rescan |= hints.rescan
        for path, hint in hints.paths.items():
            if path.startswith("fence"):
                continue
            if Hint.TREE in hint:
                self.known -= {name for name in self.known if name == path or name.startswith(path + "/")}
                self.known |= self.on_disk(path)
            elif os.path.lexists(f"{self.root}/{path}"):
                self.known.add(path)
            else:
                self.known.discard(path)
        return hints

    def fence(self) -> Hints:
        """All hints for what was done up to now: the kernel keeps the order, so the fence comes last."""
        self.fences += 1
        fence = f"fence{self.fences}"
        deadline = time.monotonic() + DEADLINE
        os.close(os.open(f"{self.root}/{fence}", os.O_WRONLY | os.O_CREAT))
        while not self.watcher._pending._sessions.get(fence, {}).get(fence, 0) & Hint.CLOSED:
            assert time.monotonic() < deadline, f"deaf; uncovered: {self.watcher.uncovered()}"
            self.woken.wait(0.001)
        hints = self.follow(0)
        return Hints({path: hint for path, hint in hints.paths.items() if not path.startswith("fence")}, hints.rescan)

    def forget(self) -> None:
        """Let everything up to now be heard, and drop it."""
        self.fence()
        self.watcher.take()
