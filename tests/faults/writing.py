"""A program that writes into sessions as agents do, while daemons live and die: ``writing ROOT LOG SEED SESSION...``.

Every change is on disk (fsync) before it is written to the log: ``{"session", "path", "sha256" or null}``. Ends when
its standard input is closed, with the change that it is at.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import select
import sys
from pathlib import Path
from typing import IO

MOST = 60
PAUSE = 0.004


class Writer:
    """Works in one session."""

    def __init__(self, top: Path, log: IO[str], chance: random.Random) -> None:
        self._top = top
        self._log = log
        self._random = chance
        self._files: dict[str, bytes] = {}
        self._made = chance.randrange(10**6)  # no other program of this root takes the same names

    def step(self) -> None:
        """One change of some kind."""
        kinds = [self._create] if len(self._files) < 3 else [self._create, self._rewrite, self._append, self._rename]
        if len(self._files) > 10:
            kinds.append(self._delete)
        if len(self._files) > MOST:
            kinds = [self._delete]
        self._random.choice(kinds)()

    def _path(self) -> str:
        self._made += 1
        folder = self._random.choice(["", "a/", "a/b/", "logs/", "ü ö/"])
        return f"{folder}{self._random.choice(['f', 'note', 'x.jsonl', 'y.tmp'])}{self._made}"

    def _bytes(self) -> bytes:
        return self._random.randbytes(self._random.choice([0, 1, 100, 4000, 60_000])) + b"%d" % self._made

    def _some(self) -> str:
        return self._random.choice(sorted(self._files))

    def _create(self) -> None:
        self._store(self._path(), self._bytes(), "wb")

    def _rewrite(self) -> None:
        path = self._some()
        if self._random.random() < 0.5:
            self._store(path, self._bytes(), "wb")
            return
        beside = f"{path}.tmp"
        data = self._bytes()
        self._write(beside, data, "wb")
        os.replace(self._top / beside, self._top / path)
        self._sync_folder(path)
        self._files[path] = data
        self._say(path)

    def _append(self) -> None:
        path = self._some()
        self._store(path, self._files[path] + b"more\n", "ab", b"more\n")

    def _rename(self) -> None:
        old, new = self._some(), self._path()
        (self._top / new).parent.mkdir(parents=True, exist_ok=True)
        os.rename(self._top / old, self._top / new)
        self._sync_folder(new)
        self._sync_folder(old)
        self._files[new] = self._files.pop(old)
        self._say(old)
        self._say(new)

    def _delete(self) -> None:
        path = self._some()
        os.unlink(self._top / path)
        if self._random.random() < 0.5:  # the others may stand again when the power comes back
            self._sync_folder(path)
        del self._files[path]
        self._say(path)

    def _store(self, path: str, whole: bytes, mode: str, data: bytes | None = None) -> None:
        self._write(path, whole if data is None else data, mode)
        self._files[path] = whole
        self._say(path)

    def _write(self, path: str, data: bytes, mode: str) -> None:
        target = self._top / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, mode) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def _sync_folder(self, path: str) -> None:
        folder = os.open((self._top / path).parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _say(self, path: str) -> None:
        data = self._files.get(path)
        sha256 = None if data is None else hashlib.sha256(data).hexdigest()
        self._log.write(json.dumps({"session": self._top.name, "path": path, "sha256": sha256}) + "\n")
        self._log.flush()


def main() -> None:
    """Work in all sessions in turn until told to end."""
    root, log, seed, *sessions = sys.argv[1:]
    chance = random.Random(int(seed))
    with open(log, "a", encoding="utf-8") as out:
        writers = [Writer(Path(root) / name, out, chance) for name in sessions]
        while not select.select([sys.stdin], [], [], PAUSE)[0]:
            chance.choice(writers).step()


if __name__ == "__main__":
    main()
