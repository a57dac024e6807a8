"""Decisions: their bounds, and that nothing starves or is put out of reach, whatever the clock does."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cachesync.model.errors import (
    CacheSyncError,
    DeleteHeld,
    FileChanging,
    FileUnreadable,
    NoSuchBucket,
    PreconditionFailed,
    RootHalted,
    StoreCredentials,
    StoreDenied,
    StoreNameTaken,
    StoreSlowDown,
    StoreTransient,
    StoreUnreachable,
    Unstorable,
)
from cachesync.model.policy import (
    LINGERING,
    LONGEST_PAUSE,
    MAX_PARTS,
    MIB,
    PART_SIZE,
    SCAN_SHARE,
    SPACING,
    Belief,
    Pace,
    Parallelism,
    Reading,
    Writer,
    after_failure,
    believe_delete,
    cuts_at_line_end,
    defer_for_writer,
    due_after_change,
    is_same_file,
    is_unsettled,
    judge_reading,
    last_deletion,
    looks_temporary,
    may_be_renamed,
    may_be_stored,
    part_size,
    until_next_scan,
    was_reverted,
)
from cachesync.model.values import FileStat, Kind, Stored, Version
from tests.rows import an_entry

PACE = Pace()
TIMES = st.floats(0, 4e9)
STAT = FileStat(Kind.FILE, 10, 10**18, 10**18, 7, 0o644)
NOW = 1.0e9

# -- scans -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cost", "pause"),
    [(0.0, 60.0), (0.1, 60.0), (0.6, 60.0), (0.7, 70.0), (5.0, 500.0), (9.0, 900.0), (1000.0, 900.0)],
)
def test_what_a_scan_costs_puts_the_next_one_off_and_no_longer_than_a_quarter_of_an_hour(cost, pause):
    assert until_next_scan(60.0, cost, chosen=False, watched=True) == pytest.approx(pause)


@given(cost=st.floats(0, 1e6), interval=st.floats(1, 1e7))
def test_scans_take_their_share_at_most_and_an_interval_is_a_lower_bound(cost, interval):
    pause = until_next_scan(interval, cost, chosen=False, watched=True)
    assert pause >= interval
    assert pause <= max(interval, LONGEST_PAUSE)
    assert cost / pause <= SCAN_SHARE * 1.001 or pause >= LONGEST_PAUSE


@pytest.mark.parametrize(("chosen", "watched"), [(True, True), (True, False), (False, False)])
def test_a_chosen_interval_is_kept_and_so_is_any_where_hints_are_missing(chosen, watched):
    assert until_next_scan(5.0, 1000.0, chosen=chosen, watched=watched) == 5.0


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "a.tmp",
        "dir/a.txt.tmp",
        "a.temp",
        "movie.part",
        "movie.partial",
        "x.crdownload",
        "x.download",
        ".a.swp",
        "a.txt~",
        "~$report.docx",
        "#autosave#",
        ".#emacs",
        "tmp8f3k2_aq",
        "dir/tmp.Xa83kQz0",
    ],
)
def test_names_that_look_temporary(path):
    assert looks_temporary(path)


@pytest.mark.parametrize(
    "path",
    [
        "a",
        "notes.txt",
        "main.tf",
        "a.tmp.txt",
        "template.yaml",
        "temp/a.txt",
        "tmp/a.txt",
        "attempt.md",
        "a~b",
        "partial.csv",
        "log.jsonl",
        ".gitignore",
        "C#.md",
        "departed",
        "counterpart",
        "stamp",
        "swp",
        "a.tmpl",
    ],
)
def test_ordinary_names_do_not_look_temporary(path):
    assert not looks_temporary(path)


@pytest.mark.parametrize(
    "path",
    [
        "Cargo.lock",
        "poetry.lock",
        "uv.lock",
        "yarn.lock",
        ".terraform.lock.hcl",
        "tmpl.html",
        "tmpfiles.conf",
        "#general/notes.md",
        "~old/a",
        "data.tmp/a",
    ],
)
def test_well_known_files_that_stay_do_not_look_temporary(path):
    assert not looks_temporary(path)


def test_lines_are_the_unit_of_json_lines_only():
    assert cuts_at_line_end("logs/a.jsonl")
    assert not cuts_at_line_end("a.json")
    assert not cuts_at_line_end("jsonl")


# -- when --------------------------------------------------------------------------------------------------------------


@given(now=TIMES, changed=TIMES, since=TIMES, stored=st.none() | TIMES, temporary=st.booleans())
def test_a_change_is_due_within_spacing_whatever_the_clock_did(now, changed, since, stored, temporary):
    due = due_after_change(now, changed, since, stored, temporary=temporary, pace=PACE)
    assert due <= now + SPACING
    assert due <= since + SPACING
    assert due >= min(now, since + SPACING)


@given(now=TIMES, temporary=st.booleans())
def test_a_first_change_waits_for_settle_or_longer_if_it_looks_temporary(now, temporary):
    due = due_after_change(now, now, now, None, temporary=temporary, pace=PACE)
    assert due == now + (SPACING if temporary else PACE.settle)


@given(now=TIMES, ago=st.floats(0, 1), temporary=st.booleans())
def test_the_time_until_a_change_is_heard_of_is_time_that_was_quiet(now, ago, temporary):
    due = due_after_change(now, now - ago, now, None, temporary=temporary, pace=PACE)
    assert due == (now + SPACING if temporary else max(now, now - ago + PACE.settle))


@given(changes=st.lists(st.floats(0, 0.2), min_size=1, max_size=100))
def test_a_burst_is_sent_at_once_and_then_once_a_second(changes):
    now, since, stored, sends, due = NOW, None, None, [], None
    for pause in changes:
        now += pause
        if due is not None and due <= now:
            sends.append(due)
            stored, since, due = due, None, None
        since = now if since is None else since
        due = due_after_change(now, now, since, stored, temporary=False, pace=PACE)
    assert all(later - earlier >= SPACING - 1e-6 for earlier, later in pairwise(sends))
    assert since is not None
    assert due is not None
    assert due <= since + SPACING


@given(now=TIMES, since=TIMES, changed=TIMES, writer=st.sampled_from(Writer))
def test_a_writer_puts_a_file_off_but_never_past_the_maximum_dirty_age(now, since, changed, writer):
    later = defer_for_writer(now, since, changed, writer, pace=PACE)
    if later is None:
        return
    assert writer is not Writer.CLOSED
    assert now < later <= now + SPACING
    assert later <= since + PACE.max_dirty_age


def test_a_closed_file_and_one_past_its_age_are_not_put_off():
    assert defer_for_writer(NOW, NOW, NOW, Writer.CLOSED, pace=PACE) is None
    assert defer_for_writer(NOW, NOW - 5, NOW, Writer.OPEN, pace=PACE) is None
    assert defer_for_writer(NOW, NOW, NOW, Writer.OPEN, pace=PACE) == NOW + SPACING
    assert defer_for_writer(NOW, NOW - 4.5, NOW, Writer.OPEN, pace=PACE) == NOW + 0.5


def test_where_the_kernel_cannot_tell_a_quiet_file_is_taken_for_closed():
    assert defer_for_writer(NOW, NOW, NOW - SPACING, Writer.UNKNOWN, pace=PACE) is None
    assert defer_for_writer(NOW, NOW, NOW - SPACING / 2, Writer.UNKNOWN, pace=PACE) is not None


def test_a_file_is_unsettled_while_its_bytes_may_change_without_a_trace():
    def unsettled(age, writer, tick=0.020):
        # 2^30 seconds: a float holds a quarter of a microsecond there, so ages compare as they read.
        return is_unsettled(2.0**30 + age, replace(STAT, ctime_ns=2**30 * 10**9), writer, tick=tick)

    assert unsettled(1000, Writer.OPEN)
    assert not unsettled(0, Writer.CLOSED)
    assert unsettled(-1, Writer.UNKNOWN)  # changed after it was read, or the clock went back
    assert unsettled(LINGERING - 1, Writer.UNKNOWN)
    assert not unsettled(LINGERING + 1, Writer.UNKNOWN)
    assert unsettled(0.5, Writer.CLOSED, tick=1.0)  # another write in this second would look the same
    assert not unsettled(1.0, Writer.CLOSED, tick=1.0)


def test_what_nobody_has_written_since_the_boot_or_since_it_was_stored_may_have_been_reverted():
    at = 10 * 10**9
    assert was_reverted(replace(STAT, mtime_ns=at), None, 10.0)
    assert not was_reverted(replace(STAT, mtime_ns=at + 1), None, 10.0)
    stored = Stored(Version("v"), 1, "ab", at + 5, 0o644, 0.0)
    assert was_reverted(replace(STAT, mtime_ns=at + 5), stored, 10.0)
    assert not was_reverted(replace(STAT, mtime_ns=at + 6), stored, 10.0)


# -- what was read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, Reading.STABLE),
        ({"mode": 0o600}, Reading.STABLE),
        ({"size": 11, "mtime_ns": 10**18 + 1, "ctime_ns": 10**18 + 1}, Reading.GREW),
        ({"size": 11}, Reading.GREW),
        ({"size": 9}, Reading.TORN),
        ({"mtime_ns": 1}, Reading.TORN),
        ({"ctime_ns": 1}, Reading.TORN),
        ({"inode": 8}, Reading.TORN),
        ({"inode": 8, "size": 11}, Reading.TORN),
    ],
)
def test_a_reading_is_judged_by_the_stat_before_and_after(change, verdict):
    assert judge_reading(STAT, replace(STAT, **change)) is verdict


@given(st.integers(0, 5 * 2**40))
@example(PART_SIZE)
@example(PART_SIZE + 1)
@example(PART_SIZE * MAX_PARTS)
@example(PART_SIZE * MAX_PARTS + 1)
@example(5 * 2**40)
def test_a_large_file_has_at_most_ten_thousand_parts_of_whole_mebibytes(size):
    part = part_size(size)
    if part is None:
        assert size <= PART_SIZE
        return
    assert size > PART_SIZE
    assert part >= PART_SIZE
    assert part % MIB == 0
    assert -(-size // part) <= MAX_PARTS
    assert part <= 5 * 2**30


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"ctime_ns": 1}, True),
        ({"mode": 0o600}, True),
        ({"inode": 8}, False),
        ({"size": 11}, False),
        ({"mtime_ns": 1}, False),
        ({"kind": Kind.LINK}, False),
    ],
)
def test_a_rename_keeps_inode_size_and_mtime(change, same):
    assert is_same_file(STAT, replace(STAT, **change)) is same
    assert is_same_file(replace(STAT, **change), STAT) is same


def test_a_file_whose_bytes_were_the_last_thing_to_change_was_not_renamed_since():
    assert not may_be_renamed(replace(STAT, mtime_ns=7, ctime_ns=7))
    assert may_be_renamed(replace(STAT, mtime_ns=7, ctime_ns=8))
    assert may_be_renamed(replace(STAT, mtime_ns=8, ctime_ns=7))  # dated by hand


# -- failures ----------------------------------------------------------------------------------------------------------

QUICK = [FileChanging("read", "a"), PreconditionFailed("put", "a")]
BACKING_OFF = [StoreTransient("put", "a"), StoreSlowDown("put", "a"), StoreUnreachable("put", "a"), RootHalted("look")]
PARKED = [
    StoreDenied("put", "a"),
    NoSuchBucket("put", "a"),
    Unstorable("store", "a"),
    FileUnreadable("read", "a"),
    DeleteHeld("delete", "a"),
    CacheSyncError("do"),
    ValueError("a defect of ours"),
]


ALL = [*QUICK, *BACKING_OFF, *PARKED, StoreCredentials("put"), StoreNameTaken("put", "a")]


@pytest.mark.parametrize("error", ALL, ids=repr)
@given(attempts=st.integers(1, 10**6), now=TIMES)
def test_a_failure_is_always_tried_again_within_ten_minutes(error, attempts, now):
    verdict = after_failure(error, attempts, now)
    assert now <= verdict.due_at <= now + 600.001


@pytest.mark.parametrize("error", QUICK, ids=repr)
@given(attempts=st.integers(1, 10**6))
def test_a_file_that_moved_on_is_tried_again_within_a_second(error, attempts):
    verdict = after_failure(error, attempts, NOW)
    assert NOW + 0.05 <= verdict.due_at <= NOW + 1.0
    assert not verdict.failed


@pytest.mark.parametrize("error", BACKING_OFF, ids=repr)
@given(attempts=st.integers(1, 10**6))
def test_a_transient_failure_backs_off_to_thirty_seconds_and_is_not_listed(error, attempts):
    verdict = after_failure(error, attempts, NOW)
    assert verdict.due_at <= NOW + min(30.0, 0.2 * 2 ** min(attempts, 20)) + 1e-6
    assert not verdict.failed


@pytest.mark.parametrize("error", PARKED, ids=repr)
@given(attempts=st.integers(1, 10**6))
def test_a_permanent_failure_is_listed_and_tried_slowly(error, attempts):
    verdict = after_failure(error, attempts, NOW)
    assert verdict.due_at >= NOW + 5.0
    assert verdict.failed


def test_refused_credentials_get_one_more_try_at_once():
    assert after_failure(StoreCredentials("put"), 1, NOW) == after_failure(StoreCredentials("put"), 1, NOW)
    assert not after_failure(StoreCredentials("put"), 1, NOW).failed
    assert after_failure(StoreCredentials("put"), 1, NOW).due_at == NOW
    assert after_failure(StoreCredentials("put"), 2, NOW).failed


def test_a_name_that_is_taken_is_waited_for_and_then_listed():
    early = [after_failure(StoreNameTaken("put", "a"), attempt, NOW) for attempt in range(1, 9)]
    assert not any(verdict.failed for verdict in early)
    assert all(verdict.due_at <= NOW + 1 for verdict in early)
    assert after_failure(StoreNameTaken("put", "a"), 9, NOW).failed


def test_back_off_has_jitter():
    assert len({after_failure(StoreTransient("put"), 5, NOW).due_at for _ in range(50)}) > 25


# -- deletes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age", "tombstones", "stored", "flushing", "belief"),
    [
        (0.0, 1, 10, False, Belief.TOO_SOON),
        (1.99, 1, 10, False, Belief.TOO_SOON),
        (2.0, 1, 10, False, Belief.BELIEVED),
        (0.0, 1, 10, True, Belief.BELIEVED),
        (-5.0, 1, 10, False, Belief.BELIEVED),  # the clock was set back: not out of reach
        (9.0, 100, 100, False, Belief.BELIEVED),
        (9.0, 101, 202, False, Belief.BELIEVED),
        (9.0, 101, 201, False, Belief.HELD),
        (9.0, 101, 201, True, Belief.HELD),
        (0.0, 101, 201, False, Belief.TOO_SOON),
        (9.0, 0, 0, False, Belief.BELIEVED),
    ],
)
def test_p08_what_is_believed_of_deletions(age, tombstones, stored, flushing, belief):
    found = believe_delete(
        NOW, NOW - age, tombstones=tombstones, stored=stored, flushing=flushing, watched=True, pace=PACE
    )
    assert found is belief


def entry(**changes):
    return an_entry(**{"born": 5, "generation": 5, "synced": 0, "stored": None} | changes)


def test_an_object_may_be_there_if_somebody_tried_or_may_have_tried():
    assert not may_be_stored(entry(), opened_at=4)
    assert may_be_stored(entry(tried_at=NOW), opened_at=4)
    assert may_be_stored(entry(), opened_at=5)
    assert may_be_stored(entry(generation=9), opened_at=5), "a later mark does not undo a try"


# -- how many at once --------------------------------------------------------------------------------------------------

STEPS = st.lists(st.sampled_from(["succeeded", "answered", "slow_down", "unreachable", "resume"]), max_size=200)


@given(most=st.integers(1, 64), steps=STEPS, now=TIMES)
def test_parallelism_stays_in_its_bounds_and_never_pauses_long(most, steps, now):
    pace, silent = Parallelism(most), False
    for step in steps:
        before = pace.limit
        down = pace.paused_until > now
        if step == "unreachable":
            pace.unreachable(now)
            silent = True
        else:
            getattr(pace, step)()
            silent = silent and step == "resume"
        assert 1 <= pace.limit <= most
        assert pace.paused_until <= now + 5.0
        assert pace.down_since == (now if silent else None)
        if step == "resume":
            assert pace.limit == (most if down else before), "it ends an outage, not what SlowDown has asked for"


def test_parallelism_halves_and_grows_by_one_a_round():
    pace = Parallelism(8)
    pace.slow_down()
    assert pace.limit == 4
    for _ in range(3):
        pace.succeeded()
    assert pace.limit == 4
    pace.succeeded()
    assert pace.limit == 5
    for _ in range(5):
        pace.succeeded()
    assert pace.limit == 6
    for _ in range(100):
        pace.succeeded()
    assert pace.limit == 8


def test_an_outage_is_asked_about_one_at_a_time_with_growing_pauses_until_an_answer():
    pace = Parallelism(32, jitter=lambda: 1.0)
    pauses = []
    for _ in range(10):
        pace.unreachable(NOW)
        pauses.append(pace.paused_until - NOW)
    assert pauses == sorted(pauses)
    assert pauses[0] == pytest.approx(0.4)
    assert pauses[-1] == pytest.approx(5.0)
    assert (pace.limit, pace.down_since) == (1, NOW)
    pace.resume()
    assert (pace.limit, pace.down_since, pace.paused_until) == (32, NOW, 0.0), "tried again, but nobody answered yet"
    pace.unreachable(NOW + 50)
    assert (pace.limit, pace.down_since) == (1, NOW)
    pace.answered()
    assert (pace.limit, pace.down_since, pace.paused_until) == (32, None, 0.0)


@pytest.mark.parametrize(
    ("seen", "gone", "made", "last"),
    [
        (100.0, 0.0, 0.0, 100.0),  # nothing else went
        (100.0, 90.0, 80.0, 100.0),
        (100.0, 101.5, 90.0, 101.5),  # an rm -rf is at what is never stored
        (100.0, 160.0, 90.0, 160.0),  # ... for a minute
        (100.0, 900.0, 90.0, 400.0),
        (100.0, 101.5, 101.0, 101.5),
        (100.0, 500.0, 499.0, 110.0),  # temporary files come and go all the time
        (100.0, 105.0, 101.0, 105.0),  # something was made at the beginning of an rm -rf
        (100.0, 160.0, 101.0, 160.0),  # ... that goes on long after
    ],
)
def test_what_goes_without_being_stored_puts_deletions_off_for_a_while(seen, gone, made, last):
    assert last_deletion(seen, gone, made, pace=Pace(delete_settle=2.0)) == last
