"""P15: what is closed on one host opens on another: bytes, modes, times, links, directories."""

from __future__ import annotations

import os
import random
import shutil
import stat
from pathlib import Path
from typing import Any

from tests.conftest import MakeHost
from tests.promises.host import Host, eventually
from tests.promises.line import Line

S = "s1"


def fill(session: Path) -> None:
    """A session with everything that a tree can have."""
    dice = random.Random(15)
    for number in range(120):
        path = session / f"d{number % 7}" / f"e{number % 3}" / f"f {number}?#%é"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dice.randbytes(dice.choice([0, 1, 50, 20_000])))
        path.chmod(dice.choice([0o600, 0o644, 0o755, 0o444]))
        os.utime(path, ns=(0, 1_600_000_000_123_456_789 + number))
    (session / "large").write_bytes(dice.randbytes(20 * 1024 * 1024 + 7))
    (session / "empty/inside").mkdir(parents=True)
    (session / "empty").chmod(0o750)
    (session / "d2").chmod(0o2775)
    (session / "d3").chmod(0o1777)
    (session / "d1/link").symlink_to("../large")
    (session / "dangling").symlink_to("nowhere")
    for place in [*session.rglob("*"), session]:
        if place.is_dir() and not place.is_symlink():
            os.utime(place, ns=(0, 1_500_000_000_987_654_321))
    session.chmod(0o1750)


def picture(session: Path) -> dict[str, Any]:
    """All that P15 names, by path."""
    found: dict[str, Any] = {".": stat.S_IMODE(session.stat().st_mode)}
    for place in session.rglob("*"):
        at = place.lstat()
        what: Any = at.st_mtime_ns, stat.S_IMODE(at.st_mode)
        if place.is_symlink():
            what = os.readlink(place)
        elif place.is_file():
            what = *what, place.read_bytes()
        found[str(place.relative_to(session))] = what
    return found


def test_p15_closed_here_open_there(make_host: MakeHost):
    one, two = make_host("one"), make_host("two")
    one.start()
    fill(one.root / S)
    before = picture(one.root / S)
    assert one.run("close", S).code == 0
    assert not (one.root / S).exists()
    two.start()
    done = two.run("open", S, "--json")
    assert done.code == 0, done.err
    assert done.json["fetched"] == done.json["files"] == 121
    assert picture(two.root / S) == before
    assert two.run("status", S).code == 0, "what was just opened is not dirty"
    again = two.run("open", S, "--json")
    assert (again.code, again.json["fetched"], again.json["present"]) == (0, 0, 121)
    assert two.run("flush", S, "--json").json["uploaded"] == 0


def test_p15_without_a_daemon(make_host: MakeHost):
    one, two = make_host("one"), make_host("two")
    fill(one.root / S)
    before = picture(one.root / S)
    assert one.run("close", S, "--keep").code == 0
    assert picture(one.root / S) == before
    assert two.run("open", S).code == 0
    assert picture(two.root / S) == before
    into = two.folder / "elsewhere"
    assert two.run("open", S, "--into", str(into)).code == 0
    assert picture(into) == before


def test_p15_an_open_that_was_cut_goes_on(make_host: MakeHost, line: Line):
    one = make_host("one")
    fill(one.root / S)
    before = picture(one.root / S)
    assert one.run("close", S).code == 0
    two: Host = make_host("two", env={"S3_ENDPOINT": line.endpoint, "CACHESYNC_TRANSFER_TIMEOUT": "2s"})
    two.start()
    eventually(lambda: line.requests)
    cut_at = line.requests + 60

    def cut(data: bytes) -> bytes:
        if line.requests > cut_at:
            line.cut()
        return data

    line.spoil = cut
    broken = two.run("open", S)
    assert broken.code in (1, 4), broken
    assert not [path for path in picture(two.root / S) if path not in before], "nothing half done lies about"
    line.spoil = lambda data: data
    line.mend()
    assert two.run("open", S).code == 0
    assert picture(two.root / S) == before


def test_p15_local_changes_are_never_overwritten(make_host: MakeHost):
    one, two = make_host("one"), make_host("two")
    (one.root / S).mkdir()
    (one.root / S / "a").write_text("one's")
    (one.root / S / "b").write_text("one's")
    assert one.run("flush", S).code == 0
    (two.root / S).mkdir()
    (two.root / S / "a").write_text("two's")
    two.start()
    assert two.run("open", S).code == 0
    assert (two.root / S / "a").read_text() == "two's"
    assert (two.root / S / "b").read_text() == "one's"
    assert two.run("flush", S).code == 0
    kept = [name for name in two.objects() if name.startswith("a.conflict-")]
    assert two.object("a") == b"two's"
    assert [two.object(name) for name in kept] == [b"one's"]


def test_p15_what_left_with_its_directory_is_opened_again(host: Host):
    fill(host.root / S)
    before = picture(host.root / S)
    host.start()
    assert host.run("flush", S).code == 0
    shutil.rmtree(host.root / S)
    assert host.run("open", S).code == 0
    assert picture(host.root / S) == before
