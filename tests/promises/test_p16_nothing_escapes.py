"""P16: nothing leaves its session, nothing follows a link, and no secret is told."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from tests.promises.host import Host, eventually

EVIL = ["../x", "/etc", "a/b", ".", "..", "", "s1/..", ".cachesync", "s1\n", "%2e%2e"]


@pytest.mark.parametrize("daemon", [True, False], ids=["daemon", "alone"])
def test_p16_no_command_takes_a_session_name_that_leaves_the_root(host: Host, daemon: bool):  # noqa: FBT001
    if daemon:
        host.start()
    (host.folder / "x").mkdir()
    (host.folder / "x" / "outside.txt").write_text("outside")
    calls = [([word, "--", name], {2}) for word in ("flush", "status", "retry") for name in EVIL]
    artifacts = ["s1/../x", "s1//x", "s1/./x", "s1/a/../../x", "../x/outside.txt", "/etc/passwd", "s1/", "s1"]
    calls += [(["explain", "--", name], {2, 3}) for name in [*artifacts, *(f"{name}/file" for name in EVIL)]]
    for words, codes in calls if daemon else calls[::4]:
        done = host.run(*words)
        assert done.code in codes, (words, done)
        assert len(done.err.strip().splitlines()) == 1
    listing = host.s3.list_objects_v2(Bucket=host.bucket)
    assert not any("outside" in entry["Key"] for entry in listing.get("Contents", ()))


@pytest.mark.parametrize(
    "target",
    [
        "POST /v1/sessions/..%2Fx/flush", "POST /v1/sessions/../x/flush", "POST /v1/sessions/%2e%2e/flush?timeout=1",
        "GET /v1/explain/s1/..%2F..%2Fx", "GET /v1/explain/..%2Fx/outside.txt", "GET /v1/status?session=..%2Fx",
        "GET /v1/status?session=", "POST /v1/retry?session=%2Fetc", "GET /v1/sessions/%00", "GET /../../etc/passwd",
        "GET /v1/explain/s1/%00", "POST /v1/sessions/s1/flush?timeout=nan", "POST /v1/sessions/s1/flush?timeout=-1",
    ],
)  # fmt: skip
def test_p16_the_socket_takes_no_name_that_leaves_the_root(served: Host, target: str):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        directory = os.open(served.state, os.O_PATH)
        connection.connect(f"/proc/self/fd/{directory}/control.sock")
        os.close(directory)
        connection.sendall(f"{target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while data := connection.recv(65536):
            answer += data
    assert answer.split()[1] in (b"400", b"404"), answer
    assert b"Traceback" not in answer
    assert b"root:" not in answer


@pytest.fixture(scope="module")
def served(seaweed, tmp_path_factory):
    """One daemon for all that is asked of the socket."""
    seaweed.make_bucket("p16-served")
    host = Host(tmp_path_factory.mktemp("p16"), seaweed, "p16-served")
    host.write("a.txt", "1")
    host.start()
    yield host
    host.close()


def test_p16_links_are_stored_as_links_and_never_followed(host: Host):
    outside = host.folder / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("SECRET")
    host.write("a.txt", "1")
    host.path("passwd").symlink_to("/etc/passwd")
    host.path("dir").symlink_to(outside)
    host.path("up").symlink_to("..")
    host.path("loop").symlink_to("loop")
    host.path("sub").mkdir()
    host.path("sub/secret").symlink_to(outside / "secret.txt")
    (host.root / "linked-session").symlink_to(outside)
    host.start(scan_interval="1s")
    host.stored()
    (outside / "later.txt").write_text("SECRET TOO")
    host.path("proc").symlink_to("/proc/self")
    host.stored()
    rows = {path: row for path, row in host.listed().items() if row["type"] == "link"}
    assert {path: row["target"] for path, row in rows.items()} == {
        "passwd": "/etc/passwd",
        "dir": str(outside),
        "up": "..",
        "loop": "loop",
        "sub/secret": str(outside / "secret.txt"),
        "proc": "/proc/self",
    }
    assert host.objects() == {"a.txt": b"1"}
    assert host.flush("linked-session").code in (2, 3)
    listing = host.s3.list_objects_v2(Bucket=host.bucket)["Contents"]
    for entry in listing:
        body = host.s3.get_object(Bucket=host.bucket, Key=entry["Key"])["Body"].read()
        assert b"SECRET" not in body
        assert b"root:" not in body


def test_p16_a_directory_swapped_for_a_link_is_not_followed(host: Host):
    """Again and again, under scans and transfers: at no moment may a path lead out."""
    outside = host.folder / "outside"
    outside.mkdir()
    for number in range(30):
        (outside / f"f{number}").write_text("SECRET")
        host.write(f"d/f{number}", f"{number}")
    host.keep_versions()
    host.start(scan_interval="1s")
    real, link = host.path("d"), host.path("l")
    aside = host.path("aside")
    for _ in range(40):
        for number in range(30):
            (real / f"f{number}").write_text(os.urandom(4).hex())
        real.rename(aside)
        link.symlink_to(outside)
        link.rename(real)
        real.unlink()
        aside.rename(real)
    host.stored()
    assert host.objects() == host.local()
    pages = host.s3.get_paginator("list_object_versions").paginate(Bucket=host.bucket)
    found = [entry for page in pages for entry in page.get("Versions", ())]
    # What was read through the link would be of the size of the secret.
    for entry in found:
        if entry["Size"] == len("SECRET"):
            body = host.s3.get_object(Bucket=host.bucket, Key=entry["Key"], VersionId=entry["VersionId"])["Body"].read()
            assert body != b"SECRET", entry["Key"]


def test_p16_pipes_sockets_and_devices_are_reported_and_never_opened(host: Host):
    host.write("a.txt", "1")
    os.mkfifo(host.path("pipe"))
    with socket.socket(socket.AF_UNIX) as listener:
        directory = os.open(host.root / "s1", os.O_PATH)
        listener.bind(f"/proc/self/fd/{directory}/socket")
        os.close(directory)
        expected = {"pipe", "socket"}
        if os.geteuid() == 0:
            try:
                os.mknod(host.path("device"), stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero has no end
                expected.add("device")
            except PermissionError:
                pass
        host.start()
        host.write("b.txt", "2")
        told = host.stored(timeout=10)
        assert {item["path"] for item in told["skipped"]} == expected
        assert all(item["reason"] for item in told["skipped"])
        os.mkfifo(host.path("later-pipe"))
        host.path("a.txt").unlink()
        os.mkfifo(host.path("a.txt"))
        told = host.stored(timeout=10)
        assert {item["path"] for item in told["skipped"]} == expected | {"later-pipe", "a.txt"}
        assert host.objects() == {"b.txt": b"2"}
        assert host.stop() == 0


def test_p16_files_that_are_left_alone_in_the_root(host: Host):
    (host.root / "loose.txt").write_text("1")
    (host.root / "bad name").mkdir()
    (host.root / "bad name" / "x").write_text("1")
    (host.root / ".hidden").mkdir()
    host.write("a.txt", "1")
    host.start()
    host.stored()
    listing = host.s3.list_objects_v2(Bucket=host.bucket)["Contents"]
    ours = {host.key(".cachesync/manifest.json"), "sessions/.cachesync/store.json"}
    assert {entry["Key"] for entry in listing} == {host.key("a.txt"), *ours}
    eventually(lambda: "loose.txt" in host.said() and "bad name" in host.said(), 5)


def test_p16_our_own_name_in_a_session_is_refused_not_overwritten(host: Host):
    """A session's .cachesync/ is ours in the store: a file of an agent there must not become the manifest."""
    host.write("a.txt", "1")
    host.write(".cachesync/manifest.json", '{"format": 1, "entries": []}')
    host.start()
    done = host.flush(timeout=10)
    assert done.code == 1
    assert any(".cachesync" in item["path"] for item in done.json["failed"])
    assert host.manifest() is None or "a.txt" in host.listed()


def test_p16_the_state_is_for_its_owner_only(host: Host):
    old = os.umask(0)
    try:
        host.start()
    finally:
        os.umask(old)
    host.write("a.txt", "1")
    host.stored()
    host.write("big.bin", b"x" * (20 << 20))
    host.stored()
    _check_modes(host.state)
    host.stop()
    _check_modes(host.state)


def _check_modes(state: Path) -> None:
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    for folder, folders, files in os.walk(state):
        for name in folders:
            assert stat.S_IMODE(os.lstat(os.path.join(folder, name)).st_mode) == 0o700, name
        for name in files:
            mode = os.lstat(os.path.join(folder, name)).st_mode
            assert stat.S_IMODE(mode) == 0o600, name
            assert not mode & 0o111


def test_p16_a_state_folder_that_was_open_to_all_is_closed(host: Host):
    host.state.mkdir(mode=0o777)
    host.state.chmod(0o777)
    host.write("a.txt", "1")
    host.start()
    host.stored()
    _check_modes(host.state)


def test_p16_secrets_are_never_told(host: Host):
    secret = host.env["AWS_SECRET_ACCESS_KEY"]
    host.env |= {"CACHESYNC_HTTP_TOKEN": "TOKEN-0123456789", "AWS_SESSION_TOKEN": ""}
    host.start(log_level="debug")
    host.write("a.txt", "1")
    host.stored()
    told = ""
    for words in (
        ["config"],
        ["config", "--json"],
        ["status"],
        ["status", "--json"],
        ["explain", "s1/a.txt"],
        ["flush", "s1"],
    ):
        done = host.run(*words)
        assert done.code == 0
        told += done.out + done.err
    wrong = "WRONG-SECRET-0123456789-abcdefghij"
    done = host.run("flush", "s2", env={"AWS_SECRET_ACCESS_KEY": wrong, "CACHESYNC_ROOT": str(host.folder / "other")})
    told += done.out + done.err
    host.stop()
    host.env["AWS_SECRET_ACCESS_KEY"] = wrong
    host.write("b.txt", "2")
    done = host.run("flush", "s1", "--timeout", "3", env={"CACHESYNC_DEBUG": ""})
    assert done.code == 1
    told += done.out + done.err + host.said()
    assert secret not in told
    assert wrong not in told
    assert "TOKEN-0123456789" not in told
    for path in host.folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            assert secret.encode() not in data, path
            assert wrong.encode() not in data, path
            assert b"TOKEN-0123456789" not in data, path


def test_p16_a_command_line_takes_and_shows_no_secret(host: Host):
    host.cold = True
    host.start()
    assert host.daemon is not None
    line = Path(f"/proc/{host.daemon.pid}/cmdline").read_bytes()
    assert host.env["AWS_SECRET_ACCESS_KEY"].encode() not in line
    assert host.run("run", "--http-token", "x").code == 2
    assert "--http-token" not in host.run("--help").out


def test_p16_a_foreign_manifest_and_foreign_keys_do_no_harm(host: Host):
    host.foreign_put(
        ".cachesync/manifest.json",
        b'{"format": 1, "entries": [{"path": "../../evil", "type": "file", "size": 1, "sha256": "x", "version": "1",'
        b' "mode": "0644", "mtime": "1.0"}, {"path": "/etc/cron.d/evil", "type": "link", "mtime": "1", "target": "x"},'
        b' {"path": "fine", "type": "dir", "mode": "0755", "mtime": "1.0"}, {"path": 7}, 7, null]}',
    )
    host.write("a.txt", "1")
    host.start()
    host.stored()
    assert {path for path in host.listed() if ".." in path or path.startswith("/")} == set()
    assert "a.txt" in host.listed()
    assert sorted(path.name for path in host.root.iterdir()) == [".cachesync", "s1"]
    assert sorted(path.name for path in (host.root / "s1").iterdir()) == ["a.txt"]
