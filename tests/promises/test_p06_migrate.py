"""``cachesync migrate``: an existing directory is stored, whatever ends it in between, and is never written to (P6)."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import MakeHost
from tests.migrating import BYTES, FILES, PUTS, SKIPPED, TREE, make, snapshot
from tests.promises.host import Host, eventually
from tests.servers import closed_port
from tests.warm import COMMAND

MANY = 300


@pytest.fixture
def source(host: Host) -> Path:
    return make(host.folder / "source")


def many(folder: Path) -> Path:
    """Enough to be interrupted in."""
    for number in range(MANY):
        place = folder / f"s{number % 3}" / f"d{number % 7}" / f"{number:03d}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(os.urandom(20_000))
    return folder


def keys(host: Host) -> Counter[str]:
    """Every version that the bucket has, counted by key."""
    found: Counter[str] = Counter()
    for page in host.s3.get_paginator("list_object_versions").paginate(Bucket=host.bucket):
        found.update(entry["Key"] for entry in page.get("Versions", ()))
    return found


def files(found: Counter[str]) -> Counter[str]:
    return Counter({key: count for key, count in found.items() if ".cachesync/" not in key})


def start(host: Host, source: Path, **settings: str) -> subprocess.Popen[bytes]:
    """A migration that is slow enough to be ended, once it is under way."""
    migration = subprocess.Popen(
        [*COMMAND, "migrate", str(source)],
        env=host.env | {"CACHESYNC_BANDWIDTH": "500kB", "CACHESYNC_TRANSFERS": "4"} | settings,
        cwd=host.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    eventually(lambda: len(files(keys(host))) > 20, 30, "it is under way")
    assert migration.poll() is None
    return migration


def test_p06_a_source_is_stored_as_it_is_and_stays_as_it_was(host: Host, source: Path) -> None:
    before = snapshot(source)
    dry = host.run("migrate", str(source), "--dry-run", "--json")
    assert (dry.code, dry.err) == (0, "")
    assert not keys(host)
    done = host.run("migrate", str(source), "--json")
    assert (done.code, done.err) == (0, ""), "no progress without a terminal"
    for told in (dry.json, done.json):
        assert (told["source"], told["sessions"], told["files"], told["bytes"]) == (str(source), 3, FILES, BYTES)
        assert (told["sent"], told["sent_bytes"], told["present"], told["requests"]) == (FILES, BYTES, 0, PUTS)
        assert (told["failed"], told["pending"], told["conflicts"]) == ([], [], [])
        assert {row["path"] for row in told["skipped"]} == SKIPPED
    for session in ("s1", "s2", "s3"):
        kept = {path.partition("/")[2]: data for path, data in TREE.items() if data != b"left out"
                and path.startswith(f"{session}/")}  # fmt: skip
        assert host.objects(session) == kept
        assert {path for path, row in host.listed(session).items() if row["type"] == "file"} == set(kept)
    assert host.listed("s1")["link"]["target"] == "a.txt"
    again = host.run("migrate", "source")
    assert again.code == 0
    assert "sent: 0 files" in again.out
    assert f"there already, with the same checksum: {FILES} files" in again.out
    assert "S3 Standard: $0.005 per 1,000 PUT requests, $0.023 per GB and month" in again.out
    assert snapshot(source) == before
    assert not host.state.exists()


def test_p06_killed_in_the_middle_and_run_again(host: Host) -> None:
    source = many(host.folder / "source")
    before = snapshot(source)
    host.keep_versions()
    migration = start(host, source)
    migration.kill()
    migration.communicate()
    stored = files(keys(host))
    assert 20 < len(stored) < MANY
    done = host.run("migrate", str(source), "--json").json
    assert done["files"] == MANY == done["sent"] + done["present"]
    assert done["present"] >= len(stored) - 4, "but for what was on its way, nothing is sent again"
    found = files(keys(host))
    assert len(found) == MANY
    assert set(found.values()) == {1}
    assert snapshot(source) == before


def test_p06_killed_and_its_journal_lost(host: Host) -> None:
    source = many(host.folder / "source")
    host.keep_versions()
    migration = start(host, source)
    migration.kill()
    migration.communicate()
    stored = files(keys(host))
    shutil.rmtree(host.folder / ".local/state/cachesync/migrate")
    done = host.run("migrate", str(source), "--json").json
    assert done["files"] == MANY == done["sent"] + done["present"]
    assert done["present"] >= len(stored)
    assert set(files(keys(host)).values()) == {1}


def test_p06_ctrl_c_ends_it_at_once(host: Host) -> None:
    source = many(host.folder / "source")
    migration = start(host, source)
    begun = time.monotonic()
    migration.send_signal(signal.SIGINT)
    out, err = migration.communicate(timeout=20)
    assert time.monotonic() - begun < 10
    assert migration.returncode == 130
    assert (out, err) == (b"", b"")
    done = host.run("migrate", str(source), "--json").json
    assert done["files"] == MANY == done["sent"] + done["present"]
    assert done["present"] > 20


def test_p06_a_source_on_a_read_only_mount(make_host: MakeHost, tmp_path: Path) -> None:
    source = make(tmp_path / "source")
    bind = f"mount --bind {source} {source} && mount -o remount,bind,ro {source} && "
    wrap = ["unshare", "-m", "sh", "-c", bind + 'exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*wrap, "true"], check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    before = snapshot(source)
    host = make_host(wrap=wrap)
    touched = subprocess.run([*wrap, "touch", f"{source}/s1/x"], check=False, capture_output=True)
    assert touched.returncode != 0
    done = host.run("migrate", str(source), "--json")
    assert (done.code, done.json["sent"]) == (0, FILES), done.err
    assert snapshot(source) == before


def test_p06_a_source_that_may_not_be_written_to_and_one_that_may_not_be_read(humble: Host) -> None:
    source = make(humble.folder / "source")
    folders = [Path(above) for above, _, _ in os.walk(source)]
    for folder in folders:
        folder.chmod(0o555)
    (source / "s1/a.txt").chmod(0)
    (source / "s1/d/e").chmod(0)
    before = {path: facts[:-1] for path, facts in snapshot(source).items()}
    for words in (["--dry-run"], []):
        done = humble.run("migrate", str(source), "--json", *words)
        assert done.code == 1
        told = done.json
        assert [row["path"].rstrip("/") for row in told["failed"]] == ["s1/a.txt", "s1/d/e"], told["failed"]
        assert (told["sent"], told["files"]) == (FILES - 2, FILES)
    assert {path: facts[:-1] for path, facts in snapshot(source).items()} == before
    (source / "s1/a.txt").chmod(0o644)
    (source / "s1/d/e").chmod(0o555)
    done = humble.run("migrate", str(source), "--json")
    assert (done.code, done.json["sent"], done.json["present"]) == (0, 2, FILES - 2)


def test_p06_the_root_of_a_running_daemon(host: Host) -> None:
    host.write("a")
    host.start()
    done = host.run("migrate", str(host.root), "--json")
    assert done.code == 2
    assert "the daemon of this root stores it already" in done.err
    assert "cachesync flush --all" in done.err


def test_p06_what_cannot_be_migrated(host: Host, source: Path) -> None:
    assert host.run("migrate").code == 2
    assert host.run("migrate", str(host.folder / "none")).code == 2
    inside = host.run("migrate", str(source), env={"CACHESYNC_STATE": str(source / ".cachesync")})
    assert inside.code == 2
    assert "written into it" in inside.err
    assert host.run("migrate", str(source), env={"CACHESYNC_STORE": "s3://there-is-no-such-bucket"}).code == 3
    assert host.run("migrate", str(source), env={"S3_ENDPOINT": closed_port()}).code == 4
    assert host.run("migrate", str(source), "--dry-run", env={"S3_ENDPOINT": closed_port()}).code == 4
    assert not (source / ".cachesync").exists()


def test_p06_a_terminal_sees_how_far_it_is(host: Host) -> None:
    source = many(host.folder / "source")
    ours, theirs = os.openpty()
    migration = subprocess.Popen(
        [*COMMAND, "migrate", str(source)],
        env=host.env | {"CACHESYNC_BANDWIDTH": "2MB", "COLUMNS": "200"},
        cwd=host.folder,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    try:
        while piece := os.read(ours, 4096):
            seen += piece
    except OSError:  # EIO: nobody has the other end any more
        pass
    os.close(ours)
    out, _ = migration.communicate(timeout=30)
    assert migration.returncode == 0
    assert b"300 files" in out
    assert re.search(rb"source \[#+\.+\] +\d+%  \d+/300 files", seen), seen[-500:]
    assert seen.endswith(b"\r\x1b[K")
