"""The journal's transactions and statements. A commit takes the one writer's lock; a durable one waits for the disk."""

from __future__ import annotations

import os

import pytest

from cachesync.watch.hints import Hint
from tests.budgets.conftest import Counted, S
from tests.budgets.counting import Done

pytestmark = pytest.mark.s3

MANY = 12
NAMES = [f"d{number % 3}/f{number:02}" for number in range(MANY)]


def tables(done: Done) -> list[list[str]]:
    """Of each commit, what it changes: ``insert entry``."""
    return [[_target(sql) for sql in commit if not sql.startswith(("SELECT", "WITH"))] for commit in done.commits]


def _target(sql: str) -> str:
    words = sql.replace("INSERT OR IGNORE", "INSERT").split()
    verb = words[0].lower()
    return f"{verb} {words[1] if verb == 'update' else words[2]}"


MARK = ["update meta", "insert entry", "update session"]
CONFIRM = ["insert entry", "update entry", "update session"]


# -- scans -------------------------------------------------------------------------------------------------------------


def test_a_scan_that_finds_nothing_new_writes_nothing_and_asks_a_question_a_directory(counting: Counted):
    counting.write(*NAMES)
    counting.settle()
    with counting.counted() as done:
        counting.driven.scan(S, recheck=True)
    assert (done.commits, done.writes) == ([], []), str(done)
    assert len(done.reads) == 2 + 4, str(done)  # the session, its directories, and what is in each of four


def test_all_marks_of_a_scan_are_one_commit(counting: Counted):
    counting.write(*(f"f{number}" for number in range(MANY)))
    with counting.counted() as done:
        counting.driven.scan(S)
    assert tables(done) == [["update meta", *["insert entry"] * MANY, "update session"]], str(done)


def test_all_marks_of_a_round_of_hints_are_one_commit_and_a_question_each(counting: Counted):
    """What is known of the path. Only of what was known before it is asked whether it counts as evicted."""
    counting.write(*NAMES)
    with counting.counted() as done:
        counting.engine.scanner.notice(S, dict.fromkeys(NAMES, Hint.CHANGED))
    assert len(done.commits) == 1, str(done)
    assert len(done.reads) == 1 + MANY, str(done)
    for name in NAMES:
        counting.write(name)
    with counting.counted() as done:
        counting.engine.scanner.notice(S, dict.fromkeys(NAMES, Hint.CHANGED))
    assert len(done.commits) == 1, str(done)
    assert len(done.reads) == 1 + 2 * MANY, str(done)


# -- storing -----------------------------------------------------------------------------------------------------------


def test_a_new_file_is_a_commit_to_mark_it_and_one_to_confirm_it_and_no_wait_for_the_disk(counting: Counted):
    counting.write("a")
    with counting.counted() as done:
        counting.notice()
        assert counting.driven.pump() == 1
    assert tables(done) == [MARK, CONFIRM], str(done)
    assert done.durable == 0, str(done)


def test_many_new_files_are_a_commit_each_and_one_for_all_marks(counting: Counted):
    counting.write(*(f"f{number}" for number in range(MANY)))
    with counting.counted() as done:
        counting.notice()
        assert counting.driven.pump() == MANY
    assert tables(done)[1:] == [CONFIRM] * MANY, str(done)
    assert done.durable == 0, str(done)


def test_a_transfer_asks_the_journal_one_question_and_two_rounds_of_dispatch_four(counting: Counted):
    """A file's: the entry, and is its session learned. A round's: which sessions have work, and the work of one."""
    counting.write(*NAMES)
    counting.notice()
    with counting.counted() as done:
        assert counting.driven.pump() == MANY
    assert len(done.reads) == MANY + 4, str(done)


def test_a_file_that_may_have_been_renamed_is_one_question_more(counting: Counted):
    counting.write("a")
    os.utime(counting.session / "a", ns=(10**18, 10**18))  # its inode was changed after its bytes, as by a rename
    counting.notice()
    with counting.counted() as done:
        assert counting.driven.pump() == 1
    assert len(done.reads) == 2 + 4, str(done)


def test_a_delete_is_a_mark_a_commit_that_hardens_it_and_one_to_confirm(counting: Counted):
    (counting.session / "first").unlink()
    with counting.counted() as done:
        counting.notice()
        assert counting.driven.pump() == 1
    assert len(done.commits) == 3, str(done)
    assert done.durable == 1, str(done)


# -- flush -------------------------------------------------------------------------------------------------------------


def test_a_flush_of_what_is_stored_changes_no_row_and_asks_14_questions(counting: Counted):
    """Two transactions all the same, which find nothing to change: what is due is hurried, conflicts are told of."""
    database = counting.engine.journal._ledger.db
    before = database._writer.total_changes
    with counting.counted() as done:
        counting.flush()
    assert database._writer.total_changes == before, str(done)
    assert tables(done) == [["update entry"], ["update conflict"]], str(done)
    assert done.durable == 0, str(done)
    assert len(done.reads) == 14, str(done)  # one of them for each directory, and there is one


def test_a_flush_with_one_change_is_four_commits_and_20_questions(counting: Counted):
    counting.write("a")
    with counting.counted() as done:
        counting.flush()
    hurry, manifest = ["update entry"], ["delete entry", "update entry", "update session", "update conflict"]
    manifest.append("update meta")
    assert tables(done) == [MARK, hurry, CONFIRM, manifest], str(done)
    assert done.durable == 0, str(done)
    assert len(done.reads) == 20, str(done)


# -- a session's life --------------------------------------------------------------------------------------------------


def test_evict_is_one_durable_commit_for_a_hundred_files_and_a_pulse(counting: Counted):
    counting.write(*(f"f{number}" for number in range(120)))
    counting.settle()
    with counting.counted() as done:
        assert counting.engine.lifecycle.evict(S).evicted == 121
    assert (len(done.commits), done.durable) == (3, 2), str(done)


def test_open_is_at_most_a_commit_a_file_and_7_more_and_none_of_them_waits_for_the_disk(counting: Counted):
    """What has come meanwhile is put in place together, in one commit: how much that is, the store's speed decides."""
    counting.write(*NAMES)
    counting.settle()
    counting.engine.lifecycle.evict(S)
    with counting.counted() as done:
        assert counting.engine.lifecycle.open(S).fetched == MANY + 1
    placing = [commit for commit in tables(done) if "update entry" in commit]
    assert len(placing) <= MANY + 1 + 1, str(done)  # and one for the directories
    assert len(done.commits) - len(placing) == 6, str(done)
    assert done.durable == 0, str(done)


def test_a_file_that_is_brought_alone_is_one_commit_and_6_questions(counting: Counted):
    """The session; the file, when it is planned, fetched and placed; its directory, when it is planned and finished."""
    counting.write(*NAMES)
    counting.settle()
    counting.engine.lifecycle.evict(S)
    counting.engine.service.ondemand.bring(S, NAMES[0])
    with counting.counted() as done:
        counting.engine.service.ondemand.bring(S, NAMES[3])
    assert [commit.count("update entry") for commit in tables(done)] == [3], str(done)
    assert len(done.reads) == 6, str(done)
    assert done.durable == 0, str(done)


def test_verify_writes_nothing(counting: Counted):
    with counting.counted() as done:
        counting.engine.lifecycle.verify(S)
    assert (done.commits, done.writes) == ([], []), str(done)
