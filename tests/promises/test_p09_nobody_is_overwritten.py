"""P9: another writer's bytes are never lost, and never lost silently."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest

from tests.promises.host import Host, eventually, wire
from tests.promises.line import Line

KEPT = r"{}\.conflict-\d{{8}}T\d{{6}}Z-[A-Za-z0-9]+"


def _kept(host: Host, name: str) -> dict[str, bytes]:
    pattern = re.compile(KEPT.format(re.escape(name)))
    return {key: body for key, body in host.objects().items() if pattern.fullmatch(key)}


@pytest.mark.parametrize("versioned", [False, True])
def test_p09_another_writers_bytes_are_kept_beside_the_file(host: Host, versioned: bool):  # noqa: FBT001
    if versioned:
        host.keep_versions()
    host.start()
    host.write("d/a.txt", "first")
    host.stored()
    host.foreign_put("d/a.txt", b"theirs")
    host.write("d/a.txt", "ours")
    done = host.flush()
    assert done.code == 0
    assert host.object("d/a.txt") == b"ours"
    kept = _kept(host, "d/a.txt")
    assert list(kept.values()) == [b"theirs"]
    (name,) = kept
    assert done.json["conflicts"] == [{"path": "d/a.txt", "kept_as": name}]
    assert name in host.listed()
    assert "kept_as" in host.said()
    assert host.stored()["conflicts"] == [], "told once"
    assert host.path("d/a.txt").read_text() == "ours"


def test_p09_status_tells_of_a_conflict(host: Host):
    host.start()
    host.write("a.txt", "first")
    host.stored()
    host.foreign_put("a.txt", b"theirs")
    host.write("a.txt", "ours")
    eventually(lambda: host.object("a.txt") == b"ours")
    told = host.run("status", "--json").json
    assert "conflict" in f"{told['sessions']} {told['notes']}"
    assert "conflict" in host.run("status").out.replace(str(host.root), "")


def test_p09_a_conflict_found_unasked_is_told_by_the_next_flush(host: Host):
    host.start()
    host.write("a.txt", "first")
    host.stored()
    host.foreign_put("a.txt", b"theirs")
    host.write("a.txt", "ours")
    eventually(lambda: host.object("a.txt") == b"ours")
    host.kill()
    host.start()
    (conflict,) = host.stored()["conflicts"]
    assert host.object(conflict["kept_as"]) == b"theirs"


def test_p09_an_object_that_another_writer_changed_is_left_alone(host: Host):
    host.start(scan_interval="1s")
    host.write("a.txt", "ours")
    host.write("b.txt", "b")
    host.stored()
    host.foreign_put("a.txt", b"theirs")
    host.write("b.txt", "changed")
    host.stored()
    time.sleep(1.5)
    host.stored()
    assert host.objects() == {"a.txt": b"theirs", "b.txt": b"changed"}


def test_p09_what_another_writer_deleted_is_stored_again_when_it_changes(host: Host):
    host.start()
    host.write("a.txt", "first")
    host.stored()
    host.foreign_delete("a.txt")
    host.write("a.txt", "second")
    assert host.stored()["conflicts"] == []
    assert host.objects() == {"a.txt": b"second"}


def test_p09_what_was_deleted_here_but_changed_there_stays(host: Host):
    host.start()
    host.write("a.txt", "first")
    host.write("b.txt", "b")
    host.stored()
    host.foreign_put("a.txt", b"theirs")
    host.path("a.txt").unlink()
    told = host.stored()
    assert host.objects() == {"a.txt": b"theirs", "b.txt": b"b"}
    assert [item["path"] for item in told["conflicts"]] == ["a.txt"]
    assert host.listed()["a.txt"]["size"] == 6
    assert not host.path("a.txt").exists()


def test_p09_what_was_deleted_here_and_there_is_deleted(host: Host):
    host.start()
    host.write("a.txt", "first")
    host.stored()
    host.path("a.txt").unlink()
    host.foreign_delete("a.txt")
    told = host.stored()
    assert told["conflicts"] == []
    assert host.objects() == {}


def test_p09_the_same_bytes_by_another_writer_are_no_conflict(host: Host):
    host.start()
    host.write("a.txt", "first")
    host.stored()
    host.foreign_put("a.txt", b"second")
    host.write("a.txt", "second")
    assert host.stored()["conflicts"] == []
    assert host.objects() == {"a.txt": b"second"}
    host.foreign_put("new.txt", b"both have it")
    host.write("new.txt", "both have it")
    assert host.stored()["conflicts"] == []
    assert set(host.keys()) == {"a.txt", "new.txt"}
    assert host.head("new.txt")["ETag"].strip('"') == host.listed()["new.txt"]["version"]


def test_p09_what_stood_there_before_the_session_began_is_kept(host: Host):
    host.foreign_put("a.txt", b"theirs, from before")
    host.foreign_put("other/b.txt", b"only theirs")
    host.write("a.txt", "ours")
    host.start()
    (conflict,) = host.stored()["conflicts"]
    assert host.object("a.txt") == b"ours"
    assert host.object(conflict["kept_as"]) == b"theirs, from before"
    assert host.object("other/b.txt") == b"only theirs"
    assert "other/b.txt" in host.listed()


def test_p09_a_lost_reply_is_no_conflict(wired: Host, line: Line):
    wired.start()
    wired.write("warm.txt")
    wired.stored()
    line.lose_reply_to = b"PUT /" + wired.bucket.encode() + b"/" + wire(wired.key("a.txt"))
    wired.write("a.txt", "ours")
    told = wired.stored()
    assert line.lost == 1
    assert told["conflicts"] == []
    assert wired.objects() == {"warm.txt": b"x", "a.txt": b"ours"}


def test_p09_a_lost_reply_and_a_change_before_the_next_try_is_no_conflict(wired: Host, line: Line):
    wired.start()
    wired.write("a.txt", "first")
    wired.stored()
    line.lose_reply_to = b"PUT /" + wired.bucket.encode() + b"/" + wire(wired.key("a.txt"))
    wired.write("a.txt", "second")
    eventually(lambda: line.lost == 1, 5)
    line.cut()
    wired.write("a.txt", "third")
    line.mend()
    assert wired.stored()["conflicts"] == []
    assert wired.objects() == {"a.txt": b"third"}


def test_p09_a_lost_reply_and_a_kill_is_no_conflict(wired: Host, line: Line):
    wired.start()
    wired.write("a.txt", "first")
    wired.stored()
    line.lose_reply_to = b"PUT /" + wired.bucket.encode() + b"/" + wire(wired.key("b.txt"))
    wired.write("b.txt", "lost")
    eventually(lambda: line.lost == 1, 5)
    wired.kill()
    wired.write("b.txt", "other")
    wired.start()
    assert wired.stored()["conflicts"] == []
    assert wired.objects() == {"a.txt": b"first", "b.txt": b"other"}


def test_p09_a_lost_reply_to_a_delete_is_no_conflict(wired: Host, line: Line):
    wired.start()
    wired.write("a.txt", "first")
    wired.stored()
    line.lose_reply_to = b"DELETE /" + wired.bucket.encode() + b"/" + wire(wired.key("a.txt"))
    wired.path("a.txt").unlink()
    told = wired.stored()
    assert line.lost == 1
    assert told["conflicts"] == []
    assert wired.objects() == {}
    assert wired.listed() == {}


def test_p09_a_lost_reply_for_the_manifest_is_no_conflict(wired: Host, line: Line):
    wired.start()
    wired.write("a.txt", "first")
    line.lose_reply_to = b"PUT /" + wired.bucket.encode() + b"/" + wire(wired.key(".cachesync/manifest.json"))
    told = wired.stored()
    assert line.lost == 1
    assert told["conflicts"] == []
    assert set(wired.listed()) == {"a.txt"}


def test_p09_two_hosts_that_write_one_file_lose_nothing(make_host: Callable[..., Host]):
    one, two = make_host("one"), make_host("two")
    one.start()
    two.start()
    written = set()
    for round_ in range(3):
        for host in (one, two):
            body = f"{host.folder.name} {round_}"
            host.write("shared.txt", body)
            host.write(f"{host.folder.name}.txt", body)
            written.add(body.encode())
            host.stored()
    objects = one.objects()
    shared = {body for key, body in objects.items() if key.startswith("shared.txt")}
    # What a host replaced of its own is gone; what one host found of the other's is not.
    assert {b"one 2", b"two 2"} <= shared <= written
    assert objects["shared.txt"] == b"two 2"
    assert objects["one.txt"] == b"one 2"
    assert objects["two.txt"] == b"two 2"
    assert {"one.txt", "two.txt", "shared.txt"} <= set(two.listed())


def test_p09_a_large_file_that_another_writer_changed_is_kept_too(host: Host):
    host.start()
    host.write("big.bin", b"1" * (17 << 20))
    host.stored()
    host.foreign_put("big.bin", b"theirs")
    host.write("big.bin", b"2" * (17 << 20))
    told = host.stored(timeout=40)
    assert len(told["conflicts"]) == 1
    assert list(_kept(host, "big.bin").values()) == [b"theirs"]
    assert host.object("big.bin") == b"2" * (17 << 20)


def test_p09_another_hosts_manifest_is_merged(host: Host):
    host.start()
    host.write("a.txt", "a")
    host.stored()
    host.foreign_put(".cachesync/manifest.json", b"not even JSON")
    host.foreign_put("theirs.txt", b"theirs")
    host.write("b.txt", "b")
    host.stored()
    assert set(host.listed()) == {"a.txt", "b.txt", "theirs.txt"}
