"""The journal on a real SQLite file: marks and confirmations, damage, plans, threads, odd names."""

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cachesync.journal.binding import Bound
from cachesync.journal.database import set_aside
from cachesync.journal.journal import Journal, check_store
from cachesync.journal.rows import WORK
from cachesync.model.errors import ConfigError, JournalDamaged, JournalUnavailable, UsageError
from cachesync.model.policy import FARTHEST, PART_SIZE, SMALL, Weight, weigh
from cachesync.model.values import Conflict, Entry, FileStat, Kind, Mark, Multipart, Session, Stored, Version

S = "s"
NOW = 1000.0
ODD_NAMES = ["a b", "new\nline", os.fsdecode(b"\xff\xfe"), "e\u0301", "%?*[", "d/\n/x", ".hid", "x" * 255, "0", "d0/a"]


def file_stat(size=1, inode=1, mtime=5, **more):
    return FileStat(Kind.FILE, size, mtime, 6, inode, 0o644, **more)


DIRECTORY = FileStat(Kind.DIRECTORY, 4096, 5, 6, 90, 0o755)
LINK = FileStat(Kind.LINK, 1, 5, 6, 91, 0o777, "to")


def stored(etag="v1", sha256="ab", size=1):
    return Stored(Version(etag), size, sha256, 5, 0o644, NOW)


class Desk:
    """A journal with one session, and short words for what tests do to it."""

    def __init__(self, path):
        self.path = path
        self.journal = Journal(path)
        self.journal.sessions.add(S, NOW)
        self.entries, self.waiting = self.journal.entries, self.journal.waiting
        self.work, self.sessions = self.journal.work, self.journal.sessions

    def see(self, *paths, due=NOW, now=NOW, stat=None, **more):
        self.entries.mark(S, [Mark(path, stat or file_stat(**more), due) for path in paths], now)
        return self.entry(paths[0])

    def miss(self, *paths, due=NOW, now=NOW):
        self.entries.mark(S, [Mark(path, None, due) for path in paths], now)
        return self.entry(paths[0])

    def entry(self, path):
        found = self.entries.entry(S, path)
        assert self.entries.remembered(S, path) == self.entries.remembered(S, path) == found
        return found

    def store(self, *paths, **more):
        for path in paths:
            entry = self.see(path, **more)
            self.work.confirm(entry, stored(), read=entry.stat)
        return self.entry(paths[0])

    def due(self, now=NOW, limit=100, weight=Weight.SMALL, **more):
        return [path for path, _ in self.work.due(S, weight, now, limit, **more)]

    def heads(self, now=NOW):
        return [tuple(head) for head in self.work.heads(now)]

    @property
    def db(self):
        return self.journal._ledger.db


@pytest.fixture
def desk(tmp_path):
    desk = Desk(tmp_path / "journal.db")
    yield desk
    desk.journal.close()


# -- marks and confirmations -------------------------------------------------------------------------------------------


def test_a_mark_makes_a_path_dirty_and_a_confirmation_clean(desk):
    entry = desk.see("a")
    assert entry.dirty
    assert not entry.tombstone
    desk.work.confirm(entry, stored(), read=entry.stat)
    entry = desk.entry("a")
    assert not entry.dirty
    assert entry.stored == stored()
    assert entry.puts == 1
    assert desk.due() == []


def test_generations_only_grow_also_over_a_restart(desk):
    first, second = desk.see("a").generation, desk.see("a").generation
    assert first < second == desk.journal.generation()
    desk.journal.close()
    desk.journal = Journal(desk.path)
    assert desk.journal.opened_at == second
    desk.journal.entries.mark(S, [Mark("a", file_stat(), NOW)], NOW)
    assert desk.journal.entries.entry(S, "a").generation == second + 1


def test_a_confirmation_never_clears_a_later_mark(desk):
    old = desk.see("a", size=1)
    desk.see("a", size=2)
    desk.work.confirm(old, stored(), read=old.stat)
    entry = desk.entry("a")
    assert entry.dirty
    assert entry.stored == stored()
    assert entry.stat.size == 2, "the disk's facts are those of the later mark"


def test_a_confirmation_of_a_part_leaves_the_path_dirty(desk):
    entry = desk.see("a.jsonl")
    desk.work.confirm(entry, stored(), read=entry.stat, complete=False)
    assert desk.entry("a.jsonl").dirty
    assert desk.entry("a.jsonl").stored == stored()


def test_a_path_that_was_stored_while_it_changed_again_is_dirty_only_since_then(desk):
    """Or a file that is rewritten all the time is always "due since its first change" and goes up without a pause."""
    old = desk.see("a", now=NOW)
    desk.see("a", now=NOW + 5)
    desk.work.confirm(old, replace(stored(), stored_at=NOW + 6), read=old.stat)
    assert desk.entry("a").dirty_since >= NOW + 5


def test_a_confirmation_takes_errors_and_attempts_away(desk):
    entry = desk.see("a")
    desk.work.fail(entry, tried_at=NOW, due_at=NOW + 9, error="denied", failed=True)
    failed = desk.entry("a")
    assert (failed.attempts, failed.error, failed.failed, failed.due_at) == (1, "denied", True, NOW + 9)
    assert [e.path for e in desk.waiting.failures(S, 9)] == ["a"]
    desk.work.confirm(failed, stored(), read=None)
    entry = desk.entry("a")
    assert (entry.attempts, entry.error, entry.failed, entry.tried_at) == (0, None, False, None)


def test_a_failure_or_postponement_leaves_the_due_time_of_a_later_mark_alone(desk):
    old = desk.see("a")
    desk.see("a", due=NOW + 1)
    desk.work.fail(old, tried_at=NOW, due_at=NOW + 99, error="x", failed=False)
    desk.work.postpone(old, NOW + 99)
    assert desk.entry("a").due_at == NOW + 1


def test_a_missing_path_counts_only_if_it_was_expected(desk):
    desk.miss("never")
    assert desk.entry("never") is None
    desk.store("a")
    assert desk.miss("a", now=NOW + 1).gone_at == NOW + 1
    assert desk.miss("a", now=NOW + 2).gone_at == NOW + 1, "seen missing once is enough"


def test_a_delete_that_the_store_confirmed_forgets_the_entry(desk):
    desk.store("a")
    tombstone = desk.miss("a")
    assert tombstone.tombstone
    assert desk.due() == ["a"]
    desk.work.confirm_delete(tombstone)
    assert desk.entry("a") is None


def test_a_path_that_came_back_during_its_delete_stays_dirty_without_a_version(desk):
    desk.store("a")
    tombstone = desk.miss("a")
    desk.see("a")
    desk.work.confirm_delete(tombstone)
    entry = desk.entry("a")
    assert entry.dirty
    assert not entry.tombstone
    assert entry.stored is None


def test_a_put_confirmed_after_the_file_vanished_leaves_a_tombstone_that_knows_the_version(desk):
    entry = desk.see("a")
    desk.miss("a")
    desk.work.confirm(entry, stored("v9"), read=entry.stat)
    tombstone = desk.entry("a")
    assert tombstone.tombstone
    assert tombstone.dirty
    assert tombstone.stored.version.etag == "v9"


def test_a_lost_delete_lives_on_as_evicted(desk):
    desk.store("a")
    tombstone = desk.miss("a")
    desk.work.lose_delete(tombstone, stored("theirs", "cd"))
    entry = desk.entry("a")
    assert not entry.resident
    assert not entry.dirty
    assert not entry.tombstone
    assert entry.stored.version.etag == "theirs"


def test_a_directory_that_is_gone_takes_everything_below_with_it_and_nothing_else(desk):
    inside = ["d/a", "d/e/b", "d/\xff", "d/e/"]
    outside = ["d0", "d.txt", "da", "e/d/a", "d"]
    desk.store(*[path for path in [*inside, *outside] if not path.endswith("/")])
    desk.see("d/", "d/e/", stat=DIRECTORY)
    assert desk.entries.mark_tree_gone(S, "d/", NOW + 2, NOW) == 5
    assert all(desk.entry(path).tombstone for path in [*inside, "d/"])
    assert not any(desk.entry(path).tombstone for path in outside)
    assert desk.entries.mark_tree_gone(S, "d/", NOW + 2, NOW) == 0


def test_a_directory_with_a_name_at_the_ends_of_the_alphabet(desk):
    for name in (b"\x00\x01"[1:], b"\xff\xff", b"!", b"-", b"~"):
        directory = os.fsdecode(name)
        desk.store(f"{directory}/a", f"{directory}0", f"{directory}-/a")
        assert desk.entries.mark_tree_gone(S, f"{directory}/", NOW, NOW) == 1


def test_a_removed_session_is_evicted_and_what_was_never_stored_is_forgotten(desk):
    desk.store("clean", "changed", "deleted")
    desk.see("changed", size=2)
    desk.miss("deleted")
    desk.see("new")
    desk.see("d/", stat=DIRECTORY)
    assert desk.sessions.removed(S) == (3, 2), "evicted; and of new and of changed bytes went that were not stored"
    assert desk.entry("new") is None
    assert desk.entry("d/") is None, "no manifest has it"
    for path in ("clean", "changed", "deleted"):
        entry = desk.entry(path)
        assert not entry.resident
        assert not entry.dirty
        assert not entry.tombstone
    assert not desk.entries.any_resident(S)
    assert desk.due(NOW + 99) == []


def test_evicted_paths_return(desk):
    desk.store("a")
    desk.sessions.removed(S)
    desk.entries.returned(S, ["a", "nobody knows"])
    assert desk.entry("a").resident
    assert not desk.entry("a").dirty


def test_what_the_disk_had_and_the_store_never_got_is_not_remembered_as_stored(desk):
    """A session that is moved away with a change in it, and back, must not look unchanged."""
    desk.store("a", size=1)
    desk.see("a", size=2)
    desk.sessions.removed(S)
    known = desk.entries.known(S, "a")
    assert known.size != 2, "it would be taken for the clean state if the file came back"


def test_an_upload_that_ends_after_its_entry_was_forgotten_is_evicted(desk):
    entry = desk.see("a")
    desk.sessions.removed(S)
    desk.work.confirm(entry, stored(), read=entry.stat)
    assert not desk.entry("a").resident
    assert desk.entry("a").stored == stored()


# -- what is remembered ------------------------------------------------------------------------------------------------


def asked(desk, call):
    statements: list[str] = []
    connections = (desk.db._writer, *desk.db._readers)
    for connection in connections:
        connection.set_trace_callback(statements.append)
    try:
        return call(), len(statements)
    finally:
        for connection in connections:
            connection.set_trace_callback(None)


def test_what_was_read_is_remembered_until_something_changes(desk):
    entry = desk.see("a")

    def again(path="a"):
        return asked(desk, lambda: desk.entries.remembered(S, path))

    assert again() == (entry, 0)
    assert again("b") == (None, 1)
    assert again("b") == (None, 0)
    assert again() == (entry, 0)
    assert desk.entries.remembered("another", "a") is None
    desk.see("b")
    assert again() == (entry, 1)
    assert again() == (entry, 0)


def test_what_is_read_within_a_transaction_that_is_taken_back_is_not_remembered(desk):
    entry = desk.see("a")
    with contextlib.suppress(KeyError), desk.db.write() as db:
        db.execute("UPDATE entry SET generation = 1000")
        assert desk.entries.remembered(S, "a").generation == 1000
        raise KeyError
    assert desk.entries.remembered(S, "a") == entry == desk.entries.entry(S, "a")


def test_nobody_is_told_what_was_before_a_change_that_is_committed(desk):
    """One thread writes; another asks all the time, and hears of each change at once."""
    done, wrong, stop = [desk.see("a").generation], [], threading.Event()

    def ask():
        while not stop.is_set():
            at_least = done[-1]
            found = desk.entries.remembered(S, "a").generation
            if found < at_least:
                wrong.append((found, at_least))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(300):
        desk.entries.mark(S, [Mark("a", file_stat(size=number), NOW)], NOW)
        done.append(done[-1] + 1)
    stop.set()
    for thread in threads:
        thread.join()
    assert desk.entries.entry(S, "a").generation == done[-1]
    assert wrong == []


def test_a_closed_journal_remembers_nothing(desk):
    desk.see("a")
    desk.journal.close()
    with pytest.raises(JournalUnavailable):
        desk.entries.remembered(S, "a")
    desk.journal = Journal(desk.path)


# -- what is learned ---------------------------------------------------------------------------------------------------


def test_learning_adds_evicted_entries_and_versions_but_never_digests_to_local_ones(desk):
    desk.see("local")
    desk.store("ours")
    theirs = [(path, stored("theirs", "cd")) for path in ("local", "ours", "new")]
    links = [("l", LINK), ("d/", DIRECTORY), ("ours", LINK)]
    desk.sessions.learn(S, theirs, links)
    assert desk.entry("local").stored == stored("theirs", None)
    assert desk.entry("local").dirty
    assert desk.entry("ours").stored == stored()
    assert desk.entry("ours").kind is Kind.FILE
    assert desk.entry("new").stored == stored("theirs", "cd")
    assert not desk.entry("new").resident
    assert not desk.entry("l").resident
    assert desk.entry("l").stat.target == "to"
    desk.sessions.learn(S, [("new", stored("later", "ef"))], [])
    assert desk.entry("new").stored.version.etag == "later"


def test_a_learned_change_of_an_evicted_entry_is_not_mistaken_for_the_file_that_comes_back(desk):
    desk.store("a", size=1)
    desk.sessions.removed(S)
    desk.sessions.learn(S, [("a", stored("theirs", "cd"))], [])
    assert desk.entry("a").stat is None, "the disk's facts are not of the version that the store has now"


def test_a_session_is_learned_once_and_knows_its_manifest(desk):
    assert not desk.sessions.get(S).learned
    desk.sessions.set_learned(S, Version("m"))
    row = desk.sessions.get(S)
    assert row.learned
    assert row.manifest == Version("m")
    assert row.manifest_revision != row.revision
    assert desk.sessions.get("unknown") is None


def test_an_evicted_entry_that_the_store_lost_is_forgotten_but_a_resident_one_never(desk):
    desk.store("here")
    desk.sessions.learn(S, [("there", stored())], [])
    desk.sessions.forget_evicted(S, "here")
    desk.sessions.forget_evicted(S, "there")
    assert desk.entry("here")
    assert desk.entry("there") is None


def test_a_written_manifest_makes_links_and_directories_clean_up_to_its_generation(desk):
    desk.see("l", stat=LINK)
    desk.see("d/", stat=DIRECTORY)
    desk.see("gone", stat=LINK)
    desk.miss("gone")
    shown = desk.journal.generation()
    desk.see("late", stat=LINK)
    desk.see("f")
    revision = desk.sessions.get(S).revision
    desk.sessions.manifest_written(S, generation=shown, revision=revision, manifest=Version("m"))
    assert not desk.entry("l").dirty
    assert not desk.entry("d/").dirty
    assert desk.entry("gone") is None
    assert desk.entry("late").dirty
    assert desk.entry("f").dirty
    row = desk.sessions.get(S)
    assert (row.manifest, row.manifest_revision, row.state) == (Version("m"), revision, "open")


def test_everything_that_a_manifest_shows_raises_the_revision(desk):
    def revised(action):
        before = desk.sessions.get(S).revision
        action()
        return desk.sessions.get(S).revision > before

    entry = desk.see("a")
    assert revised(lambda: desk.work.confirm(entry, stored(), read=None))
    assert revised(lambda: desk.miss("a"))
    assert revised(lambda: desk.work.lose_delete(desk.entry("a"), stored()))
    assert revised(lambda: desk.sessions.learn(S, [("b", stored())], []))
    assert revised(lambda: desk.sessions.forget_evicted(S, "b"))
    assert revised(lambda: desk.sessions.removed(S))
    assert revised(lambda: desk.sessions.add_conflict(S, Conflict("a", "a.c"), stored(), NOW))
    assert not revised(lambda: desk.entries.mark_tree_gone(S, "nothing/", NOW, NOW))


# -- what is due -------------------------------------------------------------------------------------------------------


def test_due_is_most_overdue_first_or_smallest_first(desk):
    desk.see("late", due=NOW - 1, size=5)
    desk.see("latest", due=NOW - 2, size=50)
    desk.see("future", due=NOW + 1, size=1)
    assert desk.due() == ["latest", "late"]
    assert desk.due(small_first=True) == ["late", "latest"]
    assert desk.due(limit=1) == ["latest"]
    assert desk.work.next_due(NOW) == NOW + 1
    assert desk.work.next_due(NOW + 1) is None
    assert desk.work.due(S, Weight.SMALL, NOW, 1) == [("latest", 50)]


@pytest.mark.parametrize("size", [0, SMALL, SMALL + 1, PART_SIZE, PART_SIZE + 1])
def test_a_file_is_in_the_queue_of_its_weight_and_a_deletion_is_small(desk, size):
    desk.store("f", size=size)
    desk.see("f", size=size, mtime=9)
    assert desk.heads() == [(S, weigh(size), True, None)]
    assert desk.work.due(S, weigh(size), NOW, 9) == [("f", size)]
    desk.miss("f")
    assert [head[:2] for head in desk.heads()] == [(S, Weight.SMALL)]
    assert desk.work.due(S, Weight.SMALL, NOW + 99, 9) == [("f", 0)]


def test_heads_tell_of_each_session_what_is_due_and_when_the_next_is(desk):
    for number, name in enumerate(["t", "u", "v"], 1):
        desk.sessions.add(name, NOW)
        desk.entries.mark(name, [Mark("later", file_stat(), NOW + number)], NOW)
    desk.entries.mark("u", [Mark("due", file_stat(), NOW), Mark("large", file_stat(size=PART_SIZE + 1), NOW)], NOW)
    desk.entries.mark("v", [Mark("clock set back", file_stat(), NOW + 2 * FARTHEST)], NOW)
    assert desk.heads() == [
        ("t", Weight.SMALL, False, NOW + 1),
        ("u", Weight.SMALL, True, NOW + 2),
        ("u", Weight.LARGE, True, None),
        ("v", Weight.SMALL, True, NOW + 3),
    ]
    assert desk.heads(NOW + 1)[0] == ("t", Weight.SMALL, True, None)
    assert desk.work.next_due(NOW) == NOW + 1


def test_where_more_is_due_than_is_asked_for_the_latest_waits_for_two_thirds_of_the_rest_at_most(desk):
    for number in range(9):
        desk.see(f"f{number}", due=NOW - 9 + number)
    assert desk.due(limit=6) == ["f8", "f7", "f0", "f1", "f2", "f3"]
    assert desk.due(limit=9) == ["f8", "f7", "f6", "f0", "f1", "f2", "f3", "f4", "f5"]
    assert desk.due(limit=10) == [f"f{number}" for number in range(9)]


def test_links_and_directories_are_no_work_but_an_object_under_a_links_name_is(desk):
    desk.see("l", stat=LINK)
    desk.see("d/", stat=DIRECTORY)
    assert desk.due() == []
    assert not desk.work.remaining(S)
    desk.store("was a file")
    desk.see("was a file", stat=LINK)
    assert desk.due() == ["was a file"]
    assert desk.work.remaining(S)


def test_hurry_makes_a_sessions_work_due_and_no_other(desk):
    desk.sessions.add("t", NOW)
    desk.see("a", due=NOW + 50)
    desk.entries.mark("t", [Mark("b", file_stat(), NOW + 50)], NOW)
    desk.work.hurry(S)
    assert desk.due() == ["a"]


def test_a_defect_of_our_sql_is_no_damage_of_the_journal(desk):
    with pytest.raises(JournalUnavailable, match="report this bug"):
        desk.journal._ledger.db.all("SELECT no_such_column FROM entry")
    assert desk.journal.in_place(), "or the daemon would begin anew, and set nothing right"
    assert desk.see("a").dirty


def test_retry_makes_what_failed_due(desk):
    desk.work.fail(desk.see("failed"), tried_at=NOW, due_at=NOW + 600, error="x", failed=True)
    desk.work.fail(desk.see("tried"), tried_at=NOW, due_at=NOW + 30, error="x", failed=False)
    desk.see("waiting", due=NOW + 5)
    assert desk.work.retry(S, NOW) == 2
    assert sorted(desk.due()) == ["failed", "tried"]


def test_a_barrier_is_met_by_what_is_stored_and_not_by_what_was_never_in_it(desk):
    first, second = desk.see("a"), desk.see("b")
    desk.see("l", stat=LINK)
    desk.see("d/", stat=DIRECTORY)
    barrier = desk.waiting.barrier(S)
    assert barrier.standing.keys() == {"a", "b", "l"}
    assert not barrier.gone
    desk.see("after")
    desk.work.confirm(first, stored(), read=None)
    assert [e.path for e in desk.waiting.unmet(S, barrier)] == ["b"]
    desk.work.confirm(second, stored(), read=None)
    assert list(desk.waiting.unmet(S, barrier)) == []


def test_p03_one_number_would_lie_the_map_does_not(desk):
    """A path that is rewritten just before its upload has a later generation than the barrier: it is waited for."""
    desk.see("a")
    barrier = desk.waiting.barrier(S)
    rewritten = desk.see("a", size=2)
    assert [e.path for e in desk.waiting.unmet(S, barrier)] == ["a"]
    desk.work.confirm(rewritten, stored(), read=None)
    assert list(desk.waiting.unmet(S, barrier)) == []


def test_a_barrier_of_deletes(desk):
    desk.store("a")
    tombstone = desk.miss("a")
    barrier = desk.waiting.barrier(S)
    assert barrier.gone.keys() == {"a"}
    assert [e.path for e in desk.waiting.unmet(S, barrier)] == ["a"]
    desk.work.confirm_delete(tombstone)
    assert list(desk.waiting.unmet(S, barrier)) == []
    desk.see("a")
    assert list(desk.waiting.unmet(S, barrier)) == [], "a new file of that name is not of the barrier"


def test_a_barrier_does_not_wait_for_bytes_that_are_no_more(desk):
    """A file that is deleted and made again all the time has a row that is always dirty: a flush ends all the same."""
    desk.see("a")
    barrier = desk.waiting.barrier(S)
    desk.miss("a")
    assert list(desk.waiting.unmet(S, barrier)) == []
    desk.see("a", size=2)
    assert desk.entry("a").dirty
    assert list(desk.waiting.unmet(S, barrier)) == []


def test_a_barrier_of_a_deletion_waits_while_the_path_comes_and_goes(desk):
    desk.store("a")
    desk.miss("a")
    barrier = desk.waiting.barrier(S)
    entry = desk.see("a", size=2)
    assert [e.path for e in desk.waiting.unmet(S, barrier)] == ["a"], "the store still has what was deleted"
    desk.work.confirm(entry, stored("v2"), read=entry.stat)
    assert list(desk.waiting.unmet(S, barrier)) == []


# -- numbers, renames, conflicts, uploads ------------------------------------------------------------------------------


def test_tombstones_in_numbers(desk):
    for number, path in enumerate("abcd"):
        desk.store(path, inode=number)
    desk.miss("a", now=NOW + 1)
    desk.sessions.confirm_deletes(S)
    desk.miss("b", now=NOW + 2)
    desk.see("never stored", inode=9)
    desk.miss("never stored", now=NOW + 3)
    t, _ = desk.work.tombstones(S)
    assert (t.unconfirmed, t.stored, t.last_seen) == (1, 4, NOW + 2)
    desk.sessions.add("t", NOW)
    t, _ = desk.work.tombstones("t")
    assert (t.unconfirmed, t.stored, t.last_seen) == (0, 0, 0)


def test_where_a_renamed_file_may_have_come_from(desk):
    desk.store("old", inode=7)
    desk.store("still there", inode=7)
    desk.see("never stored", inode=7)
    desk.miss("old", "never stored")
    assert [e.path for e in desk.work.left_behind(7)] == ["old"]
    assert desk.work.left_behind(8) == []
    desk.sessions.removed(S)
    assert {e.path for e in desk.work.left_behind(7)} <= {"old", "still there"}


def test_a_file_that_moved_counts_for_no_deletion_and_is_found_again(desk):
    desk.store("old", inode=7)
    old = desk.miss("old")
    desk.see("new", inode=7)
    assert [e.path for e in desk.work.moved_to(old)] == ["new"]
    assert desk.work.tombstones(S)[0].unconfirmed == 0
    assert desk.work.moved_to(replace(old, stat=None)) == []


def test_a_file_that_moved_and_was_changed_may_be_the_one_that_is_gone(desk):
    desk.store("old", inode=7)
    desk.miss("old")
    desk.see("new", inode=7, size=9)
    counted, changed = desk.work.tombstones(S)
    assert counted.unconfirmed == 1
    assert [(old.path, new.path) for old, new in changed] == [("old", "new")]


def test_a_hard_link_that_stood_beside_a_deleted_name_is_no_new_name_of_it(desk):
    desk.see("twin", inode=7)
    desk.store("old", inode=7)
    old = desk.miss("old")
    assert desk.work.moved_to(old) == []
    assert desk.work.tombstones(S)[0].unconfirmed == 1


def test_an_inode_number_of_another_file_system_is_another_file(desk):
    desk.store("old", inode=7)
    old = desk.miss("old")
    desk.see("d/new", inode=7, mount="7")
    assert desk.work.moved_to(old) == []


def test_conflicts_are_listed_until_a_flush_reported_them(desk):
    desk.sessions.add_conflict(S, Conflict("a", "a.conflict-x"), stored(), NOW)
    desk.sessions.add_conflict(S, Conflict("b", "b"), None, NOW)
    assert desk.sessions.conflicts(S) == [Conflict("a", "a.conflict-x"), Conflict("b", "b")]
    assert not desk.entry("a.conflict-x").resident
    assert desk.entry("b") is None
    desk.sessions.set_reported(S)
    assert desk.sessions.conflicts(S) == []


def test_uploads_are_remembered_over_a_restart(desk):
    uploads = desk.journal.uploads
    assert uploads.load(S, "a") is None
    uploads.save(S, "a", Multipart("k", "id", "ab", 5))
    uploads.add_part(S, "a", 2, "e2")
    uploads.add_part(S, "a", 1, "e1")
    desk.journal.close()
    desk.journal = Journal(desk.path)
    assert desk.journal.uploads.load(S, "a") == Multipart("k", "id", "ab", 5, {1: "e1", 2: "e2"})
    desk.journal.uploads.save(S, "a", Multipart("k", "id2", "cd", 5))
    assert desk.journal.uploads.load(S, "a") == Multipart("k", "id2", "cd", 5)
    desk.journal.uploads.drop(S, "a")
    assert desk.journal.uploads.load(S, "a") is None


def test_counts(desk):
    desk.store("a", "b", size=10)
    desk.see("b", size=20, now=NOW + 5)
    desk.work.fail(desk.see("c", size=5, now=NOW + 6), tried_at=NOW, due_at=NOW, error="x", failed=True)
    desk.see("d/", stat=DIRECTORY)
    desk.sessions.learn(S, [("e", stored(size=100))], [])
    counts = desk.waiting.counts(S)
    assert (counts.files, counts.bytes, counts.evicted) == (4, 135, 1)
    assert (counts.dirty, counts.dirty_bytes, counts.failed, counts.oldest_dirty) == (2, 25, 1, NOW + 5)


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*ODD_NAMES, *(f"d/{name}" for name in ODD_NAMES)], ids=repr)
def test_p14_odd_names_come_back(desk, path):
    desk.store(path)
    target = replace(LINK, target=path)
    desk.see(f"{path}.link", stat=target)
    desk.see(f"{path}.dir/", stat=DIRECTORY)
    assert desk.entry(path).path == path
    assert desk.entry(f"{path}.link").stat.target == path
    assert {e.path for e in desk.entries.walk(S)} == {path, f"{path}.link", f"{path}.dir/"}
    parent, _, name = path.rpartition("/")
    known = desk.entries.children(S, f"{parent}/" if parent else "")
    assert known.keys() == {os.fsencode(name + end) for end in ("", ".link", ".dir/")}
    assert known[os.fsencode(name)] == desk.entries.known(S, path)
    assert desk.waiting.barrier(S).standing.keys() == {f"{path}.link"}
    assert desk.waiting.any_dirty_link(S)
    desk.journal.uploads.save(S, path, Multipart("k", "id", "ab", 5))
    assert desk.journal.uploads.load(S, path)


# -- the file ----------------------------------------------------------------------------------------------------------


def fill(path):
    desk = Desk(path)
    desk.store(*(f"d{number % 7}/file-{number}" for number in range(60)))
    desk.see("new")
    desk.miss("d1/file-1")
    desk.see("l", stat=LINK)
    desk.sessions.add_conflict(S, Conflict("a", "a.c"), stored(), NOW)
    desk.journal.uploads.save(S, "a", Multipart("k", "id", "ab", 5))
    desk.journal.close()
    return path.read_bytes()


def use(journal):
    """Ask for and change everything."""
    for name in journal.sessions.names():
        journal.sessions.get(name)
        journal.waiting.counts(name)
        journal.sessions.conflicts(name)
        list(journal.entries.walk(name))
        journal.entries.children(name, "d1/")
        list(journal.waiting.unmet(name, journal.waiting.barrier(name)))
        journal.waiting.any_dirty_link(name)
        journal.work.due(S, Weight.SMALL, NOW + 99, 10)
        journal.work.tombstones(name)
        journal.uploads.load(name, "a")
        journal.entries.mark(name, [Mark("d2/file-2", file_stat(9), NOW)], NOW)
        journal.entries.mark_tree_gone(name, "d3/", NOW, NOW)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Where a sound one is. Not its bytes: hypothesis would print them."""
    path = tmp_path_factory.mktemp("sound") / "journal.db"
    fill(path)
    return path


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 255)), min_size=1, max_size=8))
@example(flips=[(0, 1)])
@example(flips=[(18, 3)])  # the file format's write version
@example(flips=[(63, 1)])  # user_version
@example(flips=[(63, 9)])
def test_a_damaged_file_opens_or_is_called_damaged(sound, tmp_path, flips):
    data = bytearray(sound.read_bytes())
    for offset, mask in flips:
        data[offset % len(data)] ^= mask
    check_damaged(tmp_path, bytes(data))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(0, 2**17), junk=st.binary(max_size=100))
@example(length=0, junk=b"")
@example(length=0, junk=b"not a database, but long enough to look at" * 50)
def test_a_file_that_was_cut_or_overwritten_opens_or_is_called_damaged(sound, tmp_path, length, junk):
    data = sound.read_bytes()
    check_damaged(tmp_path, data[: length % len(data)] + junk)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_a_page_of_noise_or_of_zeros(sound, tmp_path, seed):
    dice, data = random.Random(seed), sound.read_bytes()
    page = dice.randrange(len(data) // 4096) * 4096
    noise = dice.randbytes(4096) if dice.random() < 0.7 else bytes(4096)
    check_damaged(tmp_path, data[:page] + noise + data[page + 4096 :])


def check_damaged(folder, data):
    path = folder / "journal.db"
    for suffix in ("", "-wal", "-shm"):
        (folder / f"journal.db{suffix}").unlink(missing_ok=True)
    path.write_bytes(data)
    try:
        journal = Journal(path)
    except JournalDamaged:
        return
    except UsageError:  # the number of its format is in the file too
        return
    try:
        with contextlib.suppress(JournalDamaged):
            use(journal)
    finally:
        journal.close()


def test_a_damaged_wal_is_not_believed(tmp_path):
    desk = Desk(tmp_path / "journal.db")
    desk.see("a")
    wal = (tmp_path / "journal.db-wal").read_bytes()
    copy = tmp_path / "copy.db"
    copy.write_bytes((tmp_path / "journal.db").read_bytes())
    for cut in range(0, len(wal), 997):
        (tmp_path / "copy.db-wal").write_bytes(wal[:cut] + bytes(50) + wal[cut + 50 :])
        with contextlib.suppress(JournalDamaged):
            journal = Journal(copy)
            use(journal)
            journal.close()
    desk.journal.close()


def test_a_damaged_journal_is_set_aside_whole_and_a_new_one_begun(tmp_path):
    path = tmp_path / "journal.db"
    path.write_bytes(b"x" * 5000)
    (tmp_path / "journal.db-wal").write_bytes(b"w")
    with pytest.raises(JournalDamaged):
        Journal(path)
    kept = set_aside(path, "now")
    assert kept.read_bytes() == b"x" * 5000
    assert (tmp_path / "journal.db.damaged-now-wal").exists()
    Journal(path).close()
    assert oct(kept.stat().st_mode)


def test_a_journal_of_a_newer_version_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "journal.db"
    Journal(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(UsageError, match="newer"):
        Journal(path)
    assert path.read_bytes() == before


def test_a_journal_of_version_zero_is_made_and_an_interrupted_making_is_made_again(tmp_path):
    path = tmp_path / "journal.db"
    path.touch()
    first = Journal(path)
    number = first.id
    first.close()
    again = Journal(path)
    assert again.id == number
    again.close()


def test_a_journal_is_bound_to_one_store(desk):
    assert desk.journal.binding.get() is None
    check_store(desk.db.path, "s3://one")
    desk.journal.binding.bind(Bound("s3://one", "https://endpoint", "id"))
    assert desk.journal.binding.get() == Bound("s3://one", "https://endpoint", "id")
    check_store(desk.db.path, "s3://one")
    with pytest.raises(ConfigError, match=r"this root is stored in s3://one .*cachesync rebind"):
        check_store(desk.db.path, "s3://two")


def test_a_full_disk_is_unavailable_and_nothing_is_half_written(desk):
    desk.store("a")
    pages = desk.db._writer.execute("PRAGMA page_count").fetchone()[0]
    desk.db._writer.execute(f"PRAGMA max_page_count = {pages}")
    before = desk.journal.generation()
    with pytest.raises(JournalUnavailable, match="full"):
        desk.see(*(f"long name {number} {'x' * 200}" for number in range(500)))
    assert desk.journal.generation() == before
    assert desk.entry("a")
    assert desk.journal.in_place()
    desk.db._writer.execute("PRAGMA max_page_count = 1000000")
    desk.see("b")
    assert desk.entry("b").dirty


def test_a_folder_that_cannot_be_written_is_unavailable(tmp_path):
    with pytest.raises(JournalUnavailable):
        Journal(tmp_path / "missing" / "journal.db")
    (tmp_path / "folder").mkdir()
    with pytest.raises(JournalUnavailable):
        Journal(tmp_path / "folder")


READ_ONLY = """
import os, sys
from pathlib import Path
from cachesync.model.errors import JournalUnavailable
from cachesync.journal.journal import Journal
os.setgid(65534); os.setuid(65534)
try:
    journal = Journal(Path(sys.argv[1]))
    journal.sessions.add("new", 1.0)
except JournalUnavailable:
    sys.exit(42)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")
@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_journal_of_somebody_else_is_unavailable_not_damaged(tmp_path, what):
    folder = tmp_path / "state"
    folder.mkdir()
    fill(folder / "journal.db")
    folder.chmod(0o755 if what == "folder" else 0o777)
    for above in tmp_path.parents[:3]:
        above.chmod(above.stat().st_mode | 0o011)
    tmp_path.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", READ_ONLY, folder / "journal.db"], check=False)
    assert done.returncode == 42


def test_a_journal_whose_file_is_taken_away_says_so(desk):
    assert desk.journal.in_place()
    desk.path.unlink()
    assert not desk.journal.in_place()
    desk.path.write_bytes(b"another")
    assert not desk.journal.in_place()


def test_walking_a_journal_whose_file_was_taken_away_is_an_error_of_ours(desk):
    desk.store("a")
    for suffix in ("", "-wal", "-shm"):
        (desk.path.parent / f"{desk.path.name}{suffix}").unlink(missing_ok=True)
    with pytest.raises((JournalDamaged, JournalUnavailable)):
        list(desk.entries.walk(S))


# -- many at once ------------------------------------------------------------------------------------------------------


def test_eight_threads_mark_and_confirm(desk):
    rounds, stop = 60, threading.Event()
    wrong: list[Entry] = []

    def work(number):
        for turn in range(rounds):
            path = f"d{number % 2}/f{turn % 5}"
            if number % 2:
                desk.entries.mark(S, [Mark(path, file_stat(turn), NOW)], NOW)
            elif entry := desk.entry(path):
                desk.work.confirm(entry, stored(f"v{number}-{turn}"), read=entry.stat)

    def watch():
        while not stop.is_set():
            wrong.extend(e for e in desk.entries.walk(S) if e.synced > e.generation)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    stop.set()
    watcher.join()
    assert not wrong
    assert desk.journal.generation() == 4 * rounds


def test_a_walk_sees_one_instant_and_holds_no_writer_up(desk):
    desk.store(*(f"f{number:04}" for number in range(2500)))
    rows = desk.entries.walk(S)
    first = next(rows)
    desk.see(*(f"f{number:04}" for number in range(2500)), size=9)
    assert {first.stat.size, *(row.stat.size for row in rows)} == {1}


# -- plans -------------------------------------------------------------------------------------------------------------


def test_every_hot_query_uses_its_index(desk):
    desk.sessions.add("t", NOW)
    desk.store(*(f"d{number % 20}/f{number}" for number in range(500)))
    plans: list[str] = []

    def explain(run):
        plans.clear()
        for connection in (desk.db._writer, *desk.db._readers):
            connection.set_trace_callback(plans.append)
        run()
        for connection in (desk.db._writer, *desk.db._readers):
            connection.set_trace_callback(None)
        found = []
        for sql in plans:
            if sql.lstrip().upper().startswith(("SELECT", "UPDATE", "DELETE", "WITH")) and "entry" in sql:
                found += [row[3] for row in desk.db._writer.execute(f"EXPLAIN QUERY PLAN {sql}")]
        assert found, "nothing was asked"
        return found

    entry = desk.entry("d1/f1")
    hot = {
        "due": desk.due,
        "due small first": lambda: desk.due(small_first=True),
        "next_due": lambda: desk.work.next_due(NOW),
        "unmet": lambda: list(desk.waiting.unmet(S, desk.waiting.barrier(S))),
        "barrier": lambda: desk.waiting.barrier(S),
        "remaining": lambda: desk.work.remaining(S),
        "left_behind": lambda: desk.work.left_behind(7),
        "hurry": lambda: desk.work.hurry(S),
        "hurry all": desk.work.hurry_all,
        "summary": desk.waiting.summary,
        "retry": lambda: desk.work.retry(S, NOW),
        "tombstones": lambda: desk.work.tombstones(S),
        "children": lambda: desk.entries.children(S, "d1/"),
        "known": lambda: desk.entries.known(S, "d1/f1"),
        "entry": lambda: desk.entry("d1/f1"),
        "failures": lambda: desk.waiting.failures(S, 5),
        "mark_tree_gone": lambda: desk.entries.mark_tree_gone(S, "d9/", NOW, NOW),
        "postpone": lambda: desk.work.postpone(entry, NOW),
        "confirm_delete": lambda: desk.work.confirm_delete(desk.miss("d2/f2")),
        "counts": lambda: desk.waiting.counts(S),
    }
    by_index = {
        "due": "work", "due small first": "work", "next_due": "work", "unmet": "dirty", "barrier": "dirty",
        "remaining": "dirty", "left_behind": "inode", "hurry": "dirty", "retry": "dirty", "failures": "dirty",
        "hurry all": "work", "summary": "dirty",
    }  # fmt: skip
    wrong = {}
    for name, run in hot.items():
        plan = explain(run)
        if any(step.startswith("SCAN entry") and "INDEX" not in step for step in plan):
            wrong[name] = plan
        if name in by_index and not any(f"INDEX {by_index[name]} " in f"{step} " for step in plan):
            wrong[name] = plan
    assert not wrong
    assert WORK


def test_a_session_that_another_thread_is_adding_is_there_wholly_or_not_at_all(desk, monkeypatch):
    """It is committed before its number is known to those who ask by it."""
    database, plain = desk.journal._ledger.db, desk.journal._ledger.db.write
    met: list[Session | None] = []

    @contextlib.contextmanager
    def write(**options):
        with plain(**options) as db:
            yield db
        if not met:  # committed, and add has not returned
            met.append(desk.sessions.get("new"))
            if met[0] is not None:
                desk.sessions.set_directory("new", "1 2")

    monkeypatch.setattr(database, "write", write)
    desk.sessions.add("new", NOW)
    assert len(met) == 1
    desk.sessions.set_directory("new", "1 2")
    assert desk.sessions.get("new").directory == "1 2"


def test_what_a_session_lacks_is_known_of_all_at_once(desk):
    desk.sessions.add("t", NOW)
    desk.sessions.add("u", NOW)
    desk.see("a")
    assert desk.waiting.summary() == {S: (True, True), "t": (False, True), "u": (False, True)}
    desk.store("a")
    row, generation = desk.sessions.get(S), desk.journal.generation()
    desk.sessions.manifest_written(S, generation=generation, revision=row.revision, manifest=Version("m"))
    assert desk.waiting.summary()[S] == (False, False)
    desk.entries.mark(S, [Mark("link", LINK, NOW)], NOW)
    assert desk.waiting.summary()[S] == (False, True), "a link waits for the manifest alone"
    desk.see("b", due=NOW + 99)
    desk.work.hurry_all()
    assert desk.due(0.0) == ["b"]


# -- who waits for whom ------------------------------------------------------------------------------------------------


def test_p24_no_read_waits_for_a_transaction_that_is_open(desk):
    entry = desk.see("a")
    with ThreadPoolExecutor(1) as pool, desk.db.write() as db:
        db.execute("UPDATE entry SET attempts = 7")
        elsewhere = pool.submit(desk.entry, "a").result(20)
        within = desk.db.one("SELECT attempts FROM entry")
    assert elsewhere == entry, "what is committed"
    assert within == (7,), "what this transaction left"
    assert desk.entry("a").attempts == 7


def test_p24_more_threads_may_read_than_there_are_connections(desk):
    desk.see("a")
    busy = [desk.db._free.get() for _ in range(desk.db._free.qsize() - 1)]
    try:
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(desk.entry, "a") for _ in range(40)]
            assert {answer.result(20).path for answer in answers} == {"a"}
    finally:
        for connection in busy:
            desk.db._free.put(connection)


def test_who_reads_a_journal_that_is_closed_is_told_so(desk):
    desk.see("a")
    desk.db.close()
    for _ in range(5):
        with pytest.raises(JournalUnavailable):
            desk.entry("a")


def test_p24_a_thousand_marks_let_others_write_between_them(desk, monkeypatch):
    database = desk.journal._ledger.db
    plain, written = database.write, []

    @contextlib.contextmanager
    def write(**options):
        with plain(**options) as db:
            before = db.total_changes
            yield db
            written.append(db.total_changes - before)

    monkeypatch.setattr(database, "write", write)
    desk.entries.mark(S, [Mark(f"f{number}", file_stat(), NOW) for number in range(1000)], NOW)
    assert len(list(desk.entries.walk(S))) == 1000
    assert max(written) <= 102  # a hundred, the generation, the session's revision


def test_a_session_that_is_being_added_holds_up_no_transaction(desk):
    """A transaction takes the ledger's lock, so nobody who has that lock may wait for a transaction."""
    ledger, number = desk.journal._ledger, desk.journal._ledger.id(S)
    with ThreadPoolExecutor(2) as pool:
        with desk.db.write():
            added = pool.submit(desk.sessions.add, "new", NOW)
            deadline = time.monotonic() + 20
            while not ledger._adding.locked() and time.monotonic() < deadline:
                time.sleep(0.001)
            done = threading.Thread(target=ledger.deleted, args=(number, "a"), daemon=True)
            done.start()
            done.join(20)
            assert not done.is_alive()
        added.result(20)
    assert "new" in desk.sessions.names()


def test_a_log_that_was_cut_under_a_reader_is_damage_and_no_trouble_of_the_disk(desk):
    desk.see("a")
    with open(f"{desk.path}-wal", "r+b") as log:
        log.truncate(0)
    with pytest.raises(JournalDamaged):
        desk.entry("a")
    assert not desk.db.in_place()
