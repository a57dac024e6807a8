"""The line of a command that waits for a store which does not answer."""

from __future__ import annotations

import time
from typing import Any

import pytest

from cachesync.cli import waiting
from cachesync.cli.waiting import told_of_silence
from cachesync.model.errors import DaemonUnavailable
from cachesync.model.reports import StatusReport


class Verbs:
    """Answers ``status`` with what is left of ``silences``, the last one for ever."""

    def __init__(self, *silences: float | Exception | None) -> None:
        self.silences = list(silences)
        self.looks = 0

    def status(self) -> StatusReport:
        self.looks += 1
        silent = self.silences.pop(0) if len(self.silences) > 1 else self.silences[0]
        if isinstance(silent, Exception):
            raise silent
        return StatusReport("/r", "s3://b", None, store_silent_for=silent)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PATIENCE", 0.05)
    monkeypatch.setattr(waiting, "INTERVAL", 0.01)


def said(verbs: Any, capsys: pytest.CaptureFixture[str], looks: int) -> str:
    with told_of_silence(verbs):
        deadline = time.monotonic() + 10
        while verbs.looks < looks:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(0.1)
    return capsys.readouterr().err


def test_it_is_said_once_as_soon_as_the_store_is_silent(capsys: pytest.CaptureFixture[str]):
    verbs = Verbs(None, DaemonUnavailable("ask"), 6.5, 7.0)
    told = said(verbs, capsys, 3)
    assert told == "cachesync: waiting for the store, which has not answered for 6.50 s\n"
    assert verbs.looks == 3


def test_a_store_that_answers_is_not_spoken_of(capsys: pytest.CaptureFixture[str]):
    assert said(Verbs(None), capsys, 4) == ""


def test_a_command_that_is_quick_asks_nothing(capsys: pytest.CaptureFixture[str]):
    verbs: Any = Verbs(9.0)
    with told_of_silence(verbs):
        pass
    time.sleep(0.15)
    assert (verbs.looks, capsys.readouterr().err) == (0, "")
