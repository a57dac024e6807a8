"""The commands of artifacts and of a session's life over made-up verbs: what they print, write, and exit with."""

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, NamedTuple

import pytest

from cachesync.cli import connect as reach
from cachesync.cli import main
from cachesync.cli.arguments import COMMANDS
from cachesync.model.address import Address, Space, parse, parse_whole
from cachesync.model.errors import (
    FileChanging,
    IntegrityError,
    ObjectNotFound,
    StoreDenied,
    StoreSilent,
    StoreUnreachable,
)
from cachesync.model.outcomes import Artifact, CloseReport, EvictReport, OpenReport, VerifyReport
from cachesync.model.reports import FlushReport, StatusReport
from tests.memory_artifacts import BAD, LEFT, MemoryArtifacts, MemoryLifecycle

MIB = 1024 * 1024


class FakeVerbs:
    """Only what these commands ask."""

    def __init__(self) -> None:
        self.artifacts = MemoryArtifacts()
        self.lifecycle = MemoryLifecycle()

    def status(self, session: str | None = None) -> StatusReport:
        return StatusReport("/r", "s3://b", None)


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def verbs() -> FakeVerbs:
    return FakeVerbs()


@pytest.fixture
def artifacts(verbs: FakeVerbs) -> MemoryArtifacts:
    return verbs.artifacts


@pytest.fixture
def connected(verbs: FakeVerbs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    @contextmanager
    def connect(options: argparse.Namespace) -> Iterator[Any]:
        yield verbs

    monkeypatch.setattr(reach, "connect", connect)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(connected: None, capfd: pytest.CaptureFixture[str]) -> Run:
    def command(*words: str) -> Done:
        capfd.readouterr()
        code = main(words)
        return Done(code, *capfd.readouterr())

    return command


# -- a session's life --------------------------------------------------------------------------------------------------


def test_new_prints_the_name_and_nothing_else(run: Run, verbs: FakeVerbs):
    assert run("new") == (0, "session-1\n", "")
    done = run("new", "a", "--project", "p", "--workspace", "w", "--template", "x", "--template", "y/z", "--json")
    assert (done.code, json.loads(done.out)) == (0, {"session": "a"})
    assert verbs.lifecycle.calls == [("new", None, None, None, []), ("new", "a", "p", "w", ["x", "y/z"])]
    assert run("new", "demo").code == 2
    assert run("new", "../x").code == 2


def test_open_says_what_is_here(run: Run, verbs: FakeVerbs, tmp_path: Path):
    opened = "demo: open in /r/demo: 3 files, 30 B, 2 fetched (20 B), 1 here before, 1.50 s\n"
    assert run("open", "demo") == (0, opened, "")
    assert run("open", "demo", "--lazy", "--into", "sub").code == 0
    assert verbs.lifecycle.calls[-1] == ("open", "demo", True, str(tmp_path / "sub"), None)
    assert run("open", "demo", "--timeout", "7").code == 0
    assert ("open", "demo", False, None, 7.0) in verbs.lifecycle.calls
    assert run("open", "demo", "--timeout", "-1").code == 2
    done = run("open", "demo", "--json")
    assert (json.loads(done.out), done.err) == (verbs.lifecycle.opened.json(), "")
    assert run("open", "ghost").code == 3
    assert run("open", "..").code == 2


def test_open_lists_what_is_missing(run: Run, verbs: FakeVerbs):
    verbs.lifecycle.opened = OpenReport("demo", "/r/demo", 1, 5, failed=BAD, pending=LEFT, evicted=2)
    done = run("open", "demo")
    assert done.code == 1
    assert done.out.startswith("demo: NOT complete in /r/demo: 1 file")
    assert "2 only in the store" in done.out
    missing = "  failed   a\\nb: denied\n  pending  c: is being written\n"
    assert done.err == missing + "  go on from there: cachesync open demo\n"
    assert run("open", "demo", "--into", "sub").err == missing
    verbs.lifecycle.opened = OpenReport("demo", "/r/demo", pending=LEFT)
    assert run("open", "demo", "--json").code == 4


def test_open_says_that_the_manifest_is_damaged(run: Run, verbs: FakeVerbs):
    verbs.lifecycle.opened = OpenReport("demo", "/r/demo", 1, 5, flaws=["its end is missing"])
    done = run("open", "demo")
    assert done.code == 0
    assert done.err == (
        "  the manifest in the store is damaged: what it does not tell is as the store lists it\n"
        "  damaged  its end is missing\n"
    )
    assert json.loads(run("open", "demo", "--json").out)["flaws"] == ["its end is missing"]


def test_open_that_is_interrupted_says_how_far_it_was(run: Run, verbs: FakeVerbs):
    verbs.lifecycle.error = KeyboardInterrupt()
    done = run("open", "demo")
    assert done == (130, "", "demo: interrupted, 2 of 3 files here, 20 B; cachesync open demo goes on from there\n")
    assert run("open", "demo", "--into", "sub").err == "demo: interrupted, 2 of 3 files here, 20 B\n"
    verbs.lifecycle.progresses = []
    assert "nothing was brought yet" in run("open", "demo").err


def test_close(run: Run, verbs: FakeVerbs):
    done = run("close", "demo", "--timeout", "7", "--confirm-deletes")
    assert done == (0, "demo: stored, 3 files, 30 B, 0.00 s\ndemo: closed\ndemo: 2 files evicted, 20 B\n", "")
    assert run("close", "demo", "--keep", "--json").code == 0
    assert verbs.lifecycle.calls == [("close", "demo", False, 7.0, True), ("close", "demo", True, 300.0, False)]
    assert run("close", "demo", "--force").code == 0
    assert verbs.lifecycle.calls[-1] == ("close", "demo", False, 300.0, False, "force")
    verbs.lifecycle.closed = CloseReport(FlushReport("demo", stored=False, pending=LEFT), closed=False)
    done = run("close", "demo")
    assert done.code == 4
    assert done.out == "demo: NOT stored, 0 failures, 1 pending (0 uploaded, 0.00 s)\ndemo: NOT closed\n"
    assert done.err.splitlines()[0] == "  pending  c: is being written"
    assert json.loads(run("close", "demo", "--json").out) == verbs.lifecycle.closed.json()


def test_evict(run: Run, verbs: FakeVerbs):
    assert run("evict", "demo") == (0, "demo: 2 files evicted, 20 B\n", "")
    verbs.lifecycle.evicted = EvictReport("demo", 1, 5, kept=LEFT)
    assert run("evict", "demo") == (4, "demo: 1 file evicted, 5 B, 1 kept\n", "  kept     c: is being written\n")
    assert json.loads(run("evict", "demo", "--json", "--force").out) == verbs.lifecycle.evicted.json()
    assert verbs.lifecycle.calls == [("evict", "demo"), ("evict", "demo"), ("evict", "demo", "force")]


def test_verify(run: Run, verbs: FakeVerbs):
    assert run("verify", "demo") == (0, "demo: verified, 3 files, 30 B, 0.50 s\n", "")
    verbs.lifecycle.verified = VerifyReport("demo", 3, 30, differences=BAD, pending=LEFT)
    done = run("verify", "demo")
    assert done.code == 1
    assert done.out == "demo: NOT verified, 1 difference, 1 pending (3 files, 30 B, 0.00 s)\n"
    assert done.err.splitlines() == [
        "  failed   a\\nb: denied",
        "  pending  c: is being written",
        "  to store local files again: cachesync verify --repair demo",
    ]
    assert json.loads(run("verify", "demo", "--json").out) == verbs.lifecycle.verified.json()


# -- ls ----------------------------------------------------------------------------------------------------------------


def fill(artifacts: MemoryArtifacts) -> None:
    artifacts.contents |= {"s1/a/b.txt": b"x" * 1500, "s1/a-c": b"", "s1/z\x1b[2J\n": b"12"}
    artifacts.extra |= {
        "s1/a": {"kind": "dir", "state": "clean", "size": 0},
        "s1/link": {"kind": "link", "state": "dirty", "target": "a/\x1b", "size": 0, "modified": None},
    }


def test_ls_is_one_path_a_line(run: Run, artifacts: MemoryArtifacts):
    fill(artifacts)
    assert run("ls", "-R", "s1") == (0, "a/\na-c\na/b.txt\nlink\nz\\x1b[2J\\n\n", "")
    assert run("ls", "s1") == (0, "a/\na-c\nlink\nz\\x1b[2J\\n\n", "")
    assert run("ls", "s1/a/").out == run("ls", "s1/a").out == "b.txt\n"
    assert run("ls", "s1/a/b.txt").out == "b.txt\n"
    assert artifacts.calls[-1] == ("list", parse("s1/a/b.txt"))
    assert run("ls", "s1/none").code == 3
    assert run("ls", "ghost").code == 3
    assert run("ls", "s1/../x").code == 2


def test_ls_says_once_that_the_store_could_not_be_asked(run: Run, artifacts: MemoryArtifacts):
    found = [Artifact(f"s1/{name}", "file", "evicted", unverified=True) for name in "ab"]
    artifacts.lists = lambda address: iter(found)
    said = "cachesync: the store cannot be asked; this is what was known before\n"
    assert run("ls", "s1") == (0, "a\nb\n", said)
    done = run("ls", "s1", "--json")
    assert ([row["unverified"] for row in json.loads(done.out)], done.err) == ([True, True], said)


def test_ls_without_an_address_asks_for_the_sessions(run: Run, artifacts: MemoryArtifacts):
    artifacts.lists = lambda address: iter([Artifact("s1", "dir", "stored"), Artifact("s2", "dir", "stored")])
    assert run("ls").out == "s1/\ns2/\n"
    assert artifacts.calls == [("list", Address(Space.SESSIONS))]
    assert run("ls", "--tree").out == "s1/\ns2/\n"


def test_ls_long(run: Run, artifacts: MemoryArtifacts):
    fill(artifacts)
    assert run("ls", "-l", "-R", "s1").out.splitlines() == [
        "        -  2026-11-24T13:24:16Z  clean    a/",
        "      0 B  2026-11-24T13:24:16Z  stored   a-c",
        "   1.5 kB  2026-11-24T13:24:16Z  stored   a/b.txt",
        "      0 B  -                     dirty    link -> a/\\x1b",
        "      2 B  2026-11-24T13:24:16Z  stored   z\\x1b[2J\\n",
    ]
    artifacts.lists = lambda address: iter(
        [Artifact("s1", "dir", "stored", 1500, 1_795_526_656.0, files=2), Artifact("s2", "dir", "stored")]
    )
    assert run("ls", "-l").out.splitlines() == [
        "   1.5 kB  2026-11-24T13:24:16Z  stored   s1/  2 files",
        "        -  -                     stored   s2/",
    ]
    artifacts.lists = None
    artifacts.extra["s1/a-c"] = {"modified": 1e300}
    assert "  -  " in run("ls", "-l", "s1/a-c").out


def test_ls_tree_shows_each_directory_once(run: Run, artifacts: MemoryArtifacts):
    fill(artifacts)
    assert run("ls", "--tree", "s1").out == "a/\n  b.txt\na-c\nlink\nz\\x1b[2J\\n\n"


def test_ls_json_is_a_list_or_an_error_and_never_half_a_list(run: Run, artifacts: MemoryArtifacts):
    fill(artifacts)
    told = json.loads(run("ls", "-R", "s1", "--json").out)
    assert told == [artifact.json() for artifact in artifacts.list(parse_whole("s1"))]

    def broken(address: Address) -> Iterator[Artifact]:
        yield Artifact("s1/a", "file", "stored")
        raise StoreUnreachable("list", "s1", "refused")

    artifacts.lists = broken
    done = run("ls", "s1", "--json")
    assert (done.code, json.loads(done.out)["error"]["kind"]) == (4, "StoreUnreachable")
    done = run("ls", "s1")
    assert (done.code, done.out) == (4, "a\n")


# -- cat, url, history, restore, rm ------------------------------------------------------------------------------------


def test_cat_writes_the_bytes_as_they_are(connected: None, capfdbinary: Any, artifacts: MemoryArtifacts):
    body = bytes(range(256)) * 10
    artifacts.contents["s1/a"] = body
    assert main(["cat", "s1/a"]) == 0
    assert capfdbinary.readouterr() == (body, b"")


def test_cat_warns_and_describes(run: Run, artifacts: MemoryArtifacts):
    artifacts.contents["s1/a"] = b"text"
    artifacts.unverified = True
    done = run("cat", "s1/a", "--version-id", "v1")
    assert (done.code, done.out) == (0, "text")
    assert "cannot be asked" in done.err
    assert artifacts.calls[-1] == ("read", parse("s1/a"), "v1")
    done = run("cat", "s1/a", "--json")
    assert json.loads(done.out) == artifacts.describe("s1/a").json() | {"source": "store", "unverified": True}
    assert run("cat", "s1/none").code == 3
    assert run("cat", "s1/").code == 2


def test_cat_of_damaged_bytes_fails(run: Run, artifacts: MemoryArtifacts):
    def pieces(start: int) -> Iterator[bytes]:
        yield b"some"
        raise IntegrityError("read", "s1/a", "damaged")

    artifacts.pieces["s1/a"] = (10, pieces)
    done = run("cat", "s1/a")
    assert (done.code, done.out) == (1, "some")
    assert "damaged" in done.err


def test_url(run: Run, artifacts: MemoryArtifacts):
    assert run("url", "s1/a") == (0, "https://bucket/s1/a?X-Amz-Expires=3600\n", "")
    assert json.loads(run("url", "s1/a", "--expires", "60", "--json").out) == {
        "url": "https://bucket/s1/a?X-Amz-Expires=60"
    }
    assert run("url", "s1/a", "--expires", "604801").code == run("url", "s1/a", "--expires", "0.5").code == 2
    assert run("url", "s1/a", "--expires", "nan").code == 2


def test_history_and_restore(run: Run, artifacts: MemoryArtifacts):
    artifacts.contents["s1/a"] = b"text"
    assert run("history", "s1/a").out.splitlines() == [
        "2026-11-24T13:25:00Z    deleted  v2  latest",
        "2026-11-24T13:24:16Z     1.5 kB  v1",
    ]
    told = json.loads(run("history", "s1/a", "--json").out)
    assert [one["version_id"] for one in told] == ["v2", "v1"]
    assert run("restore", "s1/a", "--version-id", "v1") == (0, "s1/a: restored, 4 B\n", "")
    assert artifacts.calls[-1] == ("restore", parse("s1/a"), "v1")
    assert json.loads(run("restore", "s1/a", "--json").out) == artifacts.describe("s1/a").json()


def test_rm(run: Run, artifacts: MemoryArtifacts):
    artifacts.contents |= {"s1/a": b"", "s1/b": b"", "s1/c": b""}
    assert run("rm", "s1/a") == (0, "removed s1/a\n", "")
    assert run("rm", "s1/a").code == 3
    done = run("rm", "s1/b", "s1/none", "s1/c")
    assert done == (3, "removed s1/b\nremoved s1/c\n", "  failed   s1/none: there is none\n")
    assert json.loads(run("rm", "s1/x", "s1/y", "--json").out)["failed"][0]["path"] == "s1/x"
    assert run("rm", "s1/a", "s1/").code == 2
    assert run("rm", "s1").code == 2


def test_an_rm_that_is_interrupted_says_what_may_still_happen(
    run: Run, artifacts: MemoryArtifacts, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(address: Address) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(artifacts, "remove", interrupted)
    done = run("rm", "s1/a")
    assert (done.code, done.out) == (130, "")
    assert "s1/a may be removed, or be removed later" in done.err


# -- get ---------------------------------------------------------------------------------------------------------------


def test_get_a_file(run: Run, artifacts: MemoryArtifacts, tmp_path: Path):
    artifacts.contents["s1/a/b.txt"] = b"hello"
    assert run("get", "s1/a/b.txt") == (0, "b.txt: 1 file, 5 B\n", "")
    assert (tmp_path / "b.txt").read_bytes() == b"hello"
    (tmp_path / "dir").mkdir()
    assert run("get", "s1/a/b.txt", "dir").out == "dir/b.txt: 1 file, 5 B\n"
    assert run("get", "s1/a/b.txt", "dir/other", "--version-id", "v1").code == 0
    assert (tmp_path / "dir/other").read_bytes() == b"hello"
    told = json.loads(run("get", "s1/a/b.txt", "x", "--json").out)
    assert told == {"target": "x", "files": 1, "bytes": 5, "failed": []}
    assert sorted(os.listdir(tmp_path)) == ["b.txt", "dir", "x"]
    assert run("get", "s1/a/b.txt", "no/such/folder").code == 1
    assert run("get", "s1/none").code == 3


def test_get_overwrites_only_when_told_to(run: Run, artifacts: MemoryArtifacts, tmp_path: Path):
    artifacts.contents["s1/a"] = b"new"
    (tmp_path / "a").write_bytes(b"mine")
    done = run("get", "s1/a")
    assert done.code == 2
    assert "--force" in done.err
    assert (tmp_path / "a").read_bytes() == b"mine"
    assert run("get", "s1/a", "--force").code == 0
    assert (tmp_path / "a").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


def test_get_through_a_link_replaces_the_link(run: Run, artifacts: MemoryArtifacts, tmp_path: Path):
    artifacts.contents["s1/a"] = b"new"
    (tmp_path / "precious").write_bytes(b"mine")
    (tmp_path / "a").symlink_to("precious")
    assert run("get", "s1/a").code == 2
    assert run("get", "s1/a", "--force").code == 0
    assert (tmp_path / "precious").read_bytes() == b"mine"
    assert not (tmp_path / "a").is_symlink()


def test_get_of_a_folder_waits_for_a_silent_store_once(run: Run, artifacts: MemoryArtifacts, tmp_path: Path):
    asked: list[int] = []

    def silent(start: int) -> Iterator[bytes]:
        asked.append(start)
        raise StoreSilent("read", "s1/a", "no answer within 30 s")

    artifacts.pieces = {"s1/a": (3, silent), "s1/b": (3, silent), "s1/c": (3, lambda start: iter([b"abc"]))}
    artifacts.lists = lambda address: iter(
        [Artifact(f"s1/{name}", "file", "clean" if name == "c" else "evicted", 3) for name in "abc"]
    )
    done = run("get", "s1", "out")
    assert (done.code, len(asked)) == (4, 1)
    assert done.err.count("no answer within 30 s") == 2
    assert (tmp_path / "out" / "c").read_bytes() == b"abc"


def test_get_that_fails_leaves_nothing(run: Run, artifacts: MemoryArtifacts, tmp_path: Path):
    def pieces(start: int) -> Iterator[bytes]:
        yield b"half"
        raise IntegrityError("read", "s1/a", "damaged")

    artifacts.pieces["s1/a"] = (10, pieces)
    assert run("get", "s1/a").code == 1
    (tmp_path / "a").write_bytes(b"mine")
    assert run("get", "s1/a", "--force").code == 1
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"mine"


def test_get_a_tree(run: Run, artifacts: MemoryArtifacts, tmp_path: Path):
    artifacts.contents |= {"s1/d/x/1": b"one", "s1/d/x-y": b"two", "s1/other": b""}
    artifacts.extra |= {
        "s1/d": {"kind": "dir", "size": 0},
        "s1/d/empty": {"kind": "dir", "size": 0},
        "s1/d/link": {"kind": "link", "target": "x/1", "size": 0},
    }
    real = artifacts.read

    def read(address: Address, *, version_id: str | None = None) -> Any:
        if str(address) == "s1/d":
            raise ObjectNotFound("read", "s1/d", "it is a folder")
        return real(address, version_id=version_id)

    artifacts.read = read  # type: ignore[method-assign]
    assert run("get", "s1/d") == (0, "d: 2 files, 6 B\n", "")
    assert (tmp_path / "d/x/1").read_bytes() == b"one"
    assert (tmp_path / "d/x-y").read_bytes() == b"two"
    assert (tmp_path / "d/empty").is_dir()
    assert os.readlink(tmp_path / "d/link") == "x/1"
    assert run("get", "s1/d/", "copy").code == 0
    assert sorted(os.listdir(tmp_path / "copy")) == ["empty", "link", "x", "x-y"]
    done = run("get", "s1/d", "--json")
    assert done.code == 2
    assert {row["path"] for row in json.loads(done.out)["failed"]} == {"x/1", "x-y", "link"}
    assert run("get", "s1/d", "--force").code == 0
    assert run("get", "s1", "--version-id", "v").code == 2
    assert run("get", "").code == 2


@pytest.mark.parametrize("name", ["s1/../../evil", "s1//evil", "s1/a/../../../evil", "/evil", "s1/./evil", "s1/a\0b"])
def test_get_of_hostile_names_stays_in_its_directory(run: Run, artifacts: MemoryArtifacts, tmp_path: Path, name: str):
    (tmp_path / "in").mkdir()
    artifacts.contents |= {"s1/good": b"x", name: b"evil"}
    artifacts.lists = lambda address: iter([Artifact(name, "file", "stored"), artifacts.describe("s1/good")])
    before = sorted(os.listdir(tmp_path.parent))
    done = run("get", "s1", "in/target")
    assert done.code != 0
    assert sorted(os.listdir(tmp_path.parent)) == before
    assert os.listdir(tmp_path) == ["in"]
    assert os.listdir(tmp_path / "in") == ["target"]
    assert (tmp_path / "in/target/good").read_bytes() == b"x"


def test_get_writes_through_no_link(run: Run, artifacts: MemoryArtifacts, tmp_path: Path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "target/d").symlink_to(tmp_path / "outside")
    artifacts.contents |= {"s1/d/file": b"x", "s1/e/file": b"x"}
    artifacts.extra["s1/e"] = {"kind": "link", "target": str(tmp_path / "outside"), "size": 0}
    done = run("get", "s1", "target", "--force")
    assert done.code == 1
    assert "failed   d/file" in done.err
    assert os.listdir(tmp_path / "outside") == []


# -- put ---------------------------------------------------------------------------------------------------------------


def test_put_a_file(run: Run, artifacts: MemoryArtifacts, tmp_path: Path):
    (tmp_path / "d.yaml").write_bytes(b"hello")
    words = ("--type", "dashboard", "--meta", "Version=2", "--meta", "note=a=b", "--content-type", "text/x")
    assert run("put", "d.yaml", "s1/x.yaml", *words) == (0, "s1/x.yaml: stored, 5 B\n", "")
    metadata = {"artifacttype": "dashboard", "version": "2", "note": "a=b"}
    assert artifacts.calls == [("put", parse("s1/x.yaml"), "text/x", metadata)]
    assert artifacts.contents == {"s1/x.yaml": b"hello"}
    told = json.loads(run("put", "d.yaml", "projects/p/", "--json").out)
    assert told == {"stored": [artifacts.describe("projects/p/d.yaml").json()], "failed": []}
    assert run("put", "d.yaml", "s1/a/b/").code == 0
    assert "s1/a/b/d.yaml" in artifacts.contents


def test_put_of_what_is_there_already(run: Run, artifacts: MemoryArtifacts, tmp_path: Path):
    (tmp_path / "f").write_bytes(b"x")
    artifacts.contents["s1/a"] = b"before"
    done = run("put", "f", "s1/a", "--no-overwrite")
    assert (done.code, artifacts.contents["s1/a"]) == (1, b"before")
    assert done.err.startswith("cachesync: put 's1/a': it is there already")
    assert run("put", "f", "s1/b", "--no-overwrite").code == run("put", "f", "s1/a").code == 0


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("f", "s1"), 2),
        (("f", "s1/../x"), 2),
        (("f", "s1/a", "--meta", "novalue"), 2),
        (("f", "s1/a", "--meta", "=x"), 2),
        (("-", "s1/"), 2),
        (("none", "s1/a"), 2),
    ],
)
def test_what_put_refuses(run: Run, artifacts: MemoryArtifacts, tmp_path: Path, words: tuple[str, ...], code: int):
    (tmp_path / "f").write_bytes(b"x")
    done = run("put", *words)
    assert (done.code, done.out) == (code, "")
    assert artifacts.contents == {}


def test_put_stdin(run: Run, artifacts: MemoryArtifacts, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"piped\n")))
    assert run("put", "-", "templates/t.md").code == 0
    assert artifacts.contents == {"templates/t.md": b"piped\n"}


def test_put_of_a_file_that_changes_stores_nothing(run: Run, artifacts: MemoryArtifacts, tmp_path: Path):
    file = tmp_path / "f"
    file.write_bytes(b"x" * 2 * MIB)

    def store(source: BinaryIO) -> bytes:
        first = source.read(MIB)
        file.write_bytes(b"y" * 2 * MIB + b"y")
        return first + source.read()

    artifacts.store_put = store
    done = run("put", "f", "s1/f")
    assert done.code == FileChanging.exit_code
    assert "changed" in done.err
    assert artifacts.contents == {}


def test_put_a_tree(run: Run, artifacts: MemoryArtifacts, tmp_path: Path):
    top = tmp_path / "dir"
    (top / "a" / "empty").mkdir(parents=True)
    (top / "a" / "1").write_bytes(b"one")
    (top / "2").write_bytes(b"two")
    assert run("put", "dir", "s1/x") == (0, "stored 2 files, 6 B\n", "")
    assert artifacts.contents == {"s1/x/a/1": b"one", "s1/x/2": b"two"}
    artifacts.contents.clear()
    assert run("put", "dir/", "s1/").code == 0
    assert sorted(artifacts.contents) == ["s1/dir/2", "s1/dir/a/1"]
    artifacts.contents.clear()
    assert run("put", "dir", "s1").code == 0
    assert sorted(artifacts.contents) == ["s1/2", "s1/a/1"]


def test_put_of_a_tree_says_what_it_cannot_store(run: Run, artifacts: MemoryArtifacts, tmp_path: Path):
    top = tmp_path / "dir"
    top.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret")
    (top / "file").write_bytes(b"x")
    (top / "link").symlink_to("file")
    (top / "folder-link").symlink_to(tmp_path / "outside")
    os.mkfifo(top / "pipe")
    done = run("put", "dir", "s1/x/", "--json")
    assert done.code == 1
    told = json.loads(done.out)
    assert [row["address"] for row in told["stored"]] == ["s1/x/dir/file"]
    assert {row["path"] for row in told["failed"]} == {"link", "folder-link", "pipe"}
    done = run("put", "dir", "s1/x/")
    assert done.out == "stored 1 file, 1 B; 3 failures\n"
    assert len(done.err.splitlines()) == 3


def test_put_of_a_tree_goes_on_after_a_failure(run: Run, artifacts: MemoryArtifacts, tmp_path: Path):
    for name in ("a", "b", "c"):
        (tmp_path / "dir").mkdir(exist_ok=True)
        (tmp_path / "dir" / name).write_text(name)

    def store(source: BinaryIO) -> bytes:
        body = source.read()
        if body == b"b":
            raise StoreDenied("put", "b", "no")
        return body

    artifacts.store_put = store
    done = run("put", "dir", "s1")
    assert done.code == 1
    assert done.err.startswith("  failed   b: no")
    assert sorted(artifacts.contents) == ["s1/a", "s1/c"]


# -- who answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_who_only_looks_does_no_work(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    @contextmanager
    def open_service(config: Any, *, work: bool, create_root: bool) -> Iterator[Any]:
        asked.append((work, create_root))
        yield object()

    monkeypatch.setitem(sys.modules, "cachesync.daemon.process", SimpleNamespace(open_service=open_service))
    with reach.connect(argparse.Namespace(setting_root=str(tmp_path), command=command)):
        pass
    looking = {"status", "explain", "ls", "cat", "get", "url", "history", "verify"}
    assert asked == [(command not in looking, command in {"new", "open"})]


def test_every_command_that_answers_has_json(run: Run):
    for name in COMMANDS:
        done = run(name, "--help")
        assert done.code == 0
        assert name in ("run", "mount", "mcp", "completion") or "--json" in done.out, name


def test_evicted_counts_are_told_with_their_unit(run: Run, verbs: FakeVerbs):
    verbs.lifecycle.evicted = replace(verbs.lifecycle.evicted, evicted=1, bytes=0)
    assert run("evict", "demo").out == "demo: 1 file evicted, 0 B\n"
