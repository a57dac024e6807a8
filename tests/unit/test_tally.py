"""A migration's sums."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cachesync.model.errors import ExitCode
from cachesync.ops.migrate.tally import Tally, put_requests

MIB = 1024 * 1024
OUTCOMES = st.lists(st.tuples(st.sampled_from(["sent", "present", "failed", "pending"]), st.integers(0, 2**40)))


@given(OUTCOMES)
def test_every_file_is_in_exactly_one_place(outcomes):
    tally = Tally()
    for number, (outcome, size) in enumerate(outcomes):
        if outcome == "failed":
            tally.fail(f"s/{number}", "why", size)
        elif outcome == "pending":
            tally.wait(f"s/{number}", "why", size)
        else:
            tally.stored(size, sent=outcome == "sent")
    report = tally.report("/source", dry_run=False, sessions=1, requests=2000, seconds=1.0)
    assert report.files == len(outcomes) == report.sent + report.present + len(report.failed) + len(report.pending)
    assert report.bytes == sum(size for _, size in outcomes)
    assert report.sent_bytes == sum(size for outcome, size in outcomes if outcome == "sent")
    assert report.present_bytes == sum(size for outcome, size in outcomes if outcome == "present")
    kinds = {outcome for outcome, _ in outcomes}
    expected = ExitCode.UNFINISHED if "pending" in kinds else ExitCode.DONE
    assert report.exit_code == (ExitCode.FAILED if "failed" in kinds else expected)
    assert report.dollars == 0.01


def test_the_prices_of_the_design_note():
    tally = Tally()
    for _ in range(10_000):
        tally.stored(50_000, sent=True)
    report = tally.report("/source", dry_run=True, sessions=1000, requests=10_000, seconds=0.0)
    assert round(report.dollars, 2) == 0.05
    assert round(report.dollars_a_month, 2) == 0.01


def test_requests_of_one_object():
    assert put_requests(0) == put_requests(16 * MIB) == 1
    assert put_requests(16 * MIB + 1) == 4
    assert put_requests(160 * MIB) == 12
