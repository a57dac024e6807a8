"""A session that is a FUSE mount whose server died: its own trouble, and nobody else's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from cachesync.fuse import mounting
from tests.promises.host import Host, eventually

DEAD = "s3"
OTHERS = [f"s{number}" for number in range(8) if f"s{number}" != DEAD]


@pytest.fixture
def half_dead(host: Host) -> Iterator[Host]:
    """A host on which one session was stored, and lies below such a mount by now."""
    host.write("kept", "1", DEAD)
    host.stored(DEAD)
    device = mounting.mount(str(host.root / DEAD), source="dead", read_only=False, others=False)
    device.close()
    with pytest.raises(OSError, match="not connected"):
        (host.root / DEAD).stat()
    yield host
    mounting.unmount_all(str(host.root / DEAD), lazy=True)


def holds(host: Host, session: str, names: set[str]) -> bool:
    return host.keys(session) == names


def test_p13_a_dead_mount_in_the_root_holds_up_no_other_session(half_dead: Host):
    host = half_dead
    for name in OTHERS:
        host.write("a", "1", name)
    host.start()
    for name in OTHERS:
        eventually(partial(holds, host, name, {"a"}), 20, f"{name} is scanned")
        host.write("b", "2", name)
        eventually(partial(holds, host, name, {"a", "b"}), 20, f"{name} is watched")
    code, told = host.flush(DEAD)
    assert (code, told["stored"]) == (1, False)
    assert [(row["path"], "not connected" in row["error"]) for row in told["failed"]] == [(".", True)]
    assert host.run("status", DEAD).code == 4
    row = host.status(DEAD)
    assert not row["safe_to_kill"]
    assert "not connected" in row["failures"][0]["error"]
    everything = host.run("flush", "--all", "--json")
    assert everything.code == 1
    assert {row["session"]: row["stored"] for row in everything.json} == dict.fromkeys(OTHERS, True) | {DEAD: False}
    host.write("c", "3", OTHERS[-1])
    assert host.stop() == 4
    left = [row for row in host.said().splitlines() if "not stored: " in row]
    assert any("not connected" in row and f'"{DEAD}"' in row for row in left)
    assert set(host.listed(OTHERS[-1])) == {"a", "b", "c"}
    assert host.keys(DEAD) == {"kept"}, "what gives no answer is not gone"


def test_p13_a_dead_mount_is_told_of_without_a_daemon_too(half_dead: Host):
    host = half_dead
    host.write("a", "1", "s1")
    done = host.run("flush", "--all", "--json")
    assert done.code == 1
    assert {row["session"]: row["stored"] for row in done.json} == {"s1": True, DEAD: False}
    assert host.run("status", DEAD).code == 4
    mounting.unmount_all(str(host.root / DEAD), lazy=True)
    assert host.stored(DEAD)["files"] == 1
    assert host.run("status", DEAD).code == 0
