"""What another host stored last is what a host shows that asked for it, also where it has an older version."""

from __future__ import annotations

import os

import pytest

from tests.mount.conftest import MakeMounted
from tests.mount.mounted import MountedHost

pytestmark = [pytest.mark.s3, pytest.mark.timeout(120)]


@pytest.fixture
def behind(make_mounted: MakeMounted) -> MountedHost:
    """A host that has clean files of which another host has stored newer versions, and one that it has changed."""
    first, second = make_mounted("first").mount(), make_mounted("second").mount()
    (first.mnt / "s").mkdir()
    for name in ("f", "mine", "same"):
        (first.mnt / "s" / name).write_bytes(b"version 1")
    (first.mnt / "s" / "link").symlink_to("version-1")
    first.stored("s")
    assert second.run("open", "s").code == 0
    (second.mnt / "s" / "f").write_bytes(b"version 2 is longer")
    second.stored("s")
    return first


@pytest.mark.parametrize("verb", [("open", "--lazy"), ("evict",), ("open",)], ids=" ".join)
def test_the_newest_version_is_shown(behind: MountedHost, verb: tuple[str, ...]):
    done = behind.run(verb[0], "s", *verb[1:], "--json")
    assert done.code == 0, done.err
    assert done.json.get("kept", []) == []
    assert os.stat(behind.mnt / "s" / "f").st_size == len(b"version 2 is longer")
    assert (behind.mnt / "s" / "f").read_bytes() == b"version 2 is longer"
    assert (behind.mnt / "s" / "same").read_bytes() == b"version 1"
    again = behind.stored("s")
    assert (again["uploaded"], again["conflicts"]) == (0, [])


def test_only_what_is_behind_is_dropped(behind: MountedHost):
    (behind.mnt / "s" / "mine").write_bytes(b"changed here")
    with (behind.mnt / "s" / "f").open("rb") as reader:
        assert behind.run("open", "s", "--lazy").code == 0
        assert not (behind.root / "s" / "f").exists()
        assert sorted(os.listdir(behind.root / "s")) == ["link", "mine", "same"]
        assert reader.read() == b"version 1"
    assert (behind.mnt / "s" / "mine").read_bytes() == b"changed here"
    assert (behind.mnt / "s" / "f").read_bytes() == b"version 2 is longer"


def test_what_is_in_use_stays_as_it_is(behind: MountedHost):
    with (behind.mnt / "s" / "f").open("ab") as writer:
        assert behind.run("open", "s", "--lazy").code == 0
        assert (behind.root / "s" / "f").read_bytes() == b"version 1"
        writer.write(b" and more")
    assert (behind.mnt / "s" / "f").read_bytes() == b"version 1 and more"
    assert len(behind.stored("s")["conflicts"]) == 1  # P9
