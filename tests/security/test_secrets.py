"""P16: a whole life with marked secrets, and none of them in anything that was written or said."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.conftest import MakeHost
from tests.mount.mounted import MountedHost
from tests.promises.host import Host, hosts_of
from tests.servers import SeaweedServer

SECRET, TOKEN, WRONG = (
    "MARKsecret0123456789abcdefghijklmnop",
    "MARKtoken/+=0123456789",
    "MARKwrong0123456789abcdefghijklmn",
)
PASSWORD, BEARER = "MARKpassword%2F", "MARKbearer-0123456789"
MARK = re.compile(rb"MARK[a-z]+")

COMMANDS = [
    ["config"], ["config", "--json"], ["status"], ["status", "--json"], ["doctor"], ["doctor", "--json"],
    ["explain", "s1/a.txt"], ["flush", "s1", "--json", "--timeout", "3"], ["ls", "s1"], ["cat", "s1/a.txt"],
    ["url", "s1/a.txt"], ["history", "s1/a.txt"], ["verify", "s1"], ["put", "outside.txt", "s1/put.txt"],
    ["open", "s1", "--json"], ["open", "ghost"], ["retry"], ["rm", "s1/put.txt"], ["migrate", "given"],
]  # fmt: skip


SLOW_WHEN_REFUSED = ("ls", "history", "verify", "put", "retry", "rm", "migrate")
"""As long as the others, and they say the same: that the store refuses."""


def told_of(host: Host, commands: list[list[str]], **env: str) -> bytes:
    return b"".join(
        f"$ {words}\n{done.out}\n{done.err}\n".encode("utf-8", "replace")
        for words in commands
        for done in [host.run(*words, env=env, timeout=60)]
    )


def written_by(host: Host) -> bytes:
    """Everything under the host's folder: logs, journal with its log, cache, staging, state; and every name."""
    found = []
    for folder, folders, names in os.walk(host.folder):
        found += [os.fsencode(name) for name in (*folders, *names)]
        for name in names:
            place = Path(folder, name)
            if place.is_file() and not place.is_symlink():
                found.append(place.read_bytes())
    return b"\n".join(found)


def nothing_marked(*texts: bytes) -> None:
    for text in texts:
        match = MARK.search(text)
        assert match is None, text[max(0, match.start() - 200) : match.end() + 20]


@pytest.fixture
def marked(make_host: MakeHost) -> Host:
    """A host whose session and bearer tokens are marked; the key has to be the server's."""
    host = make_host()
    (host.folder / "outside.txt").write_text("x")
    (host.folder / "given" / "m1").mkdir(parents=True)
    (host.folder / "given" / "m1" / "f").write_text("x")
    host.env |= {"CACHESYNC_HTTP_TOKEN": BEARER, "CACHESYNC_LOG_LEVEL": "debug"}
    return host


def life(host: Host, commands: list[list[str]]) -> tuple[bytes, bytes]:
    """What was said by commands with and without a daemon, before and after it crashed; and what processes show."""
    host.cold = True  # a real process, with a command line of its own
    host.start(log_level="debug")
    host.cold = False
    assert host.daemon is not None
    host.write("a.txt", "1")
    shown = Path(f"/proc/{host.daemon.pid}/cmdline").read_bytes()
    said = told_of(host, commands)
    host.stop(number=signal.SIGABRT)
    said += told_of(host, [["config"], ["flush", "s1"]])
    return said, shown


def test_p16_a_life_with_wrong_credentials(marked: Host):
    """The store refuses them all along; each refusal is told, without what was refused."""
    marked.env |= {"AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": TOKEN}
    said, shown = life(marked, [command for command in COMMANDS if command[0] not in SLOW_WHEN_REFUSED])
    nothing_marked(said, shown, marked.log.read_bytes(), written_by(marked))
    assert b"doctor" in said


def test_p16_a_life_with_right_credentials(marked: Host):
    """The server's own key is the secret; a link that is signed with it does not hold it either."""
    secret = marked.env["AWS_SECRET_ACCESS_KEY"]
    said, shown = life(marked, [command for command in COMMANDS if command[-1] != "--json"])
    for text in (said, shown, marked.log.read_bytes(), written_by(marked)):
        assert secret.encode() not in text
        assert quote(secret).encode() not in text
    nothing_marked(said, shown, marked.log.read_bytes(), written_by(marked))
    assert b"X-Amz-Signature" in said


@pytest.mark.parametrize("place", ["endpoint", "store", "file"])
def test_p16_a_password_in_an_address(marked: Host, place: str):
    """Refused or not: an address with a name and a password in it is never shown with the password."""
    server = marked.env["S3_ENDPOINT"].removeprefix("http://")
    if place == "endpoint":
        marked.env["S3_ENDPOINT"] = f"http://user:{PASSWORD}@{server}"
    elif place == "store":
        marked.env["CACHESYNC_STORE"] = f"ftp://user:{PASSWORD}@127.0.0.1:1/x"
    else:
        del marked.env["S3_ENDPOINT"]
        (marked.folder / "cachesync.toml").write_text(f'endpoint = "http://user:{PASSWORD}@{server}"\n')
    marked.write("a.txt", "1")
    said = told_of(marked, COMMANDS[:3:2] + COMMANDS[4:8:3])
    (marked.folder / "cachesync.toml").unlink(missing_ok=True)
    nothing_marked(said, written_by(marked))


def test_p16_a_secret_in_the_wrong_setting(marked: Host):
    """A value that is refused is quoted; not that of a setting which is a secret."""
    for name in ("CACHESYNC_HTTP_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        said = told_of(marked, [["config"], ["flush", "s1", "--timeout", "1"]], **{name: f"{WRONG}\n\x01é"})
        nothing_marked(said)


@pytest.fixture
def mountable(seaweed: SeaweedServer, bucket: str, tmp_path: Path) -> Iterator[MountedHost]:
    """A host that is not mounted yet."""
    with hosts_of(MountedHost, seaweed, bucket, tmp_path) as make:
        yield make()


@pytest.mark.skipif(not os.path.exists("/dev/fuse") or os.geteuid() != 0, reason="no /dev/fuse, or not root")
def test_p16_the_processes_of_a_mount_show_no_secret(mountable: MountedHost):
    """Neither in their command lines; nor do names that lead out work at the mount."""
    host = mountable
    (host.folder / "secret").write_text("SECRET")
    host.env |= {"CACHESYNC_HTTP_TOKEN": BEARER}
    host.mount()
    host.write("a", "1", "s")
    secret = host.env["AWS_SECRET_ACCESS_KEY"].encode()
    assert len(host.children()) == 2
    assert host.daemon is not None
    for pid in (host.daemon.pid, *host.children().values()):
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
        nothing_marked(line)
        assert secret not in line
    server = Path(f"/proc/{host.children()['server']}/environ").read_bytes()
    assert secret not in server, "who serves the mount does not speak to the store"
    # What a name at the mount can lead to: its own things only.
    assert ".cachesync" not in os.listdir(host.mnt)
    for name in (".cachesync", ".cachesync/journal.db", ".cachesync/control.sock", "bad name/x"):
        with pytest.raises(OSError, match=r"\S"):
            os.stat(host.mnt / name)
    for make_it in (os.mkdir, lambda path: os.symlink("/etc", path), os.mkfifo):
        with pytest.raises(OSError, match=r"\S"):
            make_it(host.mnt / ".cachesync")
    for raw in (b"\xc0\xae\xc0\xae", b"..\\secret", b"%2e%2e", b"...", b"x" * 300):
        place = os.path.join(os.fsencode(host.mnt / "s"), raw)
        try:
            Path(os.fsdecode(place)).write_text("odd")
        except OSError:
            continue
        assert (os.fsencode(host.root / "s") + b"/" + raw) in [
            os.fsencode(path) for path in (host.root / "s").iterdir()
        ]
    os.symlink(host.folder, host.mnt / "s" / "out")
    with pytest.raises(OSError, match=r"\S"):
        os.rename(host.mnt / "s" / "a", host.mnt / ".cachesync")
    with pytest.raises(OSError, match=r"\S"):
        os.link(host.mnt / "s" / "a", host.folder / "linked")
    assert sorted(path.name for path in host.root.iterdir()) == [".cachesync", "s"]
    assert (host.folder / "secret").read_text() == "SECRET"
