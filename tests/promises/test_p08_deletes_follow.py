"""P8: a file's deletion reaches the store, soon and not too soon, and never a great many at once unasked."""

from __future__ import annotations

import shutil
import time

import pytest

from tests.promises.host import Host, eventually
from tests.promises.line import Line


def _fill(host: Host, count: int, folder: str = "d") -> None:
    for number in range(count):
        host.write(f"{folder}/f{number}", f"{number}")


def test_p08_a_delete_follows_after_two_seconds(host: Host):
    host.start(delete_settle="2s")
    _fill(host, 3)
    host.stored()
    host.path("d/f0").unlink()
    begun = time.monotonic()
    while time.monotonic() - begun < 1.7:
        assert host.object("d/f0") is not None, "believed too soon"
        time.sleep(0.1)
    eventually(lambda: host.keys() == {"d/f1", "d/f2"}, 5)


def test_p08_each_delete_of_a_session_puts_the_belief_off(host: Host):
    host.start(delete_settle="1s")
    _fill(host, 8)
    host.stored()
    for number in range(6):
        host.path(f"d/f{number}").unlink()
        time.sleep(0.4)
        assert len(host.keys()) == 8, "there were more to come"
    eventually(lambda: host.keys() == {"d/f6", "d/f7"}, 5)


def test_p08_an_rm_of_a_session_is_under_way_while_it_is_at_what_is_never_stored(host: Host):
    host.write(".cachesyncignore", "node_modules/\n")
    host.start(delete_settle="1s")
    _fill(host, 3)
    for number in range(8):
        host.write(f"node_modules/m{number}", "x")
    host.stored()
    kept = host.keys()
    shutil.rmtree(host.path("d"))
    for number in range(8):
        host.path(f"node_modules/m{number}").unlink()
        time.sleep(0.3)
        assert host.keys() == kept, "there was more to come"
    shutil.rmtree(host.path("").parent / host.path("").name)
    time.sleep(1.5)
    assert host.keys() == kept, "a session that is removed whole stays in the store"


def test_p08_a_flush_believes_at_once(host: Host):
    host.start(delete_settle="1h")
    _fill(host, 5)
    host.stored()
    host.path("d/f0").unlink()
    host.path("d/f1").unlink()
    time.sleep(0.5)
    assert len(host.keys()) == 5
    told = host.stored()
    assert told["deleted"] == 2
    assert host.keys() == {"d/f2", "d/f3", "d/f4"}
    assert set(host.listed()) == {"d", "d/f2", "d/f3", "d/f4"}


def test_p08_what_comes_back_in_time_is_not_deleted(host: Host):
    host.keep_versions()
    host.start(delete_settle="1s")
    path = host.write("a.txt", "1")
    host.stored()
    aside = host.folder / "aside"
    path.rename(aside)
    time.sleep(0.3)
    aside.rename(path)
    time.sleep(1.5)
    assert host.objects() == {"a.txt": b"1"}
    path.unlink()
    host.write("a.txt", "2")
    eventually(lambda: host.object("a.txt") == b"2")
    time.sleep(1.2)
    assert host.object("a.txt") == b"2"
    assert host.versions("a.txt") == [b"1", b"2"]
    pages = host.s3.list_object_versions(Bucket=host.bucket, Prefix=host.key("a.txt"))
    assert not pages.get("DeleteMarkers")


def test_p08_all_content_of_a_session_that_stands(host: Host):
    host.start()
    _fill(host, 60)
    host.write("top.txt", "x")
    host.path("link").symlink_to("top.txt")
    host.stored()
    for path in list((host.root / "s1").iterdir()):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    eventually(lambda: host.keys() == set(), 10)
    host.stored()
    assert host.listed() == {}


def test_p08_too_many_deletes_at_once_are_held(host: Host):
    _fill(host, 150, "doomed")
    _fill(host, 50, "kept")
    host.start()
    host.stored()
    shutil.rmtree(host.path("doomed"))
    time.sleep(1)
    assert len(host.keys()) == 200
    done = host.flush(timeout=10)
    assert done.code == 1
    assert done.json["stored"] is False
    assert done.seconds < 10
    assert len(done.json["failed"]) == 150
    assert all(item["path"].startswith("doomed/") for item in done.json["failed"])
    plain = host.run("flush", "s1", "--timeout", "10")
    assert plain.code == 1
    assert "--confirm-deletes" in plain.out + plain.err, "the mend is named"
    assert len(host.keys()) == 200
    assert host.status()["failed"] == 150
    host.write("new.txt", "others are not held up")
    eventually(lambda: host.object("new.txt"), 5)
    told = host.stored("s1", "--confirm-deletes")
    assert told["deleted"] == 150
    assert host.keys() == set(host.local())
    assert {path for path, row in host.listed().items() if row["type"] == "file"} == set(host.local())


def test_p08_the_guard_forgets_a_confirmation(host: Host):
    """It is for what was gone when it was given, not for what goes later."""
    _fill(host, 150, "one")
    _fill(host, 120, "two")
    host.start()
    host.stored()
    shutil.rmtree(host.path("one"))
    host.stored("s1", "--confirm-deletes")
    assert len(host.keys()) == 120
    shutil.rmtree(host.path("two"))
    assert host.flush(timeout=10).code == 1
    assert len(host.keys()) == 120


def test_p08_held_deletes_whose_files_come_back_are_forgotten(host: Host):
    _fill(host, 150)
    host.start()
    host.stored()
    aside = host.folder / "aside"
    host.path("d").rename(aside)
    assert host.flush(timeout=10).code == 1
    aside.rename(host.path("d"))
    host.stored()
    assert host.objects() == host.local()
    assert len(host.keys()) == 150


def test_p08_the_guard_holds_over_a_restart_and_without_a_daemon(host: Host):
    _fill(host, 150)
    host.stored()
    shutil.rmtree(host.path("d"))
    assert host.flush(timeout=10).code == 1
    host.start()
    time.sleep(1)
    assert len(host.keys()) == 150
    host.stop()
    host.stored("s1", "--confirm-deletes")
    assert host.keys() == set()


def test_p08_half_of_a_session_or_a_hundred_are_not_held(host: Host):
    _fill(host, 100, "all")
    host.start()
    host.stored()
    shutil.rmtree(host.path("all"))
    host.stored()
    assert host.keys() == set()


def test_p08_a_file_a_directory_and_a_link_take_each_others_place(host: Host):
    host.start()
    host.write("a", "a file")
    host.write("b/inner", "in a directory")
    host.write("c", "to be a link")
    host.path("d").symlink_to("a")
    host.write("e/inner", "1")
    host.stored()
    host.path("a").unlink()
    host.write("a/inner", "was a file")
    shutil.rmtree(host.path("b"))
    host.write("b", "was a directory")
    host.path("c").unlink()
    host.path("c").symlink_to("b")
    host.path("d").unlink()
    host.write("d", "was a link")
    shutil.rmtree(host.path("e"))
    host.path("e").symlink_to("a")
    host.stored()
    assert host.objects() == host.local() == {"a/inner": b"was a file", "b": b"was a directory", "d": b"was a link"}
    rows = host.listed()
    assert {path: row["type"] for path, row in rows.items()} == {
        "a": "dir", "a/inner": "file", "b": "file", "c": "link", "d": "file", "e": "link",
    }  # fmt: skip


def test_p08_a_file_a_directory_and_a_link_take_each_others_place_unasked(host: Host):
    host.start()
    host.write("a", "a file")
    host.write("b/inner", "in a directory")
    eventually(lambda: host.keys() == {"a", "b/inner"})
    host.path("a").unlink()
    host.write("a/inner", "was a file")
    shutil.rmtree(host.path("b"))
    host.write("b", "was a directory")
    eventually(lambda: host.objects() == {"a/inner": b"was a file", "b": b"was a directory"}, 15)


def test_p08_a_renamed_tree_moves_in_the_store(host: Host):
    host.start()
    _fill(host, 50)
    host.stored()
    host.path("d").rename(host.path("e"))
    host.stored()
    assert host.objects() == host.local()
    assert host.keys() == {f"e/f{number}" for number in range(50)}


def test_p08_a_rename_never_leaves_the_store_without_the_bytes(host: Host):
    """First the new name, then the old one goes."""
    host.start()
    _fill(host, 20)
    host.stored()
    for source, target in (("d", "e"), ("e", "f"), ("f", "g")):  # in the order in which a listing goes
        host.path(source).rename(host.path(target))

        def moved(target: str = target) -> bool:
            keys = host.keys()
            assert len({key.rpartition("/")[2] for key in keys}) == 20, "not even for a moment"
            return all(key.startswith(f"{target}/") for key in keys)

        deadline = time.monotonic() + 10
        while not moved():
            assert time.monotonic() < deadline
    assert host.objects() == host.local()


@pytest.mark.parametrize("outage", ["cut", "mute"])
def test_p08_deletes_wait_for_a_store_that_is_down(wired: Host, line: Line, outage: str):
    wired.start(transfer_timeout="2s")
    _fill(wired, 5)
    wired.stored()
    getattr(line, outage)()
    wired.path("d/f0").unlink()
    code, told = wired.flush(timeout=1)
    assert code == 4
    assert [item["path"] for item in told["pending"]] == ["d/f0"]
    assert wired.status()["safe_to_kill"] is False
    line.mend()
    wired.stored()
    assert len(wired.keys()) == 4


def test_p08_a_file_that_was_never_stored_leaves_nothing(host: Host):
    host.start(settle="1s")
    for number in range(30):
        host.write(f"brief{number}.tmp", "x").unlink()
    host.write("stays", "x")
    host.stored()
    assert host.keys() == {"stays"}
    assert set(host.listed()) == {"stays"}
