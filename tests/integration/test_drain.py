"""The end of a daemon with many sessions: what it looks at, what it leaves, and what it says (P12; core D5)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cachesync.daemon.drain import Drain
from cachesync.model.errors import ExitCode
from tests.driving import Driven
from tests.flat_store import FlatStore

MANY = 100


@pytest.fixture
def driven(tmp_path: Path) -> Iterator[Driven]:
    """Every session is stored, and its manifest is written."""
    for number in range(MANY):
        (tmp_path / f"root/s{number}").mkdir(parents=True)
        (tmp_path / f"root/s{number}/a").write_text("1")
    driven = Driven(tmp_path / "root", FlatStore())
    for number in range(MANY):
        assert driven.flush(f"s{number}").stored
    yield driven
    driven.close()


def test_p12_sessions_that_are_stored_cost_a_look_and_no_request(driven: Driven, caplog: pytest.LogCaptureFixture):
    requests = driven.store.requests  # type: ignore[attr-defined]
    with caplog.at_level("INFO"):
        assert Drain(driven.engine, time.monotonic() + 60).run() is ExitCode.DONE
    assert driven.store.requests == requests  # type: ignore[attr-defined]
    assert caplog.messages == ["drained: everything is stored"]


def test_p12_at_the_deadline_nothing_more_is_begun_and_stored_files_are_not_called_unstored(
    driven: Driven, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    scanned: list[str] = []
    monkeypatch.setattr(driven.engine.scanner, "scan", lambda name, **_: scanned.append(name))
    assert Drain(driven.engine, time.monotonic()).run() is ExitCode.UNFINISHED
    assert scanned == []
    assert caplog.messages == [f"{MANY} sessions were not scanned in time; the next start scans them"]
