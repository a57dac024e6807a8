"""P5: the checksum is sent, kept, listed and compared; what travels with the bytes is right."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import time
from datetime import datetime

import pytest

from tests.promises.host import MANIFEST, Host
from tests.promises.line import Line

TYPES = {
    "terraform/main.tf": "text/plain",
    "dashboard.yaml": "application/yaml",
    "other.yml": "application/yaml",
    "foundation.md": "text/markdown",
    "metadata.json": "application/json",
    "page.html": "text/html",
    "picture.PNG": "image/png",
    "table.csv": "text/csv",
    "no suffix": "application/octet-stream",
    ".hidden": "application/octet-stream",
    "strange.nobody-knows": "application/octet-stream",
}


def _decimal(mtime_ns: int) -> str:
    return f"{mtime_ns // 10**9}.{mtime_ns % 10**9:09}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_p05_objects_carry_checksum_type_mode_and_time(host: Host):
    for number, name in enumerate(TYPES):
        path = host.write(name, os.urandom(100 + number))
        path.chmod(0o600 + number)
        os.utime(path, ns=(0, 1_700_000_000_123_456_789 + number))
    host.start()
    host.stored()
    for number, (name, kind) in enumerate(TYPES.items()):
        head, data = host.head(name), host.path(name).read_bytes()
        assert head["ContentType"] == kind, name
        assert head["ChecksumSHA256"] == base64.b64encode(hashlib.sha256(data).digest()).decode(), name
        meta = head["Metadata"]
        assert meta["sha256"] == _sha256(data), name
        assert int(meta["mode"]) == stat.S_IFREG | (0o600 + number), name
        assert meta["mtime"] == f"1700000000.{123_456_789 + number}", name
        assert meta["sessionid"] == "s1"
        assert meta["version"] == "1"
        assert datetime.fromisoformat(meta["createdat"]).tzinfo is not None
    assert host.head("terraform/main.tf")["Metadata"]["artifacttype"] == "terraform"
    assert host.head("dashboard.yaml")["Metadata"]["artifacttype"] == "dashboard"
    assert host.head("foundation.md")["Metadata"]["artifacttype"] == "foundation"


def test_p05_logs_carry_their_tag_and_nothing_else_does(host: Host):
    for name in ("logs/a.log", "logs/deep/b.jsonl", "artifacts/logs/c.log", "logs.txt"):
        host.write(name, "x")
    host.start()
    host.stored()

    def tags(name: str) -> dict[str, str]:
        answer = host.s3.get_object_tagging(Bucket=host.bucket, Key=host.key(name))
        return {tag["Key"]: tag["Value"] for tag in answer["TagSet"]}

    assert tags("logs/a.log") == tags("logs/deep/b.jsonl") == {"kind": "log"}
    assert tags("artifacts/logs/c.log") == tags("logs.txt") == {}
    host.write("logs/a.log", "rewritten")
    host.path("logs/deep").rename(host.path("logs/moved"))
    host.path("logs/moved/b.jsonl").rename(host.path("no-log-any-more"))
    host.path("logs.txt").rename(host.path("logs/d.txt"))
    host.stored()
    assert tags("logs/a.log") == tags("logs/d.txt") == {"kind": "log"}
    assert tags("no-log-any-more") == {}


def test_p05_the_manifest_is_exactly_what_is_promised(host: Host):
    begun = time.time()
    host.write("a.txt", "hello").chmod(0o640)
    host.write("d/b.bin", os.urandom(1000))
    host.path("d/empty").mkdir(mode=0o700)
    host.path("d/link").symlink_to("../a.txt")
    host.path("broken").symlink_to("/nowhere/at all")
    os.utime(host.path("a.txt"), ns=(0, 1_600_000_000_000_000_001))
    host.start()
    told = host.stored("s1", "--receipt")
    manifest = host.manifest()
    assert set(manifest) == {"format", "session", "state", "host", "written_at", "serial", "mode", "owner", "entries"}
    assert manifest["format"] == 1
    assert manifest["session"] == "s1"
    assert manifest["state"] == "open"
    assert manifest["host"] == os.uname().nodename
    assert begun - 1 <= datetime.fromisoformat(manifest["written_at"]).timestamp() <= time.time()
    rows = {row["path"]: row for row in manifest["entries"]}
    assert len(rows) == len(manifest["entries"]) == 6
    assert rows["a.txt"] == {
        "path": "a.txt",
        "type": "file",
        "size": 5,
        "mtime": "1600000000.000000001",
        "mode": "0640",
        "sha256": _sha256(b"hello"),
        "version": host.head("a.txt")["ETag"].strip('"'),
        "version_id": None,
    }
    assert set(rows["d"]) == {"path", "type", "mtime", "mode"}
    assert rows["d"]["type"] == rows["d/empty"]["type"] == "dir"
    assert rows["d/empty"]["mode"] == "0700"
    assert rows["d/link"] == {
        "path": "d/link",
        "type": "link",
        "mtime": _decimal(os.lstat(host.path("d/link")).st_mtime_ns),
        "target": "../a.txt",
    }
    assert rows["broken"]["target"] == "/nowhere/at all"
    assert told["manifest"] == host.key(MANIFEST)
    assert {row["path"]: row for row in told["entries"]} == {
        path: {"path": path, "key": host.key(path)}
        | {name: rows[path][name] for name in ("size", "sha256", "version", "version_id")}
        for path in ("a.txt", "d/b.bin")
    }
    assert host.head(MANIFEST)["ContentType"] == "application/json"
    assert host.head(MANIFEST)["LastModified"] >= host.head("d/b.bin")["LastModified"]


def test_p05_the_manifest_follows_every_kind_of_change(host: Host):
    host.write("keep.txt", "1")
    host.write("gone.txt", "1")
    host.path("link").symlink_to("keep.txt")
    host.path("dir").mkdir()
    host.start()
    host.stored()
    host.path("keep.txt").chmod(0o755)
    host.stored()
    assert host.listed()["keep.txt"]["mode"] == "0755"
    assert stat.S_IMODE(int(host.head("keep.txt")["Metadata"]["mode"])) == 0o755
    os.utime(host.path("keep.txt"), ns=(0, 5_000_000_000))
    host.stored()
    assert host.listed()["keep.txt"]["mtime"] == "5.000000000"
    host.path("link").unlink()
    host.path("link").symlink_to("elsewhere")
    host.stored()
    assert host.listed()["link"]["target"] == "elsewhere"
    host.path("gone.txt").unlink()
    host.path("dir").rmdir()
    host.path("link").unlink()
    host.stored()
    assert set(host.listed()) == {"keep.txt"}
    before = host.head(MANIFEST)["LastModified"], host.head(MANIFEST)["ETag"]
    host.stored()
    assert (host.head(MANIFEST)["LastModified"], host.head(MANIFEST)["ETag"]) == before, "nothing changed"


def test_p05_versions_of_a_versioned_bucket_are_in_the_manifest(host: Host):
    host.keep_versions()
    host.write("a.txt", "1")
    host.start()
    host.stored()
    host.write("a.txt", "22")
    (entry,) = host.stored("s1", "--receipt")["entries"]
    head = host.head("a.txt")
    assert head["VersionId"] not in (None, "null")
    assert entry["version_id"] == host.listed()["a.txt"]["version_id"] == head["VersionId"]
    assert head["Metadata"]["version"] == "2"
    assert host.versions("a.txt") == [b"1", b"22"]


def test_p05_a_large_file_in_parts_is_whole_and_has_its_checksum(host: Host):
    data = os.urandom(33 * 1024 * 1024 + 17)
    host.write("big.bin", data)
    host.start()
    host.stored(timeout=40)
    assert host.object("big.bin") == data
    assert host.head("big.bin")["Metadata"]["sha256"] == _sha256(data) == host.listed()["big.bin"]["sha256"]


@pytest.mark.parametrize("size", [100_000, 20 * 1024 * 1024], ids=["whole", "multipart"])
def test_p05_bytes_that_change_on_their_way_are_refused_and_sent_again(wired: Host, line: Line, size: int):
    data = b"x" * size + b"MARKER" + b"y" * 100
    line.spoil = lambda sent: sent.replace(b"MARKER", b"MURKER")
    wired.start()
    wired.write("a.bin", data)
    done = wired.flush(timeout=4)
    assert done.code in (1, 4)
    assert wired.object("a.bin") is None
    line.spoil = lambda sent: sent
    wired.run("retry", "s1")
    wired.stored()
    assert wired.object("a.bin") == data


def test_p05_empty_files_are_files(host: Host):
    host.write("empty", b"")
    host.start()
    host.stored()
    assert host.objects() == {"empty": b""}
    assert host.listed()["empty"]["sha256"] == _sha256(b"")
