"""P17: what is called stored is in this store, now: emptied, replaced and moved stores are noticed."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from cachesync import ArtifactStore
from cachesync.model.errors import ConfigError
from tests.conftest import MakeHost
from tests.promises.host import Host, Outcome, eventually
from tests.servers import SeaweedServer

FILES = {"a.txt": b"alpha", "d/b.txt": b"beta"}
IDENTITY = "sessions/.cachesync/store.json"


@pytest.fixture
def other(tmp_path: Path) -> Iterator[SeaweedServer]:
    """Another S3 server."""
    server = SeaweedServer(tmp_path / "other server")
    server.start()
    yield server
    server.stop()


def write(host: Host, session: str = "s1") -> None:
    for path, data in FILES.items():
        host.write(path, data, session)


def empty(host: Host) -> None:
    """Somebody removes every object of the bucket."""
    for page in host.s3.get_paginator("list_objects_v2").paginate(Bucket=host.bucket):
        for entry in page.get("Contents", ()):
            host.s3.delete_object(Bucket=host.bucket, Key=entry["Key"])


def whole(host: Host, session: str = "s1") -> None:
    assert host.objects(session) == FILES
    assert host.listed(session).keys() >= FILES.keys()


def refused(done: Outcome, *words: str) -> None:
    assert done.code == 2, done
    assert len(done.err.splitlines()) == 1, done.err
    for word in words:
        assert word in done.err


# -- emptied -----------------------------------------------------------------------------------------------------------


def test_a_bucket_that_is_emptied_under_the_daemon_gets_everything_again(host: Host) -> None:
    write(host)
    write(host, "s2")
    host.start()
    host.stored("s1")
    host.stored("s2")
    empty(host)
    done = host.stored("s1", "--receipt")
    assert (done["files"], done["uploaded"]) == (2, 2)
    assert {row["path"] for row in done["entries"]} == FILES.keys()
    whole(host)
    eventually(lambda: host.objects("s2") == FILES, what="the other session is stored again, unasked")
    assert host.run("verify", "s1").code == 0
    eventually(lambda: host.s3.head_object(Bucket=host.bucket, Key=IDENTITY), what="its identity too")


def test_a_bucket_that_is_emptied_while_no_daemon_runs_gets_everything_again_by_its_start(host: Host) -> None:
    write(host)
    host.stored()
    empty(host)
    host.start()
    eventually(lambda: host.objects() == FILES)
    host.stored()
    whole(host)


def test_a_bucket_that_is_emptied_gets_everything_again_by_a_flush_alone(host: Host) -> None:
    write(host)
    host.stored()
    empty(host)
    assert host.stored()["files"] == 2
    whole(host)


def test_what_is_nowhere_any_more_is_not_called_stored(host: Host) -> None:
    write(host)
    host.stored()
    assert host.run("evict", "s1").code == 0
    host.write("c.txt", "here")
    empty(host)
    code, told = host.flush()
    assert (code, told["stored"]) == (1, False)
    assert {row["path"] for row in told["failed"]} == FILES.keys()
    assert host.run("status", "s1").code == 4
    assert host.object("c.txt") == b"here"
    assert host.run("rm", "s1/a.txt", "s1/d/b.txt").code == 0
    assert host.stored()["files"] == 1


def test_one_object_that_goes_is_found_by_verify_and_repaired(host: Host) -> None:
    write(host)
    host.start()
    host.stored()
    host.foreign_delete("a.txt")
    done = host.run("verify", "s1")
    assert done.code == 1
    assert "cachesync verify --repair s1" in done.err
    done = host.run("verify", "s1", "--repair", "--json")
    assert done.code == 0
    assert (done.json["verified"], done.json["repaired"]) == (True, ["a.txt"])
    whole(host)


def test_a_file_that_is_not_in_the_store_is_a_difference_also_before_any_flush(host: Host) -> None:
    write(host)
    done = host.run("verify", "s1", "--json")
    assert done.code == 1
    assert {row["path"] for row in done.json["differences"]} >= FILES.keys()
    host.stored()
    assert host.run("verify", "s1").code == 0


# -- another store -----------------------------------------------------------------------------------------------------


def elsewhere(server: SeaweedServer) -> dict[str, str]:
    return {"S3_ENDPOINT": server.endpoint, "AWS_ACCESS_KEY_ID": server.key, "AWS_SECRET_ACCESS_KEY": server.secret}


def test_a_bucket_of_the_same_name_on_another_server_is_another_store(host: Host, other: SeaweedServer) -> None:
    write(host)
    host.stored()
    other.make_bucket(host.bucket)
    env = elsewhere(other)
    refused(host.run("flush", "s1", env=env), host.bucket, other.endpoint, "cachesync rebind")
    refused(host.run("run", env=env), "cachesync rebind")
    assert host.stored()["files"] == 2


def test_rebind_stores_the_root_in_the_new_one(host: Host, other: SeaweedServer, make_host: MakeHost) -> None:
    write(host)
    host.stored()
    other.make_bucket(host.bucket)
    env = elsewhere(other)
    done = host.run("rebind", "--json", env=env)
    assert (done.code, done.json["rebound"], done.json["files"]) == (0, True, 2), done
    done = host.run("flush", "s1", "--json", env=env)
    assert (done.code, done.json["files"], done.json["uploaded"]) == (0, 2, 2)
    there = make_host("there", server=other, bucket=host.bucket)
    assert there.objects() == FILES
    refused(host.run("flush", "s1"), "cachesync rebind")


def test_rebind_leaves_nothing_behind_that_only_the_old_store_has(host: Host, other: SeaweedServer) -> None:
    write(host)
    host.stored()
    assert host.run("evict", "s1").code == 0
    host.write("c.txt", "here")
    other.make_bucket(host.bucket)
    env = elsewhere(other)
    done = host.run("rebind", env=env)
    assert done.code == 1
    assert "s1/a.txt" in done.err
    assert "s1/d/b.txt" in done.err
    assert host.stored()["files"] == 3, "it is still bound to the old one"
    done = host.run("rebind", "--yes", "--json", env=env)
    assert (done.code, len(done.json["missing"])) == (0, 2)
    assert Path(done.json["kept"]).is_file()
    done = host.run("flush", "s1", "--json", env=env)
    assert (done.code, done.json["files"]) == (0, 1)


def test_rebind_is_for_when_no_daemon_runs(host: Host) -> None:
    host.start()
    refused(host.run("rebind"), "stop the daemon")


def test_a_mistyped_bucket_binds_nothing(host: Host) -> None:
    write(host)
    assert host.run("flush", "s1", env={"CACHESYNC_STORE": "s3://no-such-bucket-anywhere"}).code == 3
    assert host.stored()["files"] == 2


# -- a folder of this machine ------------------------------------------------------------------------------------------


@pytest.fixture
def unset(host: Host) -> Host:
    """A host where no store is configured."""
    for name in ("CACHESYNC_STORE", "S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del host.env[name]
    host.env["XDG_DATA_HOME"] = str(host.folder / "data")
    return host


@pytest.mark.parametrize("by", ["the command", "the daemon"])
def test_without_a_store_flush_and_status_say_that_it_is_this_machine(unset: Host, by: str) -> None:
    unset.write("a.txt", "1")
    if by == "the daemon":
        unset.start()
    done = unset.run("flush", "s1")
    assert done.code == 0
    (line,) = done.err.splitlines()
    assert "no store is configured" in line
    assert "safe on this machine only" in line
    assert unset.stored()["on_this_machine"] is True
    done = unset.run("status", "s1")
    assert "safe on this machine only" in done.out
    assert done.out.splitlines()[-1].split()[-1] == "here"
    assert unset.run("status", "--json").json["on_this_machine"] is True
    findings = unset.run("doctor", "--json").json
    assert any("safe on this machine only" in row["seen"] for row in findings)


def test_a_store_that_is_set_is_called_so(host: Host) -> None:
    host.write("a.txt", "1")
    done = host.run("flush", "s1")
    assert (done.code, done.err) == (0, "")
    assert host.stored()["on_this_machine"] is False
    assert host.run("status", "s1").out.splitlines()[-1].split()[-1] == "yes"


def test_each_root_has_a_folder_of_its_own(unset: Host) -> None:
    unset.write("a.txt", "1")
    unset.stored()
    second = unset.folder / "second"
    (second / "s1").mkdir(parents=True)
    (second / "s1/a.txt").write_text("2")
    done = unset.run("flush", "s1", "--json", "--root", str(second))
    assert (done.json["stored"], done.json["conflicts"]) == (True, [])
    found = sorted(path.read_text() for path in (unset.folder / "data").rglob("sessions/s1/a.txt"))
    assert found == ["1", "2"]


@pytest.mark.parametrize("words", [("flush", "s1"), ("run",), ("close", "s1"), ("migrate", "root")])
def test_require_remote_refuses_a_store_on_this_machine(unset: Host, words: tuple[str, ...]) -> None:
    unset.write("a.txt", "1")
    for setting in ({}, {"CACHESYNC_STORE": f"file://{unset.folder}/store"}, {"CACHESYNC_STORE": "memory://x"}):
        env = setting | {"CACHESYNC_REQUIRE_REMOTE": "true"}
        refused(unset.run(*words, env=env), "require_remote", "CACHESYNC_STORE=s3://BUCKET")
    assert not (unset.folder / "data").exists()


def test_require_remote_refuses_the_dev_server_and_a_daemon_that_stores_here(unset: Host) -> None:
    refused(unset.run("run", "--dev-server", str(unset.folder / "dev"), "--require-remote", "true"), "require_remote")
    assert not (unset.folder / "dev").exists()
    unset.start()
    unset.write("a.txt", "1")
    refused(unset.run("flush", "s1", "--require-remote", "true"), "require_remote")


def test_require_remote_lets_a_bucket_pass(host: Host) -> None:
    host.env["CACHESYNC_REQUIRE_REMOTE"] = "true"
    host.write("a.txt", "1")
    host.start()
    assert host.stored()["files"] == 1


def test_the_artifact_store_says_so_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("CACHESYNC_STORE", "ARTIFACT_BUCKET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with pytest.warns(UserWarning, match="no store is configured"):
        ArtifactStore().close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ArtifactStore(f"file://{tmp_path}/store").close()
    with pytest.raises(ConfigError, match="require_remote"):
        ArtifactStore(require_remote=True)


def test_the_identity_is_plain_json(host: Host) -> None:
    host.write("a.txt", "1")
    host.stored()
    found = json.loads(host.s3.get_object(Bucket=host.bucket, Key=IDENTITY)["Body"].read())
    assert found["format"] == 1
    assert len(found["id"]) == 32
    assert [row["address"] for row in host.run("ls", "--json").json] == ["s1"], "it is no session"
