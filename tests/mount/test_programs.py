"""Ordinary programs through the mount: each does its work, finds it again, and finds it again when it is only in the
store."""

from __future__ import annotations

import mmap
import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mount.killed import make_wheel
from tests.mount.mounted import MountedHost, sh
from tests.promises.host import eventually

pytestmark = [pytest.mark.s3, pytest.mark.timeout(180)]


def away(host: MountedHost, session: str = "s") -> None:
    """Let the session be only in the store."""

    def is_away() -> bool:
        # What is open stays, and the kernel may tell of a close after close(2) has returned.
        done = host.run("close", session)
        assert done.code == 0, done.out + done.err
        return not (host.root / session).exists()

    eventually(is_away)


# -- what programs do: ``make`` does it, ``proof`` says what it came to, wherever it is ------------------------------


@dataclass
class Work:
    make: Callable[[Path], None]
    proof: Callable[[Path], object]

    def __str__(self) -> str:
        return self.make.__name__.removeprefix("make_")


def make_git(folder: Path) -> None:
    script = """
    git init -q repo; cd repo
    for n in $(seq 60); do mkdir -p d$((n % 7)); echo "line $n" > d$((n % 7))/f$n; done
    git add .; git commit -qm one
    git mv d1 moved; echo more >> d2/f2; git rm -q d3/f3; git commit -qam two
    git gc -q --prune=now
    """
    sh(script, folder)


def prove_git(folder: Path) -> object:
    repo = folder / "repo"
    sh("git fsck --strict", repo)
    assert sh("git status --porcelain", repo) == ""
    return sh("git log --format=%H%s; git ls-files -s", repo)


def make_databases(folder: Path) -> None:
    for mode in ("delete", "wal"):
        _two_writers(folder / f"{mode}.db", mode)


def prove_databases(folder: Path) -> object:
    found = []
    for mode in ("delete", "wal"):
        db = sqlite3.connect(folder / f"{mode}.db")
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        found.append(db.execute("SELECT count(*), sum(n), count(DISTINCT who) FROM t").fetchone())
        db.close()
    assert found == [(400, 2 * sum(range(200)), 2)] * 2
    return found


def _two_writers(path: Path, mode: str) -> None:
    """Two processes insert at the same time; SQLite's locks have to keep them apart."""
    writer = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)\n"
        "for n in range(200): db.execute('BEGIN IMMEDIATE');"
        " db.execute('INSERT INTO t VALUES (?, ?)', (n, sys.argv[2])); db.execute('COMMIT')"
    )
    db = sqlite3.connect(path, isolation_level=None)
    assert db.execute(f"PRAGMA journal_mode={mode}").fetchone() == (mode,)
    db.execute("CREATE TABLE t (n INTEGER, who TEXT)")
    writers = [subprocess.Popen([sys.executable, "-c", writer, str(path), who]) for who in "ab"]
    assert [process.wait(90) for process in writers] == [0, 0]
    db.close()


def make_archives(folder: Path) -> None:
    source = folder / "source"
    source.mkdir()
    (source / "deep").mkdir()
    for number in range(40):
        (source / "deep" / f"f{number}").write_bytes(os.urandom(1000 * number))
    os.symlink("deep/f1", source / "link")
    os.link(source / "deep/f2", source / "hard")
    sh("tar cf all.tar source; mkdir out; tar xf all.tar -C out", folder)


def prove_archives(folder: Path) -> object:
    sh("diff -r source out/source; test -L out/source/link", folder)
    return sh("sha256sum out/source/deep/* | sort", folder)


def make_sparse(folder: Path) -> None:
    with (folder / "sparse").open("wb") as file:
        file.seek(8 * 1024 * 1024)
        file.write(b"end")
        file.seek(100_000)
        file.write(b"middle")
    sh(
        """
        cp --sparse=always sparse a; cp --sparse=never sparse b
        mkdir tree; cp --sparse=always sparse tree/one; truncate -s 3M tree/hole; echo plain > tree/plain
        ln tree/one tree/hard; fallocate -p -o 4096 -l 40960 tree/one
        tar cSf s.tar tree; tar df s.tar; mkdir o; tar xf s.tar -C o
        """,
        folder,
    )


def prove_sparse(folder: Path) -> object:
    sh("cmp sparse a; cmp sparse b; diff -r tree o/tree; cmp tree/one tree/hard", folder)
    return sh("sha256sum sparse tree/*", folder)


def make_copies(folder: Path) -> None:
    """rsync: in, again with changes, in place, and within."""
    with tempfile.TemporaryDirectory() as beside:
        sh(
            """
            mkdir -p source/d source/e; head -c 900000 /dev/urandom > source/big; truncate -s 2M source/hole
            for n in $(seq 40); do echo "line $n" > source/d/f$n; done
            ln source/d/f1 source/e/hard; ln -s d/f2 source/soft
            chmod 600 source/d/f3; touch -d 2001-02-03 source/d/f4
            """,
            Path(beside),
        )
        rsync = f"rsync -aHS --delete {beside}/source/ copy"
        sh(rsync, folder)
        sh("echo more >> source/big; rm -r source/d/f1*; mv source/e source/g; echo new > source/d/f2", Path(beside))
        sh(f'{rsync}; test -z "$({rsync} -ni --checksum)"', folder)
        sh("echo middle | dd of=source/big conv=notrunc bs=1 seek=500000 status=none", Path(beside))
        # Of one size, and within a second, rsync takes files for the same.
        sh(f"{rsync} --inplace --no-whole-file --ignore-times", folder)
        sh(f'test -z "$({rsync} -ni --checksum)"; rsync -a copy/ second', folder)


def prove_copies(folder: Path) -> object:
    with tempfile.TemporaryDirectory() as beside:  # out
        sh(f"rsync -aH --checksum copy/ {beside}; diff -r --no-dereference copy {beside}; diff -r copy second", folder)
        return sh("find . -printf '%y %m %n %P %l\n' | sort; find . -type f | sort | xargs sha256sum", Path(beside))


def make_environment(folder: Path) -> None:
    """pip, into a virtual environment."""
    with tempfile.TemporaryDirectory() as beside:
        wheel = make_wheel(Path(beside))
        sh(f"'{sys.executable}' -m venv --without-pip env", folder)
        pip = f"'{sys.executable}' -m pip --isolated --disable-pip-version-check --python env/bin/python"
        sh(f"{pip} install -q --no-index --no-deps {wheel}", folder)


def prove_environment(folder: Path) -> object:
    ask = "import sys; from wheelhouse import TOLD, m29; print(TOLD, m29.N, sys.prefix != sys.base_prefix)"
    assert sh(f"env/bin/python -B -c '{ask}'", folder) == "from a wheel 29 True\n"
    return sh("test -x env/bin/wheelhouse; find env -name '*.py' | sort | xargs sha256sum", folder)


def make_editors(folder: Path) -> None:
    (folder / "text").write_text("one\ntwo\nthree\n")
    sh("sed -i s/two/TWO/ text", folder)
    sh("vim -es -u NONE -c '%s/three/THREE/' -c 'wq' text < /dev/null", folder)
    sh("cp text copy; mv copy copy2; mv -f copy2 text", folder)


def prove_editors(folder: Path) -> object:
    assert (folder / "text").read_text() == "one\nTWO\nTHREE\n"
    return sorted(os.listdir(folder))


def make_mapped(folder: Path) -> None:
    path = folder / "mapped"
    path.write_bytes(bytes(3 * 4096))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[4090:4102] = b"across pages"
        view.flush()
        assert path.read_bytes()[4090:4102] == b"across pages"


def prove_mapped(folder: Path) -> object:
    with (folder / "mapped").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return bytes(view[4090:4102]), len(view)


ODD = [
    "a b",
    "new\nline",
    "?versionId=1",
    "[*]",
    "e\u0301",
    "\u00fc" * 127,
    "x" * 255,
    "-rf",
    "~",
    "$(id)",
    "'\"",
]
DEEP = Path(*["d" * 50] * 12)


def make_names(folder: Path) -> None:
    for number, name in enumerate(ODD):
        (folder / name).write_bytes(b"%d" % number)
    (folder / DEEP).mkdir(parents=True)
    (folder / DEEP / "bottom").write_text("deep")


def prove_names(folder: Path) -> object:
    assert sorted(set(os.listdir(folder)) - {DEEP.parts[0]}) == sorted(ODD)
    assert (folder / DEEP / "bottom").read_text() == "deep"
    return [(folder / name).read_bytes() for name in ODD]


def make_links(folder: Path) -> None:
    (folder / "one").write_text("same")
    os.link(folder / "one", folder / "two")
    assert os.stat(folder / "one").st_ino == os.stat(folder / "two").st_ino
    assert os.stat(folder / "two").st_nlink == 2
    (folder / "two").write_text("other")
    assert (folder / "one").read_text() == "other"
    os.symlink("one", folder / "soft")
    os.symlink("nowhere", folder / "dangling")


def prove_links(folder: Path) -> object:
    assert os.readlink(folder / "dangling") == "nowhere"
    return (folder / "one").read_text(), (folder / "two").read_text(), (folder / "soft").read_text()


def make_modes(folder: Path) -> None:
    (folder / "run").write_text("#!/bin/sh\necho ran\n")
    os.chmod(folder / "run", 0o755)
    (folder / "quiet").write_text("x")
    os.chmod(folder / "quiet", 0o600)
    os.utime(folder / "quiet", ns=(1_600_000_000_987_654_321, 1_500_000_000_123_456_789))
    (folder / "empty").mkdir(mode=0o750)


def prove_modes(folder: Path) -> object:
    assert sh("./run", folder) == "ran\n"
    found = os.stat(folder / "quiet")
    assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns) == (0o600, 1_500_000_000_123_456_789)
    return stat.S_IMODE(os.stat(folder / "empty").st_mode)


WORK = [
    Work(make_git, prove_git),
    Work(make_databases, prove_databases),
    Work(make_archives, prove_archives),
    Work(make_sparse, prove_sparse),
    Work(make_copies, prove_copies),
    Work(make_environment, prove_environment),
    Work(make_editors, prove_editors),
    Work(make_mapped, prove_mapped),
    Work(make_names, prove_names),
    Work(make_links, prove_links),
    Work(make_modes, prove_modes),
]


@pytest.mark.parametrize("work", WORK, ids=str)
def test_a_program_finds_its_work_again_here_and_from_the_store_and_on_another_host(make_mounted, work):
    first = make_mounted("first").mount()
    (first.mnt / "s").mkdir()
    work.make(first.mnt / "s")
    expected = work.proof(first.mnt / "s")
    away(first)
    assert work.proof(first.mnt / "s") == expected  # each file comes from the store now
    away(first)
    second = make_mounted("second").mount()
    assert work.proof(second.mnt / "s") == expected
    assert second.run("flush", "s").code == 0
    assert second.run("verify", "s").code == 0
