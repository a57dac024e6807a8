"""The fsspec file system: fsspec's own suite, what that leaves out, and the programs that it is for."""

import contextlib
import errno
import gc
import json
import os
import pickle
import queue
import threading

import duckdb
import fsspec
import pandas as pd
import pyarrow.dataset
import pyarrow.parquet
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.tests.abstract import (
    AbstractCopyTests,
    AbstractFixtures,
    AbstractGetTests,
    AbstractOpenTests,
    AbstractPipeTests,
    AbstractPutTests,
)

from cachesync.config import load
from cachesync.daemon.process import open_service
from cachesync.model.errors import IntegrityError, ObjectNotFound, PreconditionFailed, StoreUnreachable, UsageError
from cachesync.programs.fsspec_fs import CacheSyncFileSystem
from cachesync.read.cache.blocks import BLOCK
from cachesync.sync import manifest
from tests.promises.host import Host
from tests.servers import closed_port


@pytest.fixture
def options(tmp_path):
    return {"root": str(tmp_path / "root"), "store": f"file://{tmp_path}/store"}


@pytest.fixture
def on_s3(monkeypatch, seaweed, bucket, tmp_path):
    """Options for a bucket of a real server."""
    seaweed.make_bucket(bucket)
    monkeypatch.setenv("S3_ENDPOINT", seaweed.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return {"root": str(tmp_path / "root"), "store": f"s3://{bucket}/team"}


@pytest.fixture
def fs(options):
    return CacheSyncFileSystem(**options)


@pytest.fixture
def unreachable(monkeypatch, options):
    """A file system whose store nobody answers for."""
    monkeypatch.setenv("S3_ENDPOINT", closed_port())
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return CacheSyncFileSystem(**(options | {"store": "s3://bucket"}))


class Fixtures(AbstractFixtures):
    """As in every object store there are no empty directories; the suite then puts a file into them."""

    @pytest.fixture
    def fs(self, options):
        return CacheSyncFileSystem(**options)

    @pytest.fixture
    def fs_path(self):
        return "s1/work"

    @pytest.fixture
    def supports_empty_directories(self):
        return False


class TestCopy(AbstractCopyTests, Fixtures):
    pass


class TestGet(AbstractGetTests, Fixtures):
    pass


class TestPut(AbstractPutTests, Fixtures):
    pass


class TestOpen(AbstractOpenTests, Fixtures):
    pass


class TestPipe(AbstractPipeTests, Fixtures):
    pass


# -- looking -----------------------------------------------------------------------------------------------------------

TREE = ("s1/a.txt", "s1/b.csv", "s1/d/a.txt", "s1/d/e/f.csv", "s1/d/e/g.txt", "s1/d.txt", "s2/a.txt")


def filled(fs):
    for name in TREE:
        fs.pipe_file(name, name.encode())
    return fs


def test_it_lists_as_a_tree_in_memory_does(fs):
    filled(fs)
    memory = MemoryFileSystem(skip_instance_cache=True)
    memory.store, memory.pseudo_dirs = {}, [""]  # they are the class's
    for name in TREE:
        memory.pipe_file(f"/{name}", name.encode())

    def plain(names):
        return sorted(name.lstrip("/") for name in names)

    for path in ("", "s1", "s1/d", "s1/d/e", "s1/a.txt"):
        assert plain(fs.ls(path, detail=False)) == plain(memory.ls(f"/{path}", detail=False)), path
        for depth in (None, 1, 2):
            for directories in (False, True):
                mine = fs.find(path, maxdepth=depth, withdirs=directories)
                theirs = memory.find(f"/{path}", maxdepth=depth, withdirs=directories)
                assert plain(mine) == [name for name in plain(theirs) if name], (path, depth, directories)
    for pattern in ("*", "*/*.txt", "s1/*", "s1/**", "s1/**/*.csv", "s[12]/a.txt", "s1/d/", "s1/?.txt", "x*"):
        assert plain(fs.glob(pattern)) == plain(memory.glob(f"/{pattern}")), pattern
    mine = [(path, sorted(dirs), sorted(files)) for path, dirs, files in fs.walk("s1")]
    theirs = [(path.lstrip("/"), sorted(dirs), sorted(files)) for path, dirs, files in memory.walk("/s1")]
    assert sorted(mine) == sorted(theirs)


def test_sessions_projects_and_templates_are_the_top(fs):
    fs.pipe_file("s1/a.txt", b"1")
    assert fs.ls("", detail=False) == ["s1"]
    fs.pipe_file("projects/p1/foundation.md", b"2")
    fs.pipe_file("cachesync://templates/dashboard.yaml", b"3")
    assert fs.ls("cachesync://", detail=False) == ["projects", "s1", "templates"]
    assert fs.find("") == ["projects/p1/foundation.md", "s1/a.txt", "templates/dashboard.yaml"]
    assert fs.ls("projects", detail=False) == ["projects/p1"]
    assert fs.cat("cachesync://projects/p1/foundation.md") == b"2"


def test_what_is_there_and_what_is_not(fs):
    filled(fs)
    assert fs.info("s1/d") == {"name": "s1/d", "size": 0, "type": "directory"}
    assert (fs.isdir("s1/d"), fs.isfile("s1/d"), fs.isfile("s1/d.txt"), fs.isdir("s1/d.tx")) == (
        True,
        False,
        True,
        False,
    )
    assert not fs.exists("s1/nothing")
    assert not fs.exists("s9")
    assert not fs.exists("s1/../s2/a.txt")
    fs.mkdir("s1/empty")
    fs.makedirs("s1/empty/too", exist_ok=True)
    assert not fs.exists("s1/empty")
    for path in ("s1/nothing", "s9", "s9/x"):
        for look in (fs.info, fs.ls, fs.cat_file, fs.rm_file, fs.open):
            names_a_session = path == "s9" and look not in (fs.info, fs.ls)
            with pytest.raises(IsADirectoryError if names_a_session else FileNotFoundError):
                look(path)
    with pytest.raises(FileNotFoundError) as caught:
        fs.cat_file("s1/nothing")
    assert isinstance(caught.value.__cause__, ObjectNotFound)
    assert caught.value.filename == "s1/nothing"


def test_a_listing_is_never_stale(options):
    one, two = CacheSyncFileSystem(**options), CacheSyncFileSystem(**options)
    one.pipe_file("s1/a", b"1")
    assert two.ls("s1", detail=False) == ["s1/a"]
    one.pipe_file("s1/b", b"2")
    one.rm("s1/a")
    assert two.ls("s1", detail=False) == ["s1/b"]
    assert not two.exists("s1/a")


def test_another_content_is_another_key(fs):
    fs.pipe_file("s1/a", b"one")
    before = fs.ukey("s1/a"), fs.checksum("s1/a")
    assert (fs.ukey("s1/a"), fs.checksum("s1/a")) == before
    fs.pipe_file("s1/a", b"two")
    assert fs.ukey("s1/a") != before[0]
    assert fs.checksum("s1/a") != before[1]
    assert fs.modified("s1/a").tzinfo is not None
    assert fs.created("s1/a") == fs.modified("s1/a")


# -- contents ----------------------------------------------------------------------------------------------------------


def test_ranges_and_lines(fs):
    data = bytes(range(256)) * 40
    fs.pipe_file("s1/a", data)
    for start, end in ((0, 10), (5, None), (None, -5), (-7, None), (-7, -2), (10, 5), (10_000, 99_999), (99_999, None)):
        assert fs.cat_file("s1/a", start, end) == data[start:end]
    assert fs.cat_ranges(["s1/a", "s1/a"], [0, 100], [3, 105]) == [data[:3], data[100:105]]
    assert isinstance(fs.cat_ranges(["s1/none"], 0, 1)[0], FileNotFoundError)
    with fs.open("s1/a", block_size=100) as file:
        file.seek(-10, 2)
        assert file.read() == data[-10:]
        file.seek(300)
        assert file.read(500) == data[300:800]
    fs.pipe_file("s1/lines", "eins\nzwei äöü\n".encode())
    with fs.open("s1/lines", "r", encoding="utf-8", block_size=4) as file:
        assert list(file) == ["eins\n", "zwei äöü\n"]


@pytest.mark.parametrize("kind", ["options", "on_s3"])
def test_a_file_that_is_replaced_while_it_is_read_is_an_error(kind, request):
    fs = CacheSyncFileSystem(**request.getfixturevalue(kind))
    size = BLOCK + 3000  # one block is in memory from when it was opened
    fs.pipe_file("s1/a", b"A" * size)
    with fs.open("s1/a", block_size=1000, cache_type="none") as file:
        assert file.read(1000) == b"A" * 1000
        fs.pipe_file("s1/a", b"B" * size)
        with pytest.raises(OSError, match="another") as caught:
            file.read()
    assert caught.value.errno == errno.ESTALE
    assert isinstance(caught.value.__cause__, PreconditionFailed)
    assert fs.cat_file("s1/a") == b"B" * size


def test_append_exclusive_and_empty(fs):
    with fs.open("s1/log", "ab") as file:
        file.write(b"1\n")
    with fs.open("s1/log", "ab") as file:
        assert file.tell() == 2
        file.write(b"2\n")
    assert fs.cat_file("s1/log") == b"1\n2\n"
    with fs.open("s1/new", "x") as file:
        file.write("text")
    assert fs.cat_file("s1/new") == b"text"
    fs.touch("s1/empty")
    assert fs.cat_file("s1/empty") == b""
    with pytest.raises(ValueError, match="r\\+b"):
        fs.open("s1/log", "r+b")


@pytest.mark.parametrize("mode", ["xb", "ab"])
def test_a_writer_that_came_between_keeps_its_bytes(fs, mode):
    if mode == "ab":
        fs.pipe_file("s1/a", b"before")
    file = fs.open("s1/a", mode)
    file.write(b"mine")
    fs.pipe_file("s1/a", b"theirs")
    with pytest.raises(OSError, match="there already" if mode == "xb" else "replaced"):
        file.close()
    assert file.closed
    assert fs.cat_file("s1/a") == b"theirs"


def test_one_of_many_makes_a_file(on_s3):
    fs = CacheSyncFileSystem(**on_s3)
    files = [fs.open("s1/a", "xb") for _ in range(4)]
    made = []

    def close(number, file):
        file.write(b"%d" % number)
        with contextlib.suppress(FileExistsError):
            file.close()
            made.append(number)

    threads = [threading.Thread(target=close, args=each) for each in enumerate(files)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(made) == 1
    assert fs.cat_file("s1/a") == b"%d" % made[0]


def test_a_transaction_stores_all_at_its_end_or_nothing(fs):
    def fail():
        with fs.transaction:
            fs.pipe_file("s1/a", b"1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not fs.exists("s1/a")
    with fs.transaction:
        fs.pipe_file("s1/a", b"1")
        assert not fs.exists("s1/a")
    assert fs.cat_file("s1/a") == b"1"


def test_a_transaction_writes_the_manifest_once(fs, tmp_path, monkeypatch):
    root = tmp_path / "root"
    (root / "s1").mkdir(parents=True)
    (root / "s1/a").write_bytes(b"1")
    with open_service(load(fs._settings, {}, tmp_path)) as verbs:
        assert verbs.flush("s1", timeout=20).stored
    amended = []
    amend = manifest.amend

    def counted(*args):
        amended.append(args)
        return amend(*args)

    monkeypatch.setattr(manifest, "amend", counted)
    with fs.transaction:
        for name in "bcd":
            fs.pipe_file(f"s1/{name}", b"1")
    assert len(amended) == 1
    fs.rm("s1", recursive=True)
    assert len(amended) == 2
    entries = json.loads((tmp_path / "store/sessions/s1/.cachesync/manifest.json").read_text())["entries"]
    assert entries == []


def test_names_that_are_patterns_are_names_where_one_file_is_meant(fs, tmp_path):
    names = ["s1/a?versionId=1", "s1/we[i]rd", "s1/st*r", "s1/new\nline", "s1/e\u0301"]
    for name in names:
        fs.pipe_file(name, name.encode())
    assert sorted(fs.find("s1")) == sorted(names)
    for name in names:
        assert fs.cat_file(name) == name.encode()
        fs.get_file(name, str(tmp_path / "copy"))
        assert (tmp_path / "copy").read_bytes() == name.encode()
    fs.rm_file("s1/st*r")
    assert len(fs.find("s1")) == len(names) - 1


def test_a_download_that_fails_leaves_what_was_there(fs, tmp_path, monkeypatch):
    fs.pipe_file("s1/a", b"new" * 100)
    target = tmp_path / "target"
    target.write_bytes(b"old")
    reading = fs.reading("s1/a")

    def broken(*_range):
        yield b"new"
        raise IntegrityError("read", "s1/a", "its SHA-256 is another")

    monkeypatch.setattr(fs, "reading", lambda *_: reading)
    monkeypatch.setattr(type(reading), "chunks", broken)
    with pytest.raises(OSError, match="SHA-256") as caught:
        fs.get_file("s1/a", str(target))
    assert isinstance(caught.value.__cause__, IntegrityError)
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


def test_a_directory_is_removed_only_if_all_of_it_is_meant(fs):
    filled(fs)
    with pytest.raises(IsADirectoryError):
        fs.rm("s1/d")
    fs.rm("s1/d", recursive=True)
    assert fs.find("s1") == ["s1/a.txt", "s1/b.csv", "s1/d.txt"]
    fs.mv("s1/a.txt", "s2/moved.txt")
    assert fs.find("s2") == ["s2/a.txt", "s2/moved.txt"]
    assert not fs.exists("s1/a.txt")


# -- errors and processes ----------------------------------------------------------------------------------------------


def test_a_store_that_cannot_be_asked_is_never_an_absence(unreachable, tmp_path):
    fs = unreachable
    asked = {
        "info": lambda: fs.info("s1/a"),
        "ls": lambda: fs.ls("s1"),
        "root": lambda: fs.ls(""),
        "exists": lambda: fs.exists("s1/a"),
        "isfile": lambda: fs.isfile("s1/a"),
        "isdir": lambda: fs.isdir("s1"),
        "find": lambda: fs.find("s1"),
        "glob": lambda: fs.glob("s1/*"),
        "walk": lambda: list(fs.walk("s1")),
        "open": lambda: fs.open("s1/a"),
        "write": lambda: fs.pipe_file("s1/a", b"1"),
        "rm": lambda: fs.rm_file("s1/a"),
        "get": lambda: fs.get("s1/a", str(tmp_path / "a")),
    }
    for name, ask in asked.items():
        with pytest.raises(OSError, match=r"(?i)connect to") as caught:
            ask()
        assert caught.value.errno == errno.EIO, name
        assert isinstance(caught.value.__cause__, StoreUnreachable), name


@pytest.mark.parametrize("path", ["s1/../s2/a", "../etc/passwd", "s1//a", "s1/./a", "-x/a", "s1/a\0b"])
def test_a_path_that_could_lead_outside_is_refused(fs, path):
    for do in (fs.cat_file, fs.rm_file, fs.info, lambda path: fs.pipe_file(path, b"x")):
        with pytest.raises(OSError, match=r"allowed|no '..'") as caught:
            do(path)
        assert caught.value.errno == errno.EINVAL
        assert isinstance(caught.value.__cause__, UsageError)


def test_it_travels_to_other_processes(on_s3):
    fs = CacheSyncFileSystem(**on_s3)
    fs.pipe_file("s1/a", b"over there")
    assert pickle.loads(pickle.dumps(fs)).cat_file("s1/a") == b"over there"
    with fs.open("s1/a") as file:
        file.read(5)
        assert pickle.loads(pickle.dumps(file)).read() == b"there"
        sent = pickle.dumps(file)
        fs.pipe_file("s1/a", b"another one")
        with pytest.raises(OSError, match="replaced"):
            pickle.loads(sent)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if fs.cat_file("s1/a") == b"another one" else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert fs.cat_file("s1/a") == b"another one"


def test_it_lets_its_store_go_in_a_thread_of_its_own(options, monkeypatch):
    fs = CacheSyncFileSystem(**options)
    fs.pipe_file("s1/a", b"1")
    closed: queue.Queue[threading.Thread] = queue.Queue()
    assert fs._own is not None
    monkeypatch.setattr(fs._own[1], "close", lambda: closed.put(threading.current_thread()))
    del fs
    gc.collect()
    assert closed.get(timeout=10) is not threading.current_thread()


def test_the_environment_counts_when_it_is_made(monkeypatch, options, tmp_path):
    CacheSyncFileSystem(**options).pipe_file("s1/a", b"one")
    monkeypatch.setenv("CACHESYNC_STORE", f"file://{tmp_path}/other")
    other = CacheSyncFileSystem(root=options["root"])
    assert not other.exists("s1/a")
    monkeypatch.setenv("CACHESYNC_STORE", options["store"])
    assert CacheSyncFileSystem(root=options["root"]).exists("s1/a")


def test_beside_a_daemon_it_sees_what_is_not_stored_yet(tmp_path, seaweed, bucket, on_s3):
    host = Host(folder=tmp_path / "host", server=seaweed, bucket=bucket, prefix="team")
    with contextlib.closing(host):
        host.start(settle="30s", max_dirty_age="60s")
        options = on_s3 | {"root": str(host.root)}
        fs = CacheSyncFileSystem(**options)
        fs.pipe_file("s2/a", b"in the store")
        host.write("work/big", bytes(range(256)) * 40_000)
        assert fs.ls("s1", detail=False) == ["s1/work"]
        assert fs.info("s1/work/big")["state"] == "dirty"
        assert fs.cat_file("s1/work/big", -3) == b"\xfd\xfe\xff"
        assert fs.cat_file("s1/work/big") == bytes(range(256)) * 40_000
        assert fs.find("") == ["s1/work/big", "s2/a"]
        host.path("work/link").symlink_to("/etc/passwd")
        host.path("work/void").mkdir()
        assert fs.ls("s1/work", detail=False) == ["s1/work/big", "s1/work/link"]
        link = fs.info("s1/work/link")
        assert (link["type"], link["destination"], fs.isfile("s1/work/link")) == ("link", "/etc/passwd", False)
        with pytest.raises(OSError, match="link"):
            fs.cat_file("s1/work/link")
        before = fs.ukey("s1/work/big")
        with fs.open("s1/work/big", block_size=1000, cache_type="none") as file:
            file.read(1000)
            host.write("work/big", b"B" * 256 * 40_000)
            with pytest.raises(OSError, match="s1/work/big") as caught:
                file.read(1000)
        assert caught.value.errno == errno.ESTALE
        assert fs.ukey("s1/work/big") != before
        fs.pipe_file("s1/work/new", b"written here too")
        assert host.path("work/new").read_bytes() == b"written here too"
        assert host.object("work/new") == b"written here too"
        fs.rm("s1/work/new")
        assert not host.path("work/new").exists()
        with pytest.raises(FileNotFoundError):
            fs.cat_file("s1/nothing")
        assert host.stop() == 0
        assert fs.cat_file("s1/work/big", 0, 1) == b"B"
        assert fs.info("s1/work/big")["state"] == "stored"


# -- the programs that it is for ---------------------------------------------------------------------------------------

FRAME = pd.DataFrame({"x": range(1000), "name": [f"n{number}" for number in range(1000)]})


def test_pandas_reads_and_writes_csv(options):
    FRAME.to_csv("cachesync://s1/artifacts/table.csv", index=False, storage_options=options)
    again = pd.read_csv("cachesync://s1/artifacts/table.csv", storage_options=options)
    pd.testing.assert_frame_equal(again, FRAME, check_dtype=False)
    with fsspec.open("cachesync://s1/artifacts/table.csv", "r", **options) as file:
        assert file.readline() == "x,name\n"


def test_pandas_and_pyarrow_read_and_write_parquet(on_s3):
    FRAME.to_parquet("cachesync://s1/artifacts/table.parquet", storage_options=on_s3)
    again = pd.read_parquet("cachesync://s1/artifacts/table.parquet", storage_options=on_s3)
    pd.testing.assert_frame_equal(again, FRAME, check_dtype=False)
    fs = CacheSyncFileSystem(**on_s3)
    table = pyarrow.Table.from_pydict({"year": [2025, 2026, 2026], "value": [1, 2, 3]})
    pyarrow.parquet.write_to_dataset(table, "s1/artifacts/set", partition_cols=["year"], filesystem=fs)
    dataset = pyarrow.dataset.dataset("s1/artifacts/set", filesystem=fs, partitioning="hive")
    assert dataset.to_table(filter=pyarrow.dataset.field("year") == 2026)["value"].to_pylist() == [2, 3]


def test_duckdb_reads_csv_and_parquet(on_s3):
    fs = CacheSyncFileSystem(**on_s3)
    FRAME.to_csv("cachesync://s1/one.csv", index=False, storage_options=on_s3)
    FRAME.to_parquet("cachesync://s1/one.parquet", storage_options=on_s3)
    FRAME.to_parquet("cachesync://s1/two.parquet", storage_options=on_s3)
    with duckdb.connect() as database:
        database.register_filesystem(fs)
        total = "select count(*), sum(x) from "
        assert database.execute(total + "read_csv('cachesync://s1/one.csv')").fetchone() == (1000, 499500)
        assert database.execute(total + "read_parquet('cachesync://s1/*.parquet')").fetchone() == (2000, 999000)
        database.execute("copy (select 7 as n) to 'cachesync://s1/out.csv'")
    assert fs.cat_file("s1/out.csv") == b"n\n7\n"
