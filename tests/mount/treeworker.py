"""One program at work in a directory of its own: it makes, renames and removes, and knows what should be there.

``python treeworker.py TOP SEED SECONDS``; at the end it prints what should be there, as JSON: path to ["dir"],
["file", text] or ["link", target].
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections import deque
from collections.abc import Callable

NAMES = {"dir": [f"d{number}" for number in range(4)], "file": [f"f{number}" for number in range(4)]}
"""SeaweedFS takes no object "x" beside an "x/y", so no name is a file's once and a directory's then."""

MOST = 60


class Worker:
    """``model`` has the paths below ``top``, parents before children. A file that was ever linked is not written to in
    place: whether two names are one file is not known any more once it was evicted."""

    def __init__(self, top: str, seed: int) -> None:
        self.top = top
        self.random = random.Random(seed)
        self.model: dict[str, list[str]] = {}
        self.linked: set[str] = set()
        self.done: deque[str] = deque(maxlen=30)

    def run(self, seconds: float) -> None:
        work: list[tuple[int, Callable[[], object]]] = [
            (6, self.make_directory), (10, self.make_file), (6, self.replace), (4, self.append), (8, self.rename),
            (6, self.rename_directory), (5, self.unlink), (3, self.rmdir), (3, self.link), (4, self.hard_link),
            (5, self.list), (6, self.look), (1, self.remove_tree), (1, self.pause),
        ]  # fmt: skip
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            (what,) = self.random.choices([call for _, call in work], [weight for weight, _ in work])
            self.done.append(what.__name__)
            what()

    # -- choosing ------------------------------------------------------------------------------------------------------

    def at(self, path: str) -> str:
        return os.path.join(self.top, path)

    def some(self, kind: str) -> str | None:
        found = [path for path, what in self.model.items() if what[0] == kind]
        path = self.random.choice(found) if found else None
        self.done[-1] += f" {path}"
        return path

    def free(self, kind: str = "file") -> str | None:
        """A name that is not taken, in some directory."""
        above = self.random.choice(["", *(path + "/" for path, what in self.model.items() if what[0] == "dir")])
        path = above + self.random.choice(NAMES[kind])
        self.done[-1] += f" {path}"
        return None if path in self.model or path.count("/") > 5 or len(self.model) > MOST else path

    def below(self, path: str) -> list[str]:
        return [name for name in self.model if name.startswith(path + "/")]

    def moved(self, old: str, new: str) -> None:
        for path in [old, *self.below(old)]:
            there = new + path[len(old) :]
            self.model[there] = self.model.pop(path)
            self.linked.discard(there)
            if path in self.linked:
                self.linked.remove(path)
                self.linked.add(there)

    # -- working -------------------------------------------------------------------------------------------------------

    def make_directory(self) -> None:
        if (path := self.free("dir")) is not None:
            os.mkdir(self.at(path))
            self.model[path] = ["dir"]

    def make_file(self) -> None:
        if (path := self.free()) is not None:
            text = f"{path} {self.random.random()}\n" * self.random.randrange(50)
            with open(self.at(path), "x") as file:
                file.write(text)
            self.model[path] = ["file", text]
            self.linked.discard(path)

    def replace(self) -> None:
        if (path := self.some("file")) is not None:
            text = f"again {path} {self.random.random()}\n"
            with open(self.at(path + ".tmp"), "w") as file:
                file.write(text)
            os.replace(self.at(path + ".tmp"), self.at(path))
            self.model[path] = ["file", text]
            self.linked.discard(path)

    def append(self) -> None:
        if (path := self.some("file")) is not None and path not in self.linked:
            with open(self.at(path), "a") as file:
                file.write("more\n")
            self.model[path][1] += "more\n"

    def rename(self) -> None:
        path, target = self.some(self.random.choice(("file", "link"))), self.free()
        if target is None:
            target = self.some("file")
        if path is None or target is None or path == target or (path in self.linked and target in self.linked):
            return  # two names of one file stay both
        os.rename(self.at(path), self.at(target))
        self.model.pop(target, None)
        self.moved(path, target)

    def rename_directory(self) -> None:
        path, target = self.some("dir"), self.free("dir")
        if path is None or target is None or (target + "/").startswith(path + "/"):
            return
        os.rename(self.at(path), self.at(target))
        self.moved(path, target)

    def unlink(self) -> None:
        if (path := self.some(self.random.choice(("file", "file", "link")))) is not None:
            os.unlink(self.at(path))
            del self.model[path]

    def rmdir(self) -> None:
        if (path := self.some("dir")) is not None:
            try:
                os.rmdir(self.at(path))
            except OSError:
                assert self.below(path), "an empty directory was not removed"
                return
            assert not self.below(path), "a directory was removed that had something in it"
            del self.model[path]

    def remove_tree(self) -> None:
        if (path := self.some("dir")) is not None:
            for folder, folders, files in os.walk(self.at(path), topdown=False):
                for name in files:
                    os.unlink(os.path.join(folder, name))
                for name in folders:
                    there = os.path.join(folder, name)
                    os.unlink(there) if os.path.islink(there) else os.rmdir(there)
            os.rmdir(self.at(path))
            for gone in [path, *self.below(path)]:
                del self.model[gone]

    def link(self) -> None:
        if (path := self.free()) is not None:
            target = self.random.choice(("nowhere", "f1", "d1"))
            os.symlink(target, self.at(path))
            self.model[path] = ["link", target]

    def hard_link(self) -> None:
        path, new = self.some("file"), self.free()
        if path is not None and new is not None:
            os.link(self.at(path), self.at(new))
            self.model[new] = list(self.model[path])
            self.linked |= {path, new}

    def pause(self) -> None:
        time.sleep(self.random.random() * 0.3)

    # -- looking -------------------------------------------------------------------------------------------------------

    def list(self) -> None:
        above = self.some("dir") or ""
        start = above + "/" if above else ""
        found = set(os.listdir(self.at(above)))
        expected = {path[len(start) :] for path in self.model if path.startswith(start)}
        expected = {name for name in expected if "/" not in name}
        assert found == expected, f"{above}: {sorted(found)} for {sorted(expected)}"

    def look(self) -> None:
        path = self.some(self.random.choice(("file", "dir", "link")))
        if path is not None:
            assert what(self.at(path)) == self.model[path], path
        if (free := self.free()) is not None:
            assert not os.path.lexists(self.at(free)), f"{free} is there"


def what(path: str) -> list[str]:
    """What stands at a path, as the model has it."""
    if os.path.islink(path):
        return ["link", os.readlink(path)]
    if os.path.isdir(path):
        return ["dir"]
    with open(path) as file:
        return ["file", file.read()]


def tree(top: str) -> dict[str, list[str]]:
    """All that is below a directory."""
    found = {}
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            found[os.path.relpath(path, top)] = what(path)
    return found


def others(found: dict[str, list[str]], expected: dict[str, list[str]]) -> dict[str, object]:
    """Where two trees differ: what there is, and what should be."""
    paths = sorted(found.keys() | expected.keys())
    return {path: (found.get(path), expected.get(path)) for path in paths if found.get(path) != expected.get(path)}


def main() -> None:
    top, seed, seconds = sys.argv[1:]
    os.makedirs(top, exist_ok=True)
    worker = Worker(top, int(seed))
    try:
        worker.run(float(seconds))
        found = tree(top)
        assert found == worker.model, others(found, worker.model)
    except BaseException:
        sys.stderr.write("\n".join([f"{top}, seed {seed}, at last:", *worker.done, ""]))
        raise
    sys.stdout.write(json.dumps(worker.model))


if __name__ == "__main__":
    main()
