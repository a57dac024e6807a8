"""P14: any UTF-8 name whose key fits comes back the same; any other is reported."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from tests.promises.host import Host
from tests.servers import MotoServer

NAMES = [
    "with space",
    " leading and trailing ",
    "new\nline",
    "tab\there",
    "carriage\rreturn",
    "query?versionId=1",
    "a?b=c&d=e#fragment",
    "[*]",
    "star*glob?[a-z]",
    "%2F",
    "%",
    "%zz%00",
    "plus+plus",
    unicodedata.normalize("NFC", "é-composed"),
    unicodedata.normalize("NFD", "é-composed"),
    "日本語",
    "\U0001f600 emoji \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "right\u202eto left",
    "zero\u200bwidth",
    "-rf",
    "--help",
    "trailing dot.",
    "trailing dots...",
    "...",
    "..hidden",
    "~tilde",
    "$(reboot)",
    "`id`",
    "a'quote",
    'a"double',
    "pipe|less<more>",
    "semi;colon:comma,",
    "{brace}",
    "^caret",
    "@at!",
    "&amp;<xml>",
    "CON",
    "UPPER",
    "upper",
    "null",
    "x" * 255,
    "é" * 127,
    "\U0001f600" * 63,
    "line\u2028separator",
    "nbsp\u00a0",
    "\ufeffbom",
    "high\U0010fffd",
]
CONTROLS = ["control\x01", "bell\x07", "escape\x1b[31m", "delete\x7f", "c1\x85"]


def _same(host: Host, names: list[str], told: Any) -> None:
    assert told["files"] == len(host.local())
    assert host.keys() == set(host.local())
    assert host.objects() == host.local()
    assert {path for path, row in host.listed().items() if row["type"] == "file"} == set(host.local())
    assert set(names) <= set(host.local())


def test_p14_odd_names_come_back_the_same(host: Host):
    host.start()
    for number, name in enumerate(NAMES):
        host.write(name, f"{number}")
    _same(host, NAMES, host.stored())
    for number, name in enumerate(NAMES):
        host.write(name, f"again {number}")
    _same(host, NAMES, host.stored())
    for name in NAMES[::2]:
        host.path(name).unlink()
    _same(host, NAMES[1::2], host.stored())


def test_p14_odd_directories_come_back_the_same(host: Host):
    host.start()
    names = [f"{name}/{name}" for name in NAMES if len(name.encode()) < 200]
    for number, name in enumerate(names):
        host.write(name, f"{number}")
    told = host.stored()
    _same(host, names, told)
    assert {path for path, row in host.listed().items() if row["type"] == "dir"} == {n.split("/")[0] for n in names}


def test_p14_odd_names_are_renamed(host: Host):
    host.start()
    for number in range(len(NAMES)):
        host.write(f"plain/{number}", f"{number}")
    host.stored()
    for number, name in enumerate(NAMES):
        host.path(f"plain/{number}").rename(host.path(name))
    _same(host, NAMES, host.stored())


@pytest.mark.parametrize("name", CONTROLS, ids=ascii)
def test_p14_control_characters_come_back_or_are_reported(host: Host, name: str):
    """Not every store can list such a key; what is not stored must be said."""
    host.start()
    host.write(name, "1")
    host.write("plain", "2")
    done = host.flush(timeout=5)
    if done.code == 0:
        assert host.objects() == host.local()
    else:
        assert done.code == 1
        assert [item["path"] for item in done.json["failed"]] == [name]
    assert host.object("plain") == b"2"


@pytest.mark.parametrize("name", ["back\\slash", "back\\", "\\"], ids=ascii)
def test_p14_a_backslash_comes_back_or_is_reported(host: Host, name: str):
    """SeaweedFS takes it for a slash."""
    host.start()
    host.write(name, "1")
    host.write("plain", "2")
    done = host.flush(timeout=5)
    if done.code == 0:
        assert host.objects() == host.local()
    else:
        assert done.code == 1
        assert [item["path"] for item in done.json["failed"]] == [name]
        assert host.objects() == {"plain": b"2"}


def test_p14_two_names_never_share_an_object(host: Host):
    host.start()
    host.write("back/slash", "with a slash")
    host.stored()
    host.write("back\\slash", "with a backslash")
    done = host.flush(timeout=5)
    assert host.object("back/slash") == b"with a slash"
    assert done.code == (0 if host.objects() == host.local() else 1)


def test_p14_a_backslash_comes_back_from_a_store_that_knows_it(tmp_path: Path, moto: MotoServer, bucket: str):
    moto.make_bucket(bucket)
    host = Host(tmp_path / "host", moto, bucket)
    try:
        # moto's router takes no line ends.
        names = ["back\\slash", "back/slash", "\\", *(name for name in NAMES if "\n" not in name and "\r" not in name)]
        for number, name in enumerate(names):
            host.write(name, f"{number}")
        _same(host, names, host.stored())
    finally:
        host.close()


def test_p14_a_name_that_is_not_utf8_is_reported_and_the_others_are_stored(host: Host):
    host.start()
    host.write("fine.txt", "1")
    with open(os.fsencode(host.root / "s1") + b"/latin-\xe9.txt", "wb") as file:
        file.write(b"2")
    os.mkdir(os.fsencode(host.root / "s1") + b"/dir-\xff")
    with open(os.fsencode(host.root / "s1") + b"/dir-\xff/inner", "wb") as file:
        file.write(b"3")
    done = host.flush(timeout=10)
    assert done.code == 1
    assert done.seconds < 8
    failed = {item["path"]: item["error"] for item in done.json["failed"]}
    assert set(failed) >= {"latin-\\xe9.txt", "dir-\\xff/inner"}
    assert "UTF-8" in failed["latin-\\xe9.txt"]
    assert host.keys() == {"fine.txt"}
    assert host.run("flush", "s1", "--timeout", "5").code == 1
    assert host.status()["failed"] >= 2
    os.rename(os.fsencode(host.root / "s1") + b"/latin-\xe9.txt", host.path("latin-é.txt"))
    os.rename(os.fsencode(host.root / "s1") + b"/dir-\xff", host.path("dir-ÿ"))
    host.stored()
    assert host.objects() == host.local()


def test_p14_a_link_that_no_manifest_can_show_is_reported(host: Host):
    host.start()
    host.write("fine.txt", "1")
    os.symlink(b"target-\xe9", os.fsencode(host.root / "s1") + b"/link")
    done = host.flush(timeout=10)
    assert done.code == 1
    assert [item["path"] for item in done.json["failed"]] == ["link"]
    assert host.keys() == {"fine.txt"}


def _path_of(length: int) -> str:
    parts = []
    while length > 200:
        parts.append("d" * 100)
        length -= 101
    return "/".join([*parts, "f" * length])


def test_p14_a_key_of_1024_bytes_fits_and_one_of_1025_does_not(host: Host):
    host.start()
    room = 1024 - len(host.key(""))
    fits, too_long = _path_of(room), _path_of(room + 1)
    assert len(host.key(fits)) == 1024
    host.write(fits, "1")
    host.stored()
    assert host.objects() == {fits: b"1"}
    host.write(too_long, "2")
    done = host.flush(timeout=10)
    assert done.code == 1
    assert [item["path"] for item in done.json["failed"]] == [too_long]
    assert host.objects() == {fits: b"1"}
    host.path(too_long).unlink()
    host.stored()


def test_p14_the_key_counts_bytes_not_characters_and_the_prefix_too(make_host):
    host = make_host(prefix="some/prefix")
    host.start()
    room = 1024 - len(host.key(""))
    name = "é" * 100 + "/" + "é" * 100 + "/" + "é" * 100 + "/" + "é" * 100 + "/"
    name += "x" * (room - len(name.encode()))
    host.write(name, "1")
    host.stored()
    assert host.objects() == {name: b"1"}
    host.write(name + "x", "2")
    assert host.flush(timeout=5).code == 1


def test_p14_commands_take_odd_names(host: Host):
    host.start()
    for name in ("a b", "new\nline", "query?versionId=1", "%2F", "-rf", "a'b", "é" * 100, "#", "+"):
        host.write(name, "1")
    host.stored()
    for name in host.local():
        done = host.run("explain", f"s1/{name}", "--json")
        assert done.code == 0, done.err
        assert done.json["path"] == name
        assert done.json["key"] == host.key(name)
        assert done.json["state"] == "clean"
    assert "\x1b" not in host.run("status").out


def test_p14_a_terminal_is_not_commanded_by_a_name(humble: Host):
    humble.start()
    humble.write("evil\x1b[2Jname\nfake line", "1").chmod(0)
    done = humble.run("flush", "s1", "--timeout", "5")
    assert done.code == 1
    assert "\x1b" not in done.out + done.err
    assert "\nfake line" not in done.out
    assert "\x1b" not in humble.said()
    assert "\x1b" not in humble.run("status", "s1").out


@pytest.mark.parametrize("daemon", ["running", "none"])
def test_p14_a_directory_that_is_no_session_is_named_by_flush_all(host: Host, daemon: str):
    host.write("a", "1")
    (host.root / "my session").mkdir()
    (host.root / "my session/report.md").write_text("nobody stores it")
    (host.root / "lost+found").mkdir()
    (host.root / "note.txt").write_text("no directory")
    if daemon == "running":
        host.start()
    done = host.run("flush", "--all")
    assert (done.code, "my session: NOT stored" in done.out) == (1, True), done
    assert "s1: stored, 1 file" in done.out
    rows = host.run("flush", "--all", "--json").json
    assert {row["session"]: row["stored"] for row in rows} == {"s1": True, "my session": False}
    assert host.stored()["files"] == 1, "one session is another question"
    (host.root / ".cachesyncignore").write_text("/my session/\n")
    assert host.run("flush", "--all").code == 0
    (host.root / ".cachesyncignore").unlink()
    (host.root / "my session").rename(host.root / "my-session")
    assert host.run("flush", "--all").code == 0
    assert host.object("report.md", "my-session") == b"nobody stores it"
