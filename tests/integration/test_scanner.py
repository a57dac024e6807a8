"""Scanning a real directory against a real journal: every way in which a path can change, and what is made of it."""

import os
import shutil
from itertools import pairwise

import pytest

from cachesync.model.errors import RootHalted
from cachesync.model.events import What
from cachesync.model.values import Kind
from cachesync.watch.hints import Hint
from tests.driving import Driven
from tests.flat_store import Fault, FlatStore

S = "s"


class Desk:
    """An engine over a session directory, and what the journal makes of it."""

    def __init__(self, root, *, watched=True):
        self.root = root
        self.session = root / S
        self.session.mkdir(parents=True)
        self.store = FlatStore()
        self.driven = Driven(root, self.store, watched=watched)
        self.scanner = self.driven.engine.scanner
        self.entries = self.driven.engine.journal.entries

    def write(self, path, text="text"):
        place = self.session / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return place

    def scan(self, **options):
        return self.scanner.scan(S, **options)

    def dirty(self):
        return {entry.path for entry in self.entries.walk(S) if entry.dirty}

    def gone(self):
        return {entry.path for entry in self.entries.walk(S) if entry.tombstone}

    def known(self):
        return {entry.path for entry in self.entries.walk(S)}

    def entry(self, path):
        return self.entries.entry(S, path)

    def flush(self):
        report = self.driven.flush(S)
        assert report.stored, report
        assert not self.dirty()
        return report

    def objects(self):
        prefix = f"sessions/{S}/"
        found = {key.removeprefix(prefix) for key in self.store.objects if key.startswith(prefix)}
        return found - {".cachesync/manifest.json"}


@pytest.fixture
def desk(tmp_path):
    desk = Desk(tmp_path / "root")
    yield desk
    desk.driven.close()


@pytest.fixture(params=["scan", "hint"])
def see(desk, request):
    """Let the scanner see what happened to some paths, by a scan or by hints."""

    def see(*paths, hint=Hint.CHANGED | Hint.CLOSED):
        if request.param == "scan":
            desk.scan()
        else:
            desk.scanner.notice(S, dict.fromkeys(paths, hint))

    return see


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_file_is_told_to_be_dirty_before_an_uploader_can_take_it(desk, see):
    """Else a busy uploader stores it first, and "stored" is told before "dirty"."""
    told = []
    desk.driven.engine.events.join(lambda event: told.append((event.what, event.path, desk.dirty())))
    desk.write("a")
    see("a")
    assert told == [(What.DIRTY, "a", set())]
    assert desk.dirty() == {"a"}


def test_a_new_file_is_dirty_once(desk, see):
    desk.write("a")
    see("a")
    first = desk.entry("a")
    assert first.dirty
    assert first.stat.size == 4
    desk.scan()
    assert desk.entry("a").generation == first.generation


def test_nothing_changed_is_nothing_marked(desk):
    for path in ("a", "d/b", "d/e/c"):
        desk.write(path)
    desk.flush()
    generation = desk.driven.engine.journal.generation()
    result = desk.scan(recheck=True)
    assert (result.finished, result.marked, result.skipped, result.failures) == (True, 0, [], [])
    assert desk.driven.engine.journal.generation() == generation


@pytest.mark.parametrize(
    "change",
    [
        lambda place: place.write_text("other and longer"),
        lambda place: place.write_text("TEXT"),
        lambda place: place.chmod(0o600),
        os.utime,
        lambda place: os.truncate(place, 0),
        lambda place: os.replace(shutil.copy(place, f"{place}.new"), place),
    ],
    ids=["longer", "same size", "chmod", "touch", "truncate", "replaced"],
)
def test_a_change_is_dirty(desk, see, change):
    place = desk.write("a")
    desk.flush()
    change(place)
    see("a")
    assert "a" in desk.dirty()
    desk.flush()
    assert desk.store.objects["sessions/s/a"].data == place.read_bytes()


def test_a_rewrite_of_same_size_and_mtime_is_seen_by_its_ctime(desk, see):
    place = desk.write("a", "one")
    desk.flush()
    before = place.stat()
    with open(place, "r+") as file:
        file.write("two")
        file.flush()
        os.utime(file.fileno(), ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (place.stat().st_mtime_ns, place.stat().st_size) == (before.st_mtime_ns, before.st_size)
    see("a")
    assert desk.dirty() == {"a"}
    desk.flush()
    assert desk.store.objects["sessions/s/a"].data == b"two"


def test_a_touch_sends_nothing_and_is_in_the_manifest(desk):
    place = desk.write("a")
    desk.flush()
    version = desk.store.objects["sessions/s/a"].info.version
    os.utime(place, (1, 1))
    desk.flush()
    assert desk.store.objects["sessions/s/a"].info.version == version
    assert b'"mtime": "1.000000000"' in desk.store.objects["sessions/s/.cachesync/manifest.json"].data


def test_a_deleted_file_is_a_tombstone(desk, see):
    desk.write("a")
    desk.write("b")
    desk.flush()
    (desk.session / "a").unlink()
    see("a", hint=Hint.GONE)
    assert desk.gone() == {"a"}
    desk.flush()
    assert desk.objects() == {"b"}
    assert desk.known() == {"b"}


def test_a_file_that_was_never_stored_and_is_deleted_is_forgotten(desk):
    desk.write("a")
    desk.scan()
    (desk.session / "a").unlink()
    desk.flush()
    assert desk.known() == set()
    assert desk.objects() == set()


def test_a_renamed_file_is_copied_in_the_store(desk):
    desk.write("a", "content")
    desk.flush()
    os.rename(desk.session / "a", desk.session / "b")
    desk.flush()
    assert desk.objects() == {"b"}
    assert desk.entry("b").stored.sha256


def test_a_renamed_directory(desk, see):
    desk.write("d/a")
    desk.write("d/e/b")
    desk.flush()
    os.rename(desk.session / "d", desk.session / "f")
    see("d", "f", hint=Hint.TREE | Hint.GONE)
    assert desk.gone() == {"d/", "d/a", "d/e/", "d/e/b"}
    assert desk.dirty() - desk.gone() == {"f/", "f/a", "f/e/", "f/e/b"}
    desk.flush()
    assert desk.objects() == {"f/a", "f/e/b"}


def test_a_deleted_tree(desk, see):
    desk.write("d/a")
    desk.write("d/e/b")
    desk.write("dd")
    desk.flush()
    shutil.rmtree(desk.session / "d")
    see("d", hint=Hint.TREE | Hint.GONE)
    assert desk.gone() == {"d/", "d/a", "d/e/", "d/e/b"}
    desk.flush()
    assert desk.objects() == {"dd"}


# -- one kind for another ----------------------------------------------------------------------------------------------

MAKE = {
    "file": lambda place: place.write_text("new"),
    "directory": lambda place: (place.mkdir(), (place / "in").write_text("in")),
    "link": lambda place: place.symlink_to("elsewhere"),
    "pipe": os.mkfifo,
    "nothing": lambda place: None,
}


def remove(place):
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


@pytest.mark.parametrize("new", MAKE)
@pytest.mark.parametrize("old", MAKE)
def test_whatever_takes_a_names_place(desk, see, old, new):
    place = desk.session / "x"
    desk.write("neighbour")
    MAKE[old](place)
    desk.flush()
    remove(place)
    MAKE[new](place)
    see("x", hint=Hint.CHANGED | Hint.GONE | Hint.TREE)
    desk.flush()
    expected = {"file": {"x"}, "directory": {"x/in"}}.get(new, set())
    assert desk.objects() == expected | {"neighbour"}
    rows = {"file": {"x"}, "directory": {"x/", "x/in"}, "link": {"x"}}.get(new, set())
    assert desk.known() == rows | {"neighbour"}
    if new == "link":
        assert desk.entry("x").kind is Kind.LINK
        assert desk.entry("x").stat.target == "elsewhere"


def test_a_file_replaced_by_a_link_after_an_upload_whose_answer_was_lost(desk):
    """The object that nobody confirmed must not stay under the link's name."""
    desk.write("x")
    desk.scan()
    desk.driven.clock.push(1)
    desk.store.faults["put"] = Fault.LOST_REPLY
    desk.driven.pump()
    assert desk.objects() == {"x"}
    assert desk.entry("x").stored is None
    (desk.session / "x").unlink()
    (desk.session / "x").symlink_to("elsewhere")
    desk.flush()
    assert desk.objects() == set()


def test_a_link_that_points_elsewhere_is_dirty(desk, see):
    (desk.session / "l").symlink_to("a")
    desk.flush()
    (desk.session / "l").unlink()
    (desk.session / "l").symlink_to("b")
    see("l")
    assert desk.dirty() == {"l"}
    desk.flush()


def test_what_is_special_is_skipped_and_said(desk):
    os.mkfifo(desk.session / "pipe")
    result = desk.scan()
    assert [(s.path, s.reason) for s in result.skipped] == [("pipe", "a pipe")]
    assert desk.known() == set()


def test_a_name_of_ours_is_a_failure(desk):
    desk.write(".cachesync/x")
    result = desk.scan()
    assert [f.path for f in result.failures] == [".cachesync"]
    desk.scanner.notice(S, {".cachesync/x": Hint.CHANGED})
    assert desk.known() == set()


# -- rules -------------------------------------------------------------------------------------------------------------


def test_ignored_paths_are_skipped_with_their_rule(desk, see):
    desk.write(".cachesyncignore", "*.log\nbuild/\n")
    see(".cachesyncignore")
    desk.write("a.log")
    desk.write("build/x")
    desk.write("kept")
    see("a.log", "build", "build/x", "kept")
    assert desk.known() == {".cachesyncignore", "kept"}
    assert {s.path for s in desk.scan().skipped} == {"a.log", "build"}


@pytest.mark.parametrize("see", ["hint"], indirect=True)
def test_nobody_looks_at_what_is_ignored_whatever_it_is(desk, see, monkeypatch):
    desk.write(".cachesyncignore", "build/\n")
    see(".cachesyncignore")
    desk.write("build/x")
    looked = []
    lstat = desk.scanner._tree.lstat

    def counted(session, path):
        looked.append(path)
        return lstat(session, path)

    monkeypatch.setattr(desk.scanner._tree, "lstat", counted)
    see("build/x", "build/gone", "kept")
    assert looked == ["kept"]


def test_a_file_that_becomes_ignored_is_no_deletion(desk):
    desk.write("a.log")
    desk.write("build/x")
    desk.flush()
    desk.write(".cachesyncignore", "*.log\nbuild/\n")
    desk.flush()
    assert desk.gone() == set()
    assert desk.objects() == {"a.log", "build/x", ".cachesyncignore"}


def test_a_change_that_was_not_sent_when_it_became_ignored_is_sent_when_it_is_not(desk):
    desk.write("a.log", "old")
    desk.flush()
    desk.write("a.log", "new")
    desk.scan()
    rules = desk.write(".cachesyncignore", "*.log\n")
    desk.flush()
    assert desk.store.objects["sessions/s/a.log"].data == b"old"
    rules.unlink()
    assert desk.flush().conflicts == []
    assert desk.store.objects["sessions/s/a.log"].data == b"new"


def test_a_change_of_the_rules_counts_from_the_next_look(desk):
    desk.write(".cachesyncignore", "*.log\n")
    desk.write("a.log")
    desk.scan()
    assert desk.known() == {".cachesyncignore"}
    desk.write(".cachesyncignore", "# nothing\n")
    desk.flush()
    assert "a.log" in desk.known()


# -- what cannot be seen -----------------------------------------------------------------------------------------------


def test_a_directory_that_cannot_be_listed_is_a_failure_and_deletes_nothing(desk, monkeypatch):
    desk.write("d/a")
    desk.write("b")
    desk.flush()
    listing = os.scandir

    def refuse(what):
        if isinstance(what, int) and os.readlink(f"/proc/self/fd/{what}").endswith("/d"):
            raise PermissionError(13, "Permission denied")
        return listing(what)

    monkeypatch.setattr(os, "scandir", refuse)
    result = desk.scan()
    assert [f.path for f in result.failures] == ["d/"]
    assert desk.gone() == set()
    report = desk.driven.flush(S)
    assert not report.stored
    assert report.exit_code == 1
    assert desk.objects() == {"d/a", "b"}


def test_an_unsettled_file_is_read_again_by_a_flush_and_by_a_close(desk):
    place = desk.write("a", "one")
    with open(place, "r+") as writer:
        desk.driven.flush(S)
        assert desk.entry("a").unsettled
        assert desk.entries.unsettled(S) == ["a"]
        assert not desk.dirty()
        desk.scan()
        assert not desk.dirty()
        desk.scan(recheck=True)
        assert not desk.dirty(), "it was read, and is what the store has"
        assert desk.entry("a").unsettled
        writer.write("one")
    desk.scanner.notice(S, {"a": Hint.CHANGED | Hint.CLOSED})
    assert desk.dirty() == {"a"}
    desk.flush()
    assert not desk.entry("a").unsettled


def test_a_close_that_is_told_of_twice_is_one_change(desk):
    desk.write("a", "one")
    desk.scanner.notice(S, {"a": Hint.CHANGED | Hint.CLOSED})
    marked = desk.entry("a").generation
    desk.scanner.notice(S, {"a": Hint.CHANGED | Hint.CLOSED})  # the watcher and the mount tell of the same
    assert desk.entry("a").generation == marked
    desk.driven.engine.journal.work.await_close(desk.entry("a"), desk.driven.clock() + 5)  # another writer had it open
    desk.scanner.notice(S, {"a": Hint.CHANGED | Hint.CLOSED})
    assert desk.entry("a").generation > marked
    assert desk.entry("a").due_at < desk.driven.clock() + 1


def test_a_file_that_is_rewritten_during_its_upload_waits_a_second_for_the_next(desk):
    place, puts = desk.write("a", "0"), []

    def rewrite(key, old, new):
        if key == "sessions/s/a":
            puts.append(desk.driven.clock())
            place.write_text(f"{len(puts)}")
            desk.driven.clock.push(0.05)
            desk.scanner.notice(S, {"a": Hint.CHANGED | Hint.CLOSED})

    desk.store.watch = rewrite
    desk.scan()
    for _ in range(500):
        desk.driven.clock.push(0.01)
        desk.driven.pump()
    gaps = [round(later - earlier, 2) for earlier, later in pairwise(puts)]
    assert len(gaps) > 3
    assert min(gaps) > 0.9, gaps
    assert max(gaps) < 1.2, gaps


def test_a_scan_that_runs_out_of_time_says_so(desk):
    for number in range(5):
        desk.write(f"d{number}/a")
    asked = iter([False, False, True, True])
    result = desk.scan(expired=lambda: next(asked))
    assert not result.finished


def test_many_entries_are_marked_in_batches(desk):
    for number in range(2300):
        (desk.session / f"f{number}").touch()
    assert desk.scan().marked == 2300
    assert len(desk.dirty()) == 2300


def mover(desk, turns):
    """Move a file out of each scan's way, ``turns`` times: it is never where the scan looks."""
    tree = desk.driven.engine.tree
    listing, here, there = tree.listing, desk.session / "b/x", desk.session / "g/x"
    left = [turns]

    def moved_meanwhile(session, directory, seen):
        if left[0] and directory in {"b/", "g/"}:
            away, back = (here, there) if directory == "b/" else (there, here)
            if away.exists():
                os.rename(away, back)
                left[0] -= 1
        return listing(session, directory, seen)

    tree.listing = moved_meanwhile


@pytest.mark.parametrize("turns", [1, 2, 3, 8])
def test_p03_a_file_that_is_moved_while_nobody_watches_is_not_deleted(tmp_path, turns):
    desk = Desk(tmp_path / "root", watched=False)
    desk.write("b/x")
    desk.write("g/other")
    desk.flush()
    mover(desk, turns)
    report = desk.driven.flush(S)
    assert report.stored
    assert {"b/x", "g/x"} & desk.objects()


def test_p03_a_file_that_never_stops_moving_is_left_pending(tmp_path, monkeypatch):
    desk = Desk(tmp_path / "root", watched=False)
    desk.write("b/x")
    desk.write("g/other")
    desk.flush()
    mover(desk, 10_000)
    tree = desk.driven.engine.tree
    lstat = tree.lstat

    def moved_again(session, path):
        """Wherever a single path is looked at, the file is at the other."""
        if path in {"b/x", "g/x"}:
            other = desk.session / ("g/x" if path == "b/x" else "b/x")
            if (desk.session / path).exists():
                os.rename(desk.session / path, other)
        return lstat(session, path)

    monkeypatch.setattr(tree, "lstat", moved_again)
    report = desk.driven.flush(S, timeout=3.0)
    assert [row.reason for row in report.pending] == ["files moved during every scan"]
    assert not report.stored
    desk.driven.clock.push(100)
    desk.driven.pump()
    assert "b/x" in desk.objects(), "and nobody else believes what no scan could tell"


def test_p08_without_a_watcher_a_deletion_waits_for_a_flush(tmp_path):
    desk = Desk(tmp_path / "root", watched=False)
    desk.write("a")
    desk.write("b")
    desk.flush()
    (desk.session / "a").unlink()
    desk.scan()
    desk.driven.clock.push(100)
    assert desk.driven.pump() < 10
    assert desk.objects() == {"a", "b"}
    desk.flush()
    assert desk.objects() == {"b"}


# -- sessions ----------------------------------------------------------------------------------------------------------


def test_p07_a_removed_session_is_evicted_and_nothing_is_deleted(desk, see):
    desk.write("a")
    desk.write("d/b")
    desk.flush()
    desk.write("never stored")
    desk.scan()
    shutil.rmtree(desk.session)
    see("", hint=Hint.TREE | Hint.GONE)
    assert desk.gone() == set()
    assert "never stored" not in desk.known()
    assert not desk.entries.any_resident(S)
    desk.driven.clock.push(100)
    desk.driven.pump()
    assert [failure.error for failure in desk.driven.flush(S).failed] == [
        "the session's directory is gone, and 1 file with it that had not been stored"
    ]
    assert desk.objects() == {"a", "d/b"}
    desk.driven.crash()  # nor does a new daemon believe that all is stored
    desk.driven = Driven(desk.root, desk.store)
    assert not desk.driven.flush(S).stored
    desk.session.mkdir()
    assert desk.driven.flush(S).stored
    shutil.rmtree(desk.session)
    assert desk.driven.flush(S).stored
    assert desk.objects() == {"a", "d/b"}


def test_p03_a_change_that_went_with_its_session_was_not_stored(desk):
    desk.write("a", "old")
    desk.flush()
    desk.write("a", "new")
    desk.scan()
    desk.session.rename(desk.root.parent / "away")
    assert not desk.driven.flush(S).stored
    (desk.root.parent / "away").rename(desk.session)
    assert desk.driven.flush(S).stored
    assert desk.driven.store.objects[f"sessions/{S}/a"].data == b"new"


def test_p07_a_session_directory_replaced_at_once_is_another(desk, see):
    """ext4 gives the same inode number again."""
    for _ in range(5):
        desk.write("a")
        desk.write("d/b")
        desk.flush()
        shutil.rmtree(desk.session)
        desk.session.mkdir()
        desk.write("new")
        see("", hint=Hint.TREE | Hint.GONE)
        assert desk.gone() == set()
        desk.flush()
        assert desk.objects() == {"a", "d/b", "new"}


def test_p07_deletes_that_were_waiting_when_the_session_went_are_not_carried_out(desk):
    desk.write("a")
    desk.write("b")
    desk.flush()
    (desk.session / "a").unlink()
    desk.scan()
    assert desk.gone() == {"a"}
    shutil.rmtree(desk.session)
    desk.driven.clock.push(10)
    desk.driven.pump()
    desk.driven.clock.push(10)
    desk.driven.pump()
    assert desk.objects() == {"a", "b"}


def test_a_session_that_comes_back_unchanged_costs_nothing(desk, tmp_path):
    desk.write("a")
    desk.write("d/b")
    desk.flush()
    os.rename(desk.session, tmp_path / "away")
    desk.scan()
    os.rename(tmp_path / "away", desk.session)
    writes = desk.store.writes
    desk.flush()
    assert desk.store.writes - writes <= 1, "the manifest at most"
    assert all(desk.entry(path).resident for path in ("a", "d/b", "d/"))


def test_p03_a_change_that_was_not_sent_when_its_session_went_is_sent_when_it_comes_back(desk, tmp_path):
    place = desk.write("a", "one")
    desk.flush()
    place.write_text("two")
    desk.scan()
    os.rename(desk.session, tmp_path / "away")
    desk.scan()
    os.rename(tmp_path / "away", desk.session)
    desk.flush()
    assert desk.store.objects["sessions/s/a"].data == b"two"


def test_p03_another_writer_while_the_session_was_away(desk, tmp_path):
    desk.write("a", "ours")
    desk.flush()
    os.rename(desk.session, tmp_path / "away")
    desk.scan()
    desk.store.foreign_put("sessions/s/a", b"theirs")
    desk.store.foreign_put("sessions/s/.cachesync/manifest.json", b"{}")
    desk.flush()  # it learns what the store has now
    os.rename(tmp_path / "away", desk.session)
    assert desk.driven.flush(S).stored
    assert desk.store.objects["sessions/s/a"].data == b"theirs", "what stands here is only older"
    assert len(desk.objects()) == 1


def test_a_session_that_is_a_link_is_none(desk, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret").write_text("x")
    (desk.root / "t").symlink_to(tmp_path / "elsewhere")
    desk.scanner.notice("t", {"": Hint.TREE, "secret": Hint.CHANGED})
    assert desk.driven.engine.journal.sessions.get("t") is None


def test_names_that_are_no_sessions_are_left_alone(desk):
    (desk.root / ".hidden").mkdir()
    desk.scanner.notice(".hidden", {"a": Hint.CHANGED})
    desk.scanner.notice("..", {"s/a": Hint.CHANGED})
    assert desk.driven.engine.journal.sessions.names() == []


@pytest.mark.parametrize("what", ["gone", "replaced", "a file"])
def test_p07_a_root_that_is_not_the_one_that_was_opened_halts_everything(desk, tmp_path, what):
    desk.write("a")
    desk.flush()
    os.rename(desk.root, tmp_path / "away")
    if what == "replaced":
        desk.session.mkdir(parents=True)
    elif what == "a file":
        desk.root.touch()
    with pytest.raises(RootHalted):
        desk.scan()
    with pytest.raises(RootHalted):
        desk.scanner.notice(S, {"a": Hint.GONE})
    desk.driven.clock.push(100)
    desk.driven.pump()
    assert desk.objects() == {"a"}
    shutil.rmtree(desk.root, ignore_errors=True) if what != "a file" else desk.root.unlink()
    os.rename(tmp_path / "away", desk.root)
    desk.flush()
    assert desk.objects() == {"a"}


def test_p07_deletes_wait_while_the_root_is_away(desk, tmp_path):
    desk.write("a")
    desk.write("b")
    desk.flush()
    (desk.session / "a").unlink()
    desk.scan()
    os.rename(desk.root, tmp_path / "away")
    for _ in range(5):
        desk.driven.clock.push(40)
        desk.driven.pump()
    assert desk.objects() == {"a", "b"}
    os.rename(tmp_path / "away", desk.root)
    desk.flush()
    assert desk.objects() == {"b"}


def test_p13_nobody_hears_of_a_bad_name_that_is_gone(desk, caplog):
    desk.write("fine.txt")
    desk.flush()
    desk.write("bad\udcff.txt")
    desk.scan()
    os.rename(desk.session / "bad\udcff.txt", desk.session / "good.txt")
    desk.driven.clock.push(1)
    desk.driven.pump()  # before anybody has seen the rename
    assert "UTF-8" not in caplog.text
    assert desk.driven.flush(S).stored
    assert desk.objects() == {"fine.txt", "good.txt"}


def test_a_step_of_hints_ends_when_its_time_is_over(desk, monkeypatch):
    """Each hint of a deletion writes the journal. Other sessions' hints do not wait for 250 of them."""
    names = [f"{number}" for number in range(20)]
    for name in names:
        desk.write(name)
    desk.scan()
    for name in names:
        (desk.root / S / name).unlink()
    now = desk.scanner._clock

    def slow():
        desk.driven.clock.push(0.02)
        return now()

    monkeypatch.setattr(desk.scanner, "_clock", slow)
    assert len(list(desk.scanner.notice_in_steps(S, dict.fromkeys(names, Hint.GONE)))) >= 5
    assert desk.gone() == set(names)
