"""Two hosts, one session: whose word counts in the manifest, and what becomes of a directory that was away."""

import contextlib
import json
import os
import shutil

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cachesync.model.keys import manifest_key
from cachesync.session.verify import Verifier
from cachesync.store.s3.store import S3Store
from cachesync.watch.hints import Hint
from tests.flat_store import FlatStore
from tests.life import Host, S

PREFIX = f"sessions/{S}/"


@pytest.fixture(params=["flat", "s3"])
def store(request):
    if request.param == "flat":
        yield FlatStore()
        return
    seaweed, bucket = request.getfixturevalue("seaweed"), request.getfixturevalue("bucket")
    seaweed.make_bucket(bucket)
    with contextlib.closing(S3Store(seaweed.settings(bucket))) as store:
        yield store


@pytest.fixture
def pair(tmp_path, store):
    """A has stored a session, B has opened it."""
    a, b = Host(tmp_path / "a", store), Host(tmp_path / "b", store)
    try:
        for path in ("f", "g", "d/h"):
            a.write(path, f"{path} by a")
        os.symlink("f", a.session / "l")
        a.flush()
        assert b.life.open(S).exit_code == 0
        yield a, b
    finally:
        a.stop()
        b.stop()


def listed(host):
    body = b"".join(host.store.get(manifest_key("", S)).chunks)
    return {row["path"]: row for row in json.loads(body)["entries"]}


def stored(host):
    """The session's objects, by path."""
    found = {info.key.removeprefix(PREFIX): info.key for info in host.store.list(PREFIX)}
    return {
        path: b"".join(host.store.get(key).chunks) for path, key in found.items() if not path.startswith(".cachesync/")
    }


def check_agreed(*hosts):
    """The manifest lists what the bucket has, version for version, and every host's verification says so."""
    current = {info.key.removeprefix(PREFIX): info.version.etag for info in hosts[0].store.list(PREFIX)}
    current.pop(".cachesync/manifest.json")
    assert {path: row["version"] for path, row in listed(hosts[0]).items() if row["type"] == "file"} == current
    for host in hosts:
        report = Verifier(
            host.driven.engine.transfer._c, host.driven.engine.learner, host.driven.engine.scanner
        ).verify(S)
        assert report.exit_code == 0, report.differences


def restart(host):
    """Another process, after one that ended well."""
    host.stop()
    host.start()


# -- the manifest ------------------------------------------------------------------------------------------------------


def test_a_flush_that_changed_nothing_leaves_what_another_host_wrote(pair):
    a, b = pair
    a.write("f", "newer")
    a.write("new", "new")
    (a.session / "d/h").unlink()
    a.flush()
    for _ in range(2):
        b.flush()
        assert listed(b)["f"]["size"] == 5
        assert listed(b).keys() == {"f", "g", "new", "l", "d"}
        check_agreed(a, b)
    assert (b.session / "f").read_text() == "f by a", "a flush only reads"
    a.flush()
    check_agreed(a, b)


def test_what_was_learned_outlives_the_process(pair):
    a, b = pair
    a.write("f", "newer")
    (a.session / "g").unlink()
    a.flush()
    b.life.open(S, lazy=True)  # it learns of the manifest, and brings nothing
    b.crash()
    b.write("own", "by b")
    b.flush()
    assert listed(b)["f"]["size"] == 5
    assert "g" not in listed(b)
    check_agreed(a, b)


def test_two_hosts_in_turns(pair):
    a, b = pair
    for number in range(4):
        a.write("f", f"a {number}" * (number + 1))
        a.write(f"a{number}", "a")
        a.flush()
        check_agreed(a, b) if number else check_agreed(a)
        b.write("g", f"b {number}" * (number + 2))
        b.write(f"b{number}", "b")
        if number:
            (b.session / f"b{number - 1}").unlink()
        b.flush()
        check_agreed(a, b)
        a.flush()
        b.flush()
        check_agreed(a, b)
    rows = listed(a)
    assert rows.keys() == {"f", "g", "d", "d/h", "l", "a0", "a1", "a2", "a3", "b3"}
    assert (rows["f"]["size"], rows["g"]["size"]) == (len("a 3" * 4), len("b 3" * 5))
    assert not [path for path in stored(a) if ".conflict-" in path]


def test_a_link_that_another_host_changed_or_removed(pair):
    a, b = pair
    (a.session / "l").unlink()
    os.symlink("g", a.session / "l")
    os.symlink("f", a.session / "m")
    a.flush()
    b.flush()
    assert (listed(b)["l"]["target"], listed(b)["m"]["target"]) == ("g", "f")
    (a.session / "l").unlink()
    shutil.rmtree(a.session / "d")
    a.flush()
    b.flush()
    assert listed(b).keys() == {"f", "g", "m"}
    (b.session / "l").unlink()
    os.symlink("d", b.session / "l")
    b.flush()
    a.flush()
    assert listed(a)["l"]["target"] == "d"


def test_a_change_of_what_another_host_replaced_or_deleted(pair):
    a, b = pair
    a.write("f", "newer")
    (a.session / "g").unlink()
    a.flush()
    b.flush()
    b.write("f", "b's own")
    b.write("g", "b's own")
    report = b.driven.flush(S)
    assert [conflict.path for conflict in report.conflicts] == ["f"]
    found = stored(b)
    assert (found["f"], found["g"], found[report.conflicts[0].kept_as]) == (b"b's own", b"b's own", b"newer")
    check_agreed(a, b)


def test_a_deletion_here_of_what_another_host_replaced(pair):
    a, b = pair
    a.write("f", "newer")
    a.flush()
    b.flush()
    (b.session / "f").unlink()
    assert [conflict.path for conflict in b.driven.flush(S).conflicts] == ["f"]
    assert stored(b)["f"] == b"newer"
    check_agreed(a, b)


def test_opened_again_it_is_this_hosts_version_too(pair):
    a, b = pair
    a.write("f", "newer")
    a.flush()
    b.flush()
    assert b.life.open(S).exit_code == 0
    assert (b.session / "f").read_text() == "newer"
    assert b.entry("f").superseded is None
    b.write("f", "newest")
    b.flush()
    assert stored(b).keys() == {"f", "g", "d/h"}
    check_agreed(b)


@pytest.mark.parametrize("written", [False, True])
def test_who_changes_what_was_just_brought_has_seen_it(pair, monkeypatch, written):
    """The watcher may see a file, and its next change, before it is written down that it was brought."""
    _, b = pair
    b.life.evict(S)
    placed = b.journal.residence.placed

    def late(name, directory, files, others):
        for path, _, _ in files:
            if written:
                b.write(path, "changed by b")
            b.driven.engine.scanner.notice(S, {path: Hint.CHANGED | Hint.CLOSED})
        placed(name, directory, files, others)

    monkeypatch.setattr(b.journal.residence, "placed", late)
    b.life.open(S)
    b.write("f", "changed by b")
    assert b.driven.flush(S).conflicts == []
    assert stored(b)["f"] == b"changed by b"
    assert stored(b).keys() == {"f", "g", "d/h"}


def test_the_receipt_names_what_the_store_has(pair):
    a, b = pair
    a.write("f", "newer")
    (a.session / "g").unlink()
    a.flush()
    b.flush()
    b.write("own", "x")
    report = b.driven.flush(S, receipt=True)
    versions = {info.key: info.version.etag for info in b.store.list(PREFIX)}
    assert {line.path for line in report.entries} == {"f", "d/h", "own"}
    assert all(versions[line.key] == line.version for line in report.entries)


def test_a_listing_that_is_empty_takes_nothing_from_the_manifest(pair, monkeypatch):
    a, b = pair
    a.write("f", "newer")
    a.flush()
    monkeypatch.setattr(b.store, "list", lambda _prefix: iter(()))
    b.flush()
    monkeypatch.undo()
    assert listed(b).keys() == {"f", "g", "d", "d/h", "l"}


@pytest.mark.parametrize("manifest", [b"not even JSON", b"{}", b'{"format": 1, "entries": [\n{"path": "g"}\n'])
def test_a_manifest_that_is_none_takes_no_links_away(tmp_path, manifest):
    flat = FlatStore()
    a = Host(tmp_path / "a", flat)
    a.write("f")
    os.symlink("f", a.session / "l")
    (a.session / "d").mkdir()
    a.flush()
    flat.foreign_put(manifest_key("", S), manifest)
    a.flush()
    assert listed(a).keys() == {"f", "l", "d"}
    a.stop()


STEPS = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.sampled_from(["write", "delete", "link", "unlink", "flush", "flush", "open", "lazy", "restart"]),
        st.sampled_from(["f", "g", "d/h"]),
    ),
    max_size=14,
)


@given(steps=STEPS)
@settings(max_examples=60, deadline=None)
@example(steps=[("a", "link", "f"), ("a", "flush", ""), ("b", "open", ""), ("a", "link", "f"), ("a", "flush", "")])
def test_whatever_two_hosts_do_each_flush_lists_what_the_store_has(tmp_path_factory, steps):
    """Files as the bucket has them, and each link as the host left it that changed it last before its flush."""
    store, folder = FlatStore(), tmp_path_factory.mktemp("pair")
    hosts = {name: Host(folder / name, store) for name in "ab"}
    links: dict[str, str | None] = {}
    changed: dict[str, dict[str, str | None]] = {"a": {}, "b": {}}
    last = [("a", "flush", ""), ("b", "flush", ""), ("a", "flush", "")]
    try:
        for number, (name, what, path) in enumerate([*steps, *last]):
            host = hosts[name]
            host.session.mkdir(exist_ok=True)
            place = host.session / (f"{path}.link" if "link" in what else path)
            place.parent.mkdir(parents=True, exist_ok=True)
            if what == "write":
                place.write_text(f"{name} {number}")
            elif what == "delete":
                place.unlink(missing_ok=True)
            elif what == "link":
                place.unlink(missing_ok=True)
                changed[name][f"{path}.link"] = str(number)
                os.symlink(str(number), place)
            elif what == "unlink" and place.is_symlink():
                host.driven.scan(S)  # a link that nobody saw was never there
                place.unlink()
                changed[name][f"{path}.link"] = None
            elif what == "restart":
                restart(host)
            elif what in ("open", "lazy"):
                host.life.open(S, lazy=what == "lazy")
            elif what == "flush":
                host.flush()
                links |= changed[name]
                changed[name] = {}
                check_agreed(host)
                shown = {path: row["target"] for path, row in listed(host).items() if row["type"] == "link"}
                assert shown == {path: target for path, target in links.items() if target is not None}
    finally:
        for host in hosts.values():
            host.stop()
        shutil.rmtree(folder)


# -- a directory that was away -----------------------------------------------------------------------------------------


def leave(host, away):
    """The session's directory goes, and the host notices."""
    os.rename(host.session, away)
    host.driven.scan(S)


def come_back(host, away, how="moved"):
    if how == "moved":
        os.rename(away, host.session)
    else:  # by cp -a, from another disk
        shutil.copytree(away, host.session, symlinks=True)


@pytest.mark.parametrize("how", ["moved", "copied"])
@pytest.mark.parametrize("learns", [True, False])
def test_p09_a_directory_that_comes_back_is_an_older_version_not_a_change(pair, tmp_path, how, learns):
    a, b = pair
    leave(b, tmp_path / "away")
    a.write("f", "newer")
    a.flush()
    if learns:
        b.flush()
    come_back(b, tmp_path / "away", how)
    report = b.driven.flush(S)
    assert report.stored
    assert report.conflicts == []
    assert stored(b) == {"f": b"newer", "g": b"g by a", "d/h": b"d/h by a"}
    assert (b.session / "f").read_text() == "f by a"
    check_agreed(a, b)
    b.driven.clock.push(100)
    b.driven.scan(S, recheck=True)
    b.driven.pump()
    assert stored(b)["f"] == b"newer"
    assert b.life.open(S).exit_code == 0
    assert (b.session / "f").read_text() == "newer"
    check_agreed(a, b)


def test_p09_it_is_opened_at_once_when_it_comes_back(pair, tmp_path):
    a, b = pair
    leave(b, tmp_path / "away")
    a.write("f", "newer")
    a.flush()
    b.flush()
    come_back(b, tmp_path / "away")
    assert b.life.open(S).exit_code == 0
    assert (b.session / "f").read_text() == "newer"
    check_agreed(a, b)


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("same_size", [True, False])
def test_p09_a_file_that_changed_while_it_was_away_is_a_conflict_if_another_host_changed_it_too(
    pair, tmp_path, learns, same_size
):
    a, b = pair
    leave(b, tmp_path / "away")
    a.write("f", "newer")
    a.flush()
    if learns:
        b.flush()
    local = "F BY A" if same_size else "changed while it was away"
    (tmp_path / "away/f").write_text(local)
    come_back(b, tmp_path / "away")
    (conflict,) = b.driven.flush(S).conflicts
    assert conflict.path == "f"
    assert stored(b)["f"].decode() == local
    assert stored(b)[conflict.kept_as] == b"newer"
    check_agreed(a, b)


def test_p09_a_change_that_was_not_sent_before_it_left_is_a_conflict_too(pair, tmp_path):
    a, b = pair
    b.write("f", "changed before it left")
    b.driven.scan(S)
    leave(b, tmp_path / "away")
    a.write("f", "newer")
    a.flush()
    b.driven.flush(S)  # it says that a change is lost
    b.life.open(S, lazy=True)
    come_back(b, tmp_path / "away")
    (conflict,) = b.driven.flush(S).conflicts
    assert stored(b)["f"] == b"changed before it left"
    assert stored(b)[conflict.kept_as] == b"newer"


def test_p09_old_bytes_that_were_written_anew_are_a_change(pair, tmp_path):
    """Who writes them again, with a new time, means them."""
    a, b = pair
    leave(b, tmp_path / "away")
    a.write("f", "newer")
    a.flush()
    b.flush()
    place = tmp_path / "away/f"
    place.write_text("f by a")
    os.utime(place, ns=(7, 7))
    come_back(b, tmp_path / "away")
    (conflict,) = b.driven.flush(S).conflicts
    assert (stored(b)["f"], stored(b)[conflict.kept_as]) == (b"f by a", b"newer")


def test_p07_away_and_back_and_away_again(pair, tmp_path):
    """What was learned is kept whichever way the directory goes, and over restarts."""
    a, b = pair
    leave(b, tmp_path / "away")
    a.write("f", "newer")
    a.flush()
    b.flush()
    for _ in range(2):
        come_back(b, tmp_path / "away")
        restart(b)
        b.flush()
        check_agreed(a, b)
        leave(b, tmp_path / "away")
        restart(b)
        assert b.entry("f").stored.size == 5, "what is only in the store is the store's version"
        b.flush()
        check_agreed(a, b)
    a.write("f", "the newest")
    a.flush()
    b.flush()
    come_back(b, tmp_path / "away")
    report = b.driven.flush(S)
    assert report.conflicts == []
    assert stored(b)["f"] == b"the newest"
    check_agreed(a, b)


def test_p09_a_clean_file_that_another_host_replaced_leaves_with_its_directory(pair, tmp_path):
    a, b = pair
    a.write("f", "newer")
    (a.session / "g").unlink()
    a.flush()
    b.flush()
    leave(b, tmp_path / "away")
    b.flush()
    check_agreed(a, b)
    assert b.life.open(S).exit_code == 0
    assert (b.session / "f").read_text() == "newer"
    assert not (b.session / "g").exists()


@pytest.mark.parametrize("mounted", [False, True])
def test_p09_changes_of_a_directory_that_was_away_are_no_conflicts_if_nobody_else_wrote(pair, tmp_path, mounted):
    a, b = pair
    for number in range(200):
        b.write(f"many/{number}", f"{number}")
    b.flush()
    leave(b, tmp_path / "away")
    if mounted:  # the empty directory under a mount point
        b.session.mkdir()
        b.driven.scan(S)
        b.flush()
        b.session.rmdir()
    for number in range(200):
        place = tmp_path / f"away/many/{number}"
        if number % 2:
            place.write_text(f"changed {number}")
        else:  # as editors save
            (tmp_path / "saved").write_text(f"changed {number}")
            os.rename(tmp_path / "saved", place)
    come_back(b, tmp_path / "away")
    report = b.driven.flush(S)
    assert report.conflicts == []
    found = stored(b)
    assert all(found[f"many/{number}"] == f"changed {number}".encode() for number in range(200))
    assert len(found) == 203
    check_agreed(a, b)


def test_p09_another_directory_of_its_name_is_no_coming_back(pair, tmp_path):
    """Whoever writes into it saw nothing of what was stored: that is kept."""
    _, b = pair
    leave(b, tmp_path / "away")
    b.write("f", "a new file")
    (conflict,) = b.driven.flush(S).conflicts
    assert (stored(b)["f"], stored(b)[conflict.kept_as]) == (b"a new file", b"f by a")


def test_p09_what_was_evicted_before_the_directory_left_did_not_leave_with_it(pair, tmp_path):
    _, b = pair
    b.write("stays", "x")
    with open(b.session / "stays", "ab"):  # it is not evicted while it is open
        b.life.evict(S)
    b.flush()
    leave(b, tmp_path / "away")
    (tmp_path / "away/f").write_text("made anew")
    (tmp_path / "away/stays").write_text("changed")
    come_back(b, tmp_path / "away")
    (conflict,) = b.driven.flush(S).conflicts
    assert (conflict.path, stored(b)[conflict.kept_as]) == ("f", b"f by a")


def test_p03_a_file_that_another_host_deleted_is_not_called_stored(pair):
    a, b = pair
    (b.session / "g").unlink()
    b.flush()
    a.flush()
    for change in (False, True, False):
        if change:
            a.write("new")
        report = a.driven.flush(S)
        assert (report.stored, report.files) == (True, len(stored(a)))
        assert [one.path for one in report.skipped] == ["g"]
        assert report.files == sum(row["type"] == "file" for row in listed(a).values())
        assert a.driven.engine.service.status(S).sessions[0].files == report.files
    story = a.driven.engine.service.explain(S, "g")
    assert (story.state, story.version) == ("here only, because another host deleted it in the store", None)
