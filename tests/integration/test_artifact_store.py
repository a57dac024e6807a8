"""``from cachesync import ArtifactStore``: the design note's service in Python, from its own environment."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import cachesync.errors
from cachesync import ArtifactStore
from cachesync.config import load
from cachesync.model import errors
from cachesync.model.errors import (
    ConfigError,
    FileUnreadable,
    FileUnwritable,
    IntegrityError,
    NoSuchBucket,
    ObjectNotFound,
    StoreUnreachable,
    Unstorable,
    UsageError,
)
from tests.servers import closed_port

TYPES = {
    "main.tf": "text/plain",
    "dashboard.yaml": "application/yaml",
    "dashboard.yml": "application/yaml",
    "foundation.md": "text/markdown",
    "data.json": "application/json",
    "welcome.html": "text/html",
    "blob": "application/octet-stream",
}


@pytest.fixture
def environment(no_aws, tmp_path, monkeypatch):
    """Nothing configured, and a working directory without a file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in list(os.environ):
        if name.startswith(("CACHESYNC_", "S3_", "AWS_ENDPOINT", "ARTIFACT_", "LOCAL_ARTIFACT")):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.fixture
def folder(environment, tmp_path):
    with ArtifactStore(f"file://{tmp_path}/store") as store:
        yield store


@pytest.fixture
def seed(environment, seaweed, bucket):
    """As the design note's .env has it."""
    seaweed.make_bucket(bucket)
    environment.setenv("AWS_ACCESS_KEY_ID", seaweed.key)
    environment.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret)
    environment.setenv("AWS_REGION", "us-east-1")
    environment.setenv("ARTIFACT_BUCKET", bucket)
    environment.setenv("S3_ENDPOINT", seaweed.endpoint)
    environment.setenv("S3_FORCE_PATH_STYLE", "true")
    with contextlib.closing(seaweed.client()) as s3:
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    with ArtifactStore() as store:
        yield store


def test_the_design_notes_service(seed, seaweed, bucket):
    uri = seed.upload(
        "s1",
        "artifacts/terraform/main.tf",
        'resource "x" "y" {}',
        {"sessionId": "s1", "projectId": "p1", "artifactType": "terraform", "version": 7, "createdAt": None},
    )
    assert uri == f"s3://{bucket}/sessions/s1/artifacts/terraform/main.tf"
    with contextlib.closing(seaweed.client()) as s3:
        head = s3.head_object(Bucket=bucket, Key="sessions/s1/artifacts/terraform/main.tf")
    assert head["ContentType"] == "text/plain"
    assert {"sessionid": "s1", "projectid": "p1", "artifacttype": "terraform", "version": "7"}.items() <= head[
        "Metadata"
    ].items()
    assert seed.download_text("s1", "artifacts/terraform/main.tf") == 'resource "x" "y" {}'
    seed.upload("s1", "logs/agent.log", b"\xff\x00")
    assert seed.download("s1", "logs/agent.log") == b"\xff\x00"
    assert [one.key for one in seed.list("s1", "artifacts/")] == ["sessions/s1/artifacts/terraform/main.tf"]
    with urllib.request.urlopen(seed.signed_url("s1", "logs/agent.log", expires_in=60)) as answer:
        assert answer.read() == b"\xff\x00"
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(seed.signed_url("s1", "logs/agent.log").partition("?")[0])
    seed.delete("s1", "logs/agent.log")
    assert [one.address for one in seed.list("s1")] == ["s1/artifacts/terraform/main.tf"]
    with pytest.raises(ObjectNotFound):
        seed.download("s1", "logs/agent.log")
    assert seed.sessions() == ["s1"]


def test_content_types_are_the_design_notes(seed, seaweed, bucket):
    for name in TYPES:
        seed.upload("s1", name, "x")
    with contextlib.closing(seaweed.client()) as s3:
        found = {name: s3.head_object(Bucket=bucket, Key=f"sessions/s1/{name}")["ContentType"] for name in TYPES}
        seed.upload("s1", "logs/a", "x")
        tags = s3.get_object_tagging(Bucket=bucket, Key="sessions/s1/logs/a")["TagSet"]
    assert found == TYPES
    assert tags == [{"Key": "kind", "Value": "log"}]


def test_versions_and_the_way_back(seed):
    for text in ("one", "two", "three"):
        seed.upload("s1", "a.md", text)
    assert seed.metadata("s1", "a.md")["version"] == "3"
    past = seed.history("s1", "a.md")
    assert [one.latest for one in past] == [True, False, False]
    assert seed.download_text("s1", "a.md", version_id=past[2].version_id) == "one"
    seed.restore("s1", "a.md")
    assert seed.download_text("s1", "a.md") == "two"
    seed.delete("s1", "a.md")
    seed.restore("s1", "a.md", past[2].version_id)
    assert seed.download_text("s1", "a.md") == "one"


def test_projects_and_templates(folder, tmp_path):
    assert folder.upload("projects/p", "foundation.md", "# P") == f"file://{tmp_path}/store/projects/p/foundation.md"
    folder.upload("templates", "t/a.md", "# T")
    assert folder.download_text("projects/p", "foundation.md") == "# P"
    assert [one.address for one in folder.list("templates")] == ["templates/t/a.md"]
    assert (tmp_path / "store/templates/t/a.md").read_text() == "# T"
    assert folder.signed_url("templates", "t/a.md") == f"file://{tmp_path}/store/templates/t/a.md"


def test_every_kind_of_content(folder, tmp_path):
    (tmp_path / "file").write_bytes(b"from a file")
    for content, wanted in (
        ("text é", "text é".encode()),
        (b"bytes", b"bytes"),
        (bytearray(b"array"), b"array"),
        (tmp_path / "file", b"from a file"),
        (io.BytesIO(b"from a stream"), b"from a stream"),
        ("", b""),
    ):
        folder.upload("s", "a", content)
        assert folder.download("s", "a") == wanted
    folder.upload("s", "a", "/etc/passwd")  # text is text, never a path
    assert folder.download("s", "a") == b"/etc/passwd"
    with pytest.raises(FileUnreadable):
        folder.upload("s", "b", tmp_path / "missing")
    with pytest.raises(UsageError):
        folder.upload("s", "b", "\ud800")
    with pytest.raises(ObjectNotFound):
        folder.describe("s", "b")


def test_download_to_a_path_or_a_file(folder, tmp_path):
    data = os.urandom(5_000_000)
    folder.upload("s", "large", data)
    target = tmp_path / "out"
    assert folder.download_to("s", "large", target) == len(data)
    assert target.read_bytes() == data
    buffer = io.BytesIO()
    assert folder.download_to("s", "large", buffer) == len(data)
    assert buffer.getvalue() == data
    with folder.open("s", "large") as reading:
        assert b"".join(reading.chunks(4_000_000, 10)) == data[4_000_000:4_000_010]
    with pytest.raises(FileUnwritable):
        folder.download_to("s", "large", tmp_path / "no" / "out")


def test_a_download_that_fails_leaves_the_file_that_was_there(folder, tmp_path):
    folder.upload("s", "a", b"x" * 100)
    stored = tmp_path / "store/sessions/s/a"
    times = stored.stat()
    with open(stored, "r+b") as file:  # rot: the same size and time, other bytes
        file.write(b"y")
    os.utime(stored, ns=(times.st_atime_ns, times.st_mtime_ns))
    target = tmp_path / "out"
    target.write_bytes(b"before")
    with pytest.raises(IntegrityError):
        folder.download_to("s", "a", target)
    assert target.read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["out"]


def test_list_takes_a_prefix_as_the_design_note_does(folder):
    for path in ("a.md", "art/x", "artifacts/b", "artifacts/c/d", "z"):
        folder.upload("s", path, "1")
    addresses = {prefix: [one.address for one in folder.list("s", prefix)] for prefix in ("", "art", "artifacts/", "z")}
    assert addresses == {
        "": ["s/a.md", "s/art/x", "s/artifacts/b", "s/artifacts/c/d", "s/z"],
        "art": ["s/art/x", "s/artifacts/b", "s/artifacts/c/d"],
        "artifacts/": ["s/artifacts/b", "s/artifacts/c/d"],
        "z": ["s/z"],
    }
    assert folder.list("s", "no/") == folder.list("nosuch") == []


@pytest.mark.parametrize(
    ("session", "path"),
    [
        ("..", "a"), ("s/../t", "a"), ("s/d", "a"), ("", "a"), ("projects", "p/a"), ("projects/..", "a"), ("/s", "a"),
        ("s", "../t/a"), ("s", "/etc/passwd"), ("s", ""), ("s", "d/"), ("s", "a\0"), ("s", "a//b"), ("templates", ""),
        ("s", ".cachesync/manifest.json"), ("s", "a" * 1100), ("s", "\udcff"),
    ],
)  # fmt: skip
def test_hostile_names_reach_no_key(folder, tmp_path, session, path):
    before = sorted(tmp_path.rglob("*"))
    for call in (folder.upload, folder.download, folder.delete, folder.describe):
        with pytest.raises((UsageError, Unstorable, ObjectNotFound)):
            call(session, path, *(["x"] if call == folder.upload else []))
    with pytest.raises((UsageError, Unstorable)):
        folder.upload(session, path, "x")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_outage_is_not_absence(environment):
    environment.setenv("AWS_ACCESS_KEY_ID", "k")
    environment.setenv("AWS_SECRET_ACCESS_KEY", "s")
    with ArtifactStore("s3://bucket", endpoint=closed_port(), region="us-east-1") as store:
        for call in (
            lambda: store.download("s", "a"),
            lambda: store.list("s"),
            lambda: store.upload("s", "a", "x"),
            lambda: store.delete("s", "a"),
            lambda: store.signed_url("s", "a"),
            store.sessions,
        ):
            with pytest.raises(StoreUnreachable):
                call()


def test_a_bucket_that_is_not_there_is_no_empty_one(environment, moto, bucket):
    environment.setenv("AWS_ACCESS_KEY_ID", moto.key)
    environment.setenv("AWS_SECRET_ACCESS_KEY", moto.secret)
    with ArtifactStore(f"s3://{bucket}", endpoint=moto.endpoint, region="us-east-1") as store:
        for call in (lambda: store.download("s", "a"), lambda: store.list("s"), store.sessions):
            with pytest.raises(NoSuchBucket):
                call()


def test_a_cache_is_kept_only_where_it_is_asked_for_and_never_hides_a_newer_version(environment, tmp_path):
    url = f"file://{tmp_path}/store"
    with ArtifactStore(url, cache=tmp_path / "cache") as store, ArtifactStore(url) as other:
        store.upload("s", "a", "one")
        assert store.download_text("s", "a") == store.download_text("s", "a") == "one"
        with store.open("s", "a") as reading:
            list(reading.chunks())
            assert reading.source == "cache"
        other.upload("s", "a", "two")
        assert store.download_text("s", "a") == "two"
        store.upload("s", "a", "three")
        assert store.download_text("s", "a") == "three"
        store.delete("s", "a")
        with pytest.raises(ObjectNotFound):
            store.download("s", "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "store"]


def test_settings_are_those_of_every_command(environment, tmp_path):
    (tmp_path / "cachesync.toml").write_text(f'store = "file://{tmp_path}/from-file"\n')
    with ArtifactStore() as store:
        store.upload("s", "a", "x")
    assert (tmp_path / "from-file/sessions/s/a").read_text() == "x"
    config = load({"store": f"file://{tmp_path}/from-config"}, {}, tmp_path, system_file=Path("/none"))
    with ArtifactStore(config=config) as store:
        assert store.upload("s", "a", "x") == f"file://{tmp_path}/from-config/sessions/s/a"
    with pytest.raises(ConfigError):
        ArtifactStore("ftp:/x")
    with pytest.raises(ConfigError):
        ArtifactStore(no_such_setting=1)
    with pytest.raises(UsageError):
        ArtifactStore("file:///x", config=config)
    assert not (tmp_path / "sessions").exists(), "no root is made"


def test_the_process_is_left_as_it_was(folder, tmp_path):
    def state():
        umask = os.umask(0o022)
        os.umask(umask)
        return (
            umask,
            os.getcwd(),
            [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGIO)],
        )

    before = state()
    with ArtifactStore(f"file://{tmp_path}/store", cache=tmp_path / "cache") as store:
        store.upload("s", "a", "x")
        store.download("s", "a")
        assert state() == before


def test_importing_the_package_imports_no_store():
    code = (
        "import sys, cachesync; assert 'cachesync.programs.artifact_store' not in sys.modules;"
        "from cachesync import ArtifactStore, Client; print(ArtifactStore.__module__, Client.__module__);"
        "cachesync.nothing"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "cachesync.programs.artifact_store cachesync.programs.client\n"
    assert "AttributeError: module 'cachesync' has no attribute 'nothing'" in done.stderr


def test_errors_are_where_programs_have_always_found_them():
    ours = {
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert set(cachesync.errors.__all__) == ours
    assert all(getattr(cachesync.errors, name) is getattr(errors, name) for name in ours)
