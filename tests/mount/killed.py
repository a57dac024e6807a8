"""Programs that work on and on in a session until they are killed, or what they work on is; and what has to be true
of it after that.

Each says what it was told: a line in ``told`` for every step that the file system said is done.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.mount.mounted import IDENTITY, sh

SEVERAL = 5
"""Directories that a program has in turn: what there is to be stored has a bound."""

Proof = Callable[["Place"], None]


@dataclass
class Place:
    """``folder`` is a session in the mount, ``beside`` a directory outside of it."""

    folder: Path
    beside: Path

    @property
    def log(self) -> Path:
        return self.beside / "told"

    def told(self) -> list[str]:
        """The whole lines."""
        return self.log.read_text().split("\n")[:-1] if self.log.exists() else []

    def said(self) -> str:
        """Its complaints."""
        return (self.beside / "said").read_text()

    @property
    def source(self) -> Path:
        return self.beside / "source"


@dataclass
class Program:
    """``prepare`` comes before, ``command`` is what runs, ``proof`` what is true of what it was told."""

    name: str
    command: list[str]
    proof: Proof
    prepare: Proof = lambda place: None

    def __str__(self) -> str:
        return self.name

    @contextmanager
    def running(self, place: Place) -> Iterator[subprocess.Popen[bytes]]:
        """It, with all that it starts. It ends with 0 as soon as there is a file ``stop`` beside."""
        told = {"GIT_CONFIG_GLOBAL": "/dev/null", "HERE": str(place.folder), "BESIDE": str(place.beside)}
        with (
            (place.beside / "said").open("wb") as said,
            subprocess.Popen(
                self.command,
                env=os.environ | IDENTITY | told,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
            ) as process,
        ):
            try:
                yield process
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def again_and_again(script: str) -> list[str]:
    """A shell script as a step, ``$n`` its number, ``$d`` a directory to be made anew; an error ends it all."""
    loop = f"""
    cd "$HERE"
    step() {{ {script}
    }}
    n=0
    while [ ! -e "$BESIDE/stop" ]; do
        n=$((n + 1))
        d=d$((n % {SEVERAL}))
        step
        echo $n >> "$BESIDE/told"
    done
    """
    return ["bash", "-euo", "pipefail", "-c", loop]


def python(body: str) -> list[str]:
    """The same, of Python; ``n``, ``here`` and ``beside`` are known."""
    loop = (
        "import os, sys, itertools\n"
        "here, beside = os.environ['HERE'], os.environ['BESIDE']\n"
        "def tell(line):\n"
        "    with open(beside + '/told', 'a') as log: log.write(f'{line}\\n')\n"
        "def going(): return not os.path.exists(beside + '/stop')\n" + body
    )
    return [sys.executable, "-c", loop]


# -- git -------------------------------------------------------------------------------------------------------------


def prepare_repository(place: Place) -> None:
    sh(
        """
        git init -q .; git config core.fsync all; git config gc.auto 0
        for n in $(seq 30); do echo $n > f$n; done
        git add .; git commit -qm 0
        """,
        place.folder,
    )


def prove_repository(place: Place) -> None:
    sh("find .git -name '*.lock' -delete; git fsck --strict; git reset -q --hard; git status --porcelain", place.folder)
    there = set(sh("git log --format=%s", place.folder).split())
    assert {*place.told()} <= there


# -- SQLite ----------------------------------------------------------------------------------------------------------

DATABASE = """
import sqlite3
child = os.fork()
who = 'child' if child == 0 else 'parent'
db = sqlite3.connect(here + '/db', timeout=60, isolation_level=None)
db.execute('PRAGMA synchronous=FULL')
for n in itertools.count():
    if not going(): break
    db.execute('BEGIN IMMEDIATE')
    db.execute('INSERT INTO t VALUES (?, ?)', (f'{who} {n}', os.urandom(500)))
    db.execute('COMMIT')
    tell(f'{who} {n}')
db.close()
if child and os.waitpid(child, 0)[1]: sys.exit(1)
"""


def prepare_database(place: Place) -> None:
    db = sqlite3.connect(place.folder / "db", isolation_level=None)
    assert db.execute("PRAGMA journal_mode=wal").fetchone() == ("wal",)
    db.execute("CREATE TABLE t (name TEXT, data BLOB)")
    db.close()


def prove_database(place: Place) -> None:
    db = sqlite3.connect(place.folder / "db")
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    there = {name for (name,) in db.execute("SELECT name FROM t")}
    db.close()
    assert {*place.told()} <= there


# -- what copies -----------------------------------------------------------------------------------------------------


def prepare_tree(place: Place) -> None:
    chance = random.Random(1)
    for number in range(40):
        path = place.source / f"d{number % 5}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(chance.choice([0, 10, 5000, 60_000])))
    os.symlink("d1/f1", place.source / "link")
    os.link(place.source / "d2/f2", place.source / "hard")
    sh("tar cf all.tar -C source .", place.beside)


def whole(place: Place) -> list[str]:
    """The directories that were said to be done, and that no later step was told to replace."""
    done = len(place.told())
    return [f"d{n % SEVERAL}" for n in range(max(1, done - SEVERAL + 2), done + 1)]


def cut_off(place: Place) -> str:
    """The directory that was being made."""
    return f"d{(len(place.told()) + 1) % SEVERAL}"


def prove_copies(place: Place) -> None:
    for name in whole(place):
        sh(f"diff -r --no-dereference {place.source} {name}", place.folder)


def prove_rsync(place: Place) -> None:
    prove_copies(place)
    name = cut_off(place)
    sh(f"rsync -a --checksum --delete {place.source}/ {name}; diff -r {place.source} {name}", place.folder)


def prepare_sparse(place: Place) -> None:
    place.source.mkdir()
    for number, size in enumerate((0, 1 << 20, 3 << 20)):
        with (place.source / f"f{number}").open("wb") as file:
            for offset in range(0, size, 300_000):
                file.seek(offset)
                file.write(b"data %d" % offset)
            file.truncate(size)


# -- pip -------------------------------------------------------------------------------------------------------------


def make_wheel(folder: Path, modules: int = 30) -> Path:
    """A wheel of our own: ``wheelhouse``, whose modules know their number."""
    path, info = folder / "wheelhouse-1.0-py3-none-any.whl", "wheelhouse-1.0.dist-info"
    files = {"wheelhouse/__init__.py": "TOLD = 'from a wheel'\n"}
    files |= {f"wheelhouse/m{n}.py": f"N = {n}\n" for n in range(modules)}
    files |= {
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: wheelhouse\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nwheelhouse = wheelhouse.m3:print\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"]))
    return path


def prepare_wheel(place: Place) -> None:
    make_wheel(place.beside)


PIP = f"'{sys.executable}' -m pip --isolated --disable-pip-version-check install -q --no-index --no-deps --no-compile"


def prove_wheel(place: Place) -> None:
    sh(f"rm -rf {cut_off(place)}; {PIP} --target {cut_off(place)} {place.beside}/*.whl", place.folder)
    for name in [*whole(place), cut_off(place)]:
        sh(
            f"cd {name}; '{sys.executable}' -B -c 'from wheelhouse import TOLD, m29; assert m29.N == 29';"
            " test $(ls wheelhouse | wc -l) = 31",
            place.folder,
        )


# -- what writes by itself -------------------------------------------------------------------------------------------

APPEND = """
with open(here + '/log', 'ab', buffering=0) as file:
    for n in itertools.count():
        if not going(): break
        file.write(b'%08d' % n * 125)
        os.fsync(file.fileno())
        tell(n)
"""


def prove_append(place: Place) -> None:
    content, told = (place.folder / "log").read_bytes(), len(place.told())
    assert content[: told * 1000] == b"".join(b"%08d" % n * 125 for n in range(told))


REPLACE = """
for n in itertools.count():
    if not going(): break
    name = f'{here}/f{n % 50}'
    with open(name + '.tmp', 'w') as file:
        file.write(f'content {n}\\n' * 50)
        file.flush()
        os.fsync(file.fileno())
    os.rename(name + '.tmp', name)
    tell(n)
"""


def prove_replace(place: Place) -> None:
    newest = {int(line) % 50: int(line) for line in place.told()}
    for name, number in newest.items():
        found = (place.folder / f"f{name}").read_text()
        # The one that was under way may have got there before the kill.
        assert found in {f"content {n}\n" * 50 for n in (number, number + 50)}


PROGRAMS = [
    Program(
        "commit",
        again_and_again("echo $n > f1; echo $n > g$n; git add .; git commit -qm $n"),
        prove_repository,
        prepare_repository,
    ),
    Program(
        "gc",
        again_and_again("echo step $n > f$((n % 30)); git commit -qam $n; git gc -q --prune=now"),
        prove_repository,
        prepare_repository,
    ),
    Program("sqlite", python(DATABASE), prove_database, prepare_database),
    Program("tar", again_and_again('rm -rf $d; mkdir $d; tar xf "$BESIDE/all.tar" -C $d'), prove_copies, prepare_tree),
    Program("rsync", again_and_again('rm -rf $d; rsync -a "$BESIDE/source/" $d'), prove_rsync, prepare_tree),
    Program("pip", again_and_again(f'rm -rf $d; {PIP} --target $d "$BESIDE"/*.whl'), prove_wheel, prepare_wheel),
    Program(
        "sparse", again_and_again('rm -rf $d; cp -a --sparse=always "$BESIDE/source" $d'), prove_copies, prepare_sparse
    ),
    Program("append", python(APPEND), prove_append),
    Program("replace", python(REPLACE), prove_replace),
]
