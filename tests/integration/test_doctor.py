"""Looking for real: stores of every kind, broken ones too, and this machine."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from cachesync import fuse
from cachesync.config import Config, load
from cachesync.journal.binding import Bound
from cachesync.journal.database import check_sound
from cachesync.journal.journal import Journal
from cachesync.model.errors import (
    CacheSyncError,
    JournalDamaged,
    JournalUnavailable,
    PreconditionFailed,
    StoreDenied,
    StoreUnreachable,
    UsageError,
)
from cachesync.ops.doctor import bucket as buckets
from cachesync.ops.doctor import objects, probes
from cachesync.ops.doctor.finding import Finding
from cachesync.ops.doctor.run import _bounded, examine
from cachesync.store.devserver import DevServer
from cachesync.store.fsspec_store import FsspecStore
from cachesync.store.s3.client import S3Client
from cachesync.store.s3.errors import NotSupported
from tests.driving import tree_of
from tests.servers import MotoServer, SeaweedServer, closed_port, deaf_server

BUCKET = ["credentials", "store", "clock", "rights", "conditions", "copies", "checksums", "versioning"]


def verdicts(findings: Sequence[Finding]) -> dict[str, str]:
    return {found.check: str(found.verdict) for found in findings}


def said(findings: Sequence[Finding], check: str) -> Finding:
    (found,) = (found for found in findings if found.check == check)
    return found


def left_in(server: SeaweedServer, name: str) -> list[str]:
    """Everything in a bucket: versions, deletion markers, uploads."""
    s3 = server.client()
    listed = s3.list_object_versions(Bucket=name)
    found = [row["Key"] for kind in ("Versions", "DeleteMarkers") for row in listed.get(kind, ())]
    found += [row["Key"] for row in s3.list_objects_v2(Bucket=name).get("Contents", ())]
    s3.close()
    return found


def asked(server: SeaweedServer | MotoServer, name: str, prefix: str = "", **changes: Any) -> list[Finding]:
    return list(buckets.examine(server.settings(name, timeout=5.0, **changes), prefix))


# -- buckets -----------------------------------------------------------------------------------------------------------


@pytest.mark.s3
@pytest.mark.parametrize("mode", ["plain", "versioned"])
@pytest.mark.parametrize("prefix", ["", "a/b c"])
def test_a_good_bucket(seaweed: SeaweedServer, bucket: str, mode: str, prefix: str):
    versioned = mode == "versioned"
    seaweed.make_bucket(bucket, versioned=versioned)
    findings = asked(seaweed, bucket, prefix)
    assert [found.check for found in findings] == BUCKET
    assert verdicts(findings) == dict.fromkeys(BUCKET, "ok") | {"versioning": "ok" if versioned else "warning"}
    assert bucket in said(findings, "versioning").mend or versioned
    assert said(findings, "rights").seen.count("s3:") == 6
    assert left_in(seaweed, bucket) == []


@pytest.mark.s3
@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"secret": "wrong"}, "SignatureDoesNotMatch"),
        ({"key": "wrong"}, "InvalidAccessKeyId"),
        ({"endpoint": closed_port()}, "connect"),
    ],
)
def test_a_bucket_that_cannot_be_used(seaweed: SeaweedServer, bucket: str, changes: dict[str, Any], word: str):
    seaweed.make_bucket(bucket)
    findings = asked(seaweed, bucket, **changes)
    assert verdicts(findings) == {"credentials": "ok", "store": "problem"}
    assert word in said(findings, "store").seen
    assert said(findings, "store").mend
    assert left_in(seaweed, bucket) == []


@pytest.mark.s3
def test_a_bucket_that_is_not_there(seaweed: SeaweedServer, bucket: str):
    findings = asked(seaweed, bucket)
    assert verdicts(findings) == {"credentials": "ok", "store": "problem"}
    assert "create it" in said(findings, "store").mend


def test_a_store_that_never_answers(moto: MotoServer):
    with deaf_server() as endpoint:
        begun = time.monotonic()
        findings = list(buckets.examine(moto.settings("deaf", endpoint=endpoint, timeout=1.0), ""))
        assert time.monotonic() - begun < 8
    assert verdicts(findings) == {"credentials": "ok", "store": "problem"}


def test_a_server_that_checks_nothing(moto: MotoServer, bucket: str):
    moto.make_bucket(bucket)
    findings = asked(moto, bucket)
    assert verdicts(findings)["checksums"] == "warning"
    s3 = moto.client()
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    s3.close()


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Methods of S3 that are answered otherwise: an error, or what is called with the request's arguments."""
    refused: dict[str, Any] = {}
    real = S3Client.call

    def call(self: S3Client, operation: str, path: str, method: str, **args: Any) -> Any:
        answer = refused.get(method)
        answer = answer(args) if callable(answer) and not isinstance(answer, type) else answer
        if answer is not None:
            raise answer(operation, path, "no")
        return real(self, operation, path, method, **args)

    monkeypatch.setattr(S3Client, "call", call)
    return refused


@pytest.mark.s3
def test_rights_that_are_not_there_are_named(seaweed: SeaweedServer, bucket: str, refusing: dict[str, Any]):
    seaweed.make_bucket(bucket, versioned=True)
    refusing.update(
        list_objects_v2=StoreDenied, get_object_tagging=StoreDenied, get_bucket_versioning=StoreDenied,
        put_object=lambda args: StoreDenied if "Tagging" in args else None,
    )  # fmt: skip
    findings = asked(seaweed, bucket)
    named = {found.seen.partition(": ")[0] for found in findings if found.check == "rights"}
    assert named == {"s3:ListBucket", "s3:GetObjectTagging", "s3:PutObjectTagging"}
    assert said(findings, "versioning").verdict == "warning"
    assert said(findings, "conditions").verdict == "ok"
    refusing.clear()
    assert left_in(seaweed, bucket) == []
    refusing["put_object"] = StoreDenied
    findings = asked(seaweed, bucket)
    checks = ["credentials", "store", "clock", "rights", "conditions", "versioning"]
    assert [found.check for found in findings] == checks
    assert "s3:PutObject" in said(findings, "rights").mend
    assert said(findings, "conditions").seen.startswith("unknown: denied")
    assert "s3:PutObject" in said(findings, "conditions").mend


@pytest.mark.s3
@pytest.mark.parametrize("error", [NotSupported, StoreDenied, PreconditionFailed])
def test_a_store_that_does_not_copy(seaweed: SeaweedServer, bucket: str, refusing: dict[str, Any], error: type):
    seaweed.make_bucket(bucket, versioned=True)
    refusing["copy_object"] = error
    found = said(asked(seaweed, bucket), "copies")
    assert (found.verdict, "sent again" in found.seen) == ("warning", True)
    assert left_in(seaweed, bucket) == []


@pytest.mark.s3
def test_a_server_without_conditions_and_versions(seaweed: SeaweedServer, bucket: str, refusing: dict[str, Any]):
    seaweed.make_bucket(bucket)
    refusing["get_bucket_versioning"] = NotSupported

    def forget(args: dict[str, Any]) -> Any:
        if "IfMatch" in args:
            return NotSupported
        args.pop("IfNoneMatch", None)
        return None

    refusing["put_object"] = forget
    findings = asked(seaweed, bucket)
    assert said(findings, "conditions").verdict == "warning"
    assert "If-None-Match and If-Match" in said(findings, "conditions").seen
    assert said(findings, "versioning").mend == "use a store that keeps versions"
    refusing.clear()
    assert left_in(seaweed, bucket) == []


# -- credentials -------------------------------------------------------------------------------------------------------


@pytest.mark.s3
def test_credentials_of_the_chain(seaweed: SeaweedServer, bucket: str, no_aws: pytest.MonkeyPatch):
    seaweed.make_bucket(bucket)
    settings = replace(seaweed.settings(bucket, timeout=5.0), key=None, secret=None)
    assert verdicts(list(buckets.examine(settings, ""))) == {"credentials": "problem"}
    no_aws.setenv("AWS_ACCESS_KEY_ID", seaweed.key)
    no_aws.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret)
    assert said(list(buckets.examine(settings, "")), "credentials").seen == "from the environment"
    soon = datetime.fromtimestamp(time.time() + 1800, UTC).isoformat()
    no_aws.setenv("AWS_CREDENTIAL_EXPIRATION", soon)
    assert said(list(buckets.examine(settings, "")), "credentials").verdict == "warning"
    no_aws.setenv("AWS_CREDENTIAL_EXPIRATION", "2020-01-01T00:00:00Z")
    findings = list(buckets.examine(settings, ""))
    assert said(findings, "credentials").verdict == "problem"
    assert "expired at 2020" in said(findings, "credentials").seen
    no_aws.setenv("AWS_PROFILE", "no-such-profile")
    assert said(list(buckets.examine(settings, "")), "credentials").verdict == "problem"


# -- folders and others ------------------------------------------------------------------------------------------------

OBJECTS = ["store", "rights", "conditions", "checksums", "versioning"]


@pytest.mark.parametrize("url", ["file://{folder}/store", "memory://doctor"])
def test_a_store_that_is_no_bucket(url: str, tmp_path: Path):
    store = FsspecStore(url.format(folder=tmp_path))
    findings = list(objects.examine(store, "p", "it"))
    assert verdicts(findings) == dict.fromkeys(OBJECTS, "ok") | {"versioning": "warning"}
    assert list(store.list("")) == []
    assert not (tmp_path / "store/p").exists()


def test_a_store_that_breaks_its_word():
    class Careless(FsspecStore):
        def put(
            self, key: str, body: Any, attributes: Any, *, expect: Any, resume: Any = None, tail: Any = None
        ) -> Any:
            body.sha256 = hashlib.sha256(body.read(0, body.size)).hexdigest()
            try:
                return super().put(key, body, attributes, expect=expect, resume=resume)
            except PreconditionFailed:
                return super().put(key, body, attributes, expect=self.head(key).version, resume=resume)

    store = Careless("memory://careless")
    findings = list(objects.examine(store, "", "it"))
    wrong = dict.fromkeys(["conditions", "checksums", "versioning"], "warning")
    assert verdicts(findings) == dict.fromkeys(OBJECTS, "ok") | wrong
    assert list(store.list("")) == []


def test_a_folder_that_goes_away(tmp_path: Path):
    store = FsspecStore(f"file://{tmp_path}/store")
    shutil.rmtree(tmp_path / "store")
    findings = list(objects.examine(store, "", "it"))
    assert verdicts(findings) == {"store": "problem"}
    assert "folder is gone" in said(findings, "store").seen


def test_a_folder_that_is_no_store_is_not_made_one(tmp_path: Path):
    (tmp_path / "store").mkdir()
    findings = list(examine(configured(tmp_path)))
    assert "rights" not in verdicts(findings)
    assert tree_of(tmp_path) == {"store/": None}
    (tmp_path / "store").rmdir()
    (tmp_path / "store").write_text("a file")
    assert said(list(examine(configured(tmp_path))), "store").verdict == "problem"


def test_a_store_whose_disk_is_not_mounted(tmp_path: Path):
    state = tmp_path / "root/.cachesync"
    state.mkdir(parents=True)
    journal = Journal(state / "journal.db")
    journal.binding.bind(Bound(f"file://{tmp_path}/store", "", None))
    journal.close()
    (tmp_path / "store").mkdir()
    found = said(list(examine(configured(tmp_path))), "store")
    assert found.verdict == "problem"
    assert "is no store" in found.seen


def test_a_store_that_nobody_knows(tmp_path: Path):
    assert said(list(examine(configured(tmp_path, store="memory://x"))), "store").verdict == "ok"
    with mock.patch("cachesync.ops.doctor.run.open_store", side_effect=StoreUnreachable("open", "", "no")):
        assert said(list(examine(configured(tmp_path, store="memory://x"))), "store").verdict == "problem"


# -- this machine ------------------------------------------------------------------------------------------------------


def configured(tmp_path: Path, **flags: str) -> Config:
    given = {"root": str(tmp_path / "root"), "store": f"file://{tmp_path}/store", **flags}
    return load(given, {"HOME": str(tmp_path)}, tmp_path, system_file=Path("/none"))


def test_all_of_it_without_a_daemon(tmp_path: Path):
    FsspecStore(f"file://{tmp_path}/store")
    root = tmp_path / "root"
    (root / "s1/a/b").mkdir(parents=True)
    findings = list(examine(configured(tmp_path)))
    assert {"root", "space", "state", "journal", "daemon", "watches", "open files", "mount", "store", "rights"} <= {
        found.check for found in findings
    }
    assert "problem" not in {found.verdict for found in findings}
    assert "4 directories" in said(findings, "watches").seen
    assert not (root / ".cachesync").exists()
    assert not (tmp_path / "store/sessions").exists()


def test_a_journal_that_is_sound_damaged_or_of_another_store(tmp_path: Path):
    state = tmp_path / "root/.cachesync"
    (state / "tmp").mkdir(parents=True, mode=0o700)
    state.chmod(0o700)
    path = state / "journal.db"
    journal = Journal(path)
    journal.binding.bind(Bound(f"file://{tmp_path}/store", "", None))
    config = configured(tmp_path)
    assert said(list(examine(config)), "journal").verdict == "ok"
    tried = list(examine(config))
    assert said(tried, "leases").verdict == "ok"
    assert said(tried, "birth times").verdict == "ok"
    assert "every write differently" in said(tried, "time stamps").seen or "20 ms" in said(tried, "time stamps").seen
    journal.close()
    before = path.read_bytes()
    found = said(list(examine(configured(tmp_path, store="memory://elsewhere"))), "journal")
    assert found.verdict == "problem"
    assert "is stored in" in found.seen
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=999")
    db.close()
    with pytest.raises(UsageError):
        check_sound(path)
    path.write_bytes(before[:200] + b"x" * (len(before) - 200))
    with pytest.raises(JournalDamaged):
        check_sound(path)
    assert said(list(examine(config)), "journal").verdict == "problem"
    path.unlink()
    path.mkdir()
    with pytest.raises((JournalDamaged, JournalUnavailable)):
        check_sound(path)


def test_a_socket_that_nobody_may_ask(tmp_path: Path):
    (tmp_path / "root/.cachesync").mkdir(parents=True)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    findings = list(examine(configured(tmp_path, socket=str(loop))))
    assert said(findings, "daemon").verdict == "problem"


def test_what_hangs_is_left_behind():
    def slow() -> Iterator[Finding]:
        time.sleep(5)
        yield Finding("x", "ok", "late")  # type: ignore[arg-type]

    def denied() -> list[Finding]:
        raise PermissionError(13, "Permission denied", "/x")

    begun = time.monotonic()
    (found,) = _bounded("x", 0.1, slow)
    assert time.monotonic() - begun < 3
    assert (found.check, str(found.verdict)) == ("x", "problem")
    (found,) = _bounded("x", 5, denied)
    assert "/x: Permission denied" in found.seen


def test_folders(tmp_path: Path):
    gone = probes.folder(tmp_path / "a/b/c")
    assert (gone.error, gone.parent_allowed) == ("", True)
    assert not probes.folder(Path("/proc/nothing/here")).parent_allowed or os.geteuid() == 0
    (tmp_path / "file").write_text("")
    assert probes.folder(tmp_path / "file/x").error
    (tmp_path / "link").symlink_to(tmp_path)
    led = probes.where_it_leads(tmp_path / "link")
    assert (led.path, led.real, led.error) == (str(tmp_path / "link"), str(tmp_path), None)
    assert led.kind == fuse.kind_at(str(tmp_path))


def test_limits_of_this_process_and_of_another(tmp_path: Path):
    own, other = probes.open_files(None), probes.open_files(os.getpid())
    assert own == other
    assert probes.open_files(2**22 + 1) == own
    assert probes.number(tmp_path / "none") is None
    (tmp_path / "word").write_text("word")
    assert probes.number(tmp_path / "word") is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="inotify is Linux's")
def test_watches_of_other_programs_are_counted(tmp_path: Path):
    code = (
        "import ctypes, sys; c = ctypes.CDLL(None); fd = c.inotify_init();"
        f"c.inotify_add_watch(fd, {os.fsencode(tmp_path)!r}, 2); print('ready', flush=True); sys.stdin.read()"
    )
    before = probes.inotify(tmp_path, None)
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        for _ in range(100):  # other programs begin and end between two looks
            with_it, without_it = probes.inotify(tmp_path, None), probes.inotify(tmp_path, other.pid)
            watches = with_it.watches_elsewhere - without_it.watches_elsewhere
            instances = with_it.instances_elsewhere - without_it.instances_elsewhere
            if (watches, instances) == (1, 1):
                break
        assert (watches, instances) == (1, 1)
        assert other.stdin is not None
        other.stdin.close()
    assert before.directories == 1
    assert before.counted


def test_a_dev_server_that_never_was(tmp_path: Path):
    with pytest.raises(CacheSyncError, match="none was ever started"):
        DevServer(tmp_path).attach()
    (tmp_path / "credentials.json").write_text('{"key": "k", "secret": "s"}')
    with pytest.raises(CacheSyncError, match="start it again"):
        DevServer(tmp_path).attach()
