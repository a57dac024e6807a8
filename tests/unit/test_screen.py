"""The live view of status: the same facts at every size, and no name that acts on the terminal."""

import io
from collections.abc import Sequence

import pytest
from rich.console import Console, Group

from cachesync.cli.screen import View, lines
from cachesync.model.reports import DaemonStatus, Failure, SessionStatus, StatusReport

DAEMON = DaemonStatus(4711, "0.1.0", 75.0)
SAFE = SessionStatus("demo", "open", 12, 3_400_000, 0, 0, 0, 0, 0, 0, None)
BUSY = SessionStatus("busy", "open", 1_234, 5_000_000, 30, 2_000_000, 4, 0, 7, 0, 2.5)
FAILED = SessionStatus("bad", "open", 3, 9, 2, 9, 0, 2, 0, 0, 61.0, [Failure("x", "denied"), Failure("y", "too long")])


def drawn(view: View, width: int = 100, height: int = 30, encoding: str = "utf-8") -> list[str]:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding, errors="backslashreplace")
    console = Console(file=out, width=width, height=height, force_terminal=False, highlight=False)
    console.print(Group(*lines(view, width, height, console.options)))
    out.flush()
    return raw.getvalue().decode(encoding).splitlines()


def report(sessions: Sequence[SessionStatus], **given: object) -> StatusReport:
    told = {"daemon": DAEMON, "notes": [], "rate": 1_000_000.0, "store_silent_for": None} | given
    return StatusReport("/srv/sessions", "s3://bucket/agents", sessions=sessions, **told)  # type: ignore[arg-type]


def test_it_has_every_fact_of_status():
    shown = drawn(View(report([SAFE, BUSY, FAILED], notes=["no versioning"])))
    text = "\n".join(shown)
    assert shown[0] == "\u25cf 2 failures, 32 files not stored"
    for fact in ("/srv/sessions", "s3://bucket/agents", "answers", "pid 4711", "up 1 min 15 s", "no versioning"):
        assert fact in text
    assert "1.0 MB/s, 2.0 MB to send, about 2.00 s" in text
    assert "failed bad/x: denied" in shown
    assert "failed bad/y: too long" in shown
    (head,) = (line.split() for line in shown if line.startswith("SESSION"))
    rows = {line.split()[0]: line.split() for line in shown if line.split()[:1] in (["demo"], ["busy"], ["bad"])}
    assert list(rows) == ["bad", "busy", "demo"]
    busy = dict(zip(head, rows["busy"], strict=True))
    assert busy == {
        "SESSION": "busy", "STATE": "open", "FILES": "1,234", "SIZE": "5.0MB", "DIRTY": "30", "UNSENT": "2.0MB",
        "FLIGHT": "4", "FAILED": "0", "EVICTED": "7", "AGE": "2s", "SAFE": "NO",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sessions", "given", "verdict"),
    [
        ([SAFE], {}, "\u25cf everything is stored"),
        ([BUSY], {}, "\u25cf 30 files not stored yet, 2.0 MB, 4 in flight"),
        ([SAFE], {"daemon": None}, "\u25cf everything that was seen is stored; no daemon looks for more"),
        ([], {}, "\u25cf everything is stored"),
    ],
)
def test_the_first_line_is_the_answer(sessions: list[SessionStatus], given: dict[str, object], verdict: str):
    assert drawn(View(report(sessions, **given)))[0] == verdict


def test_a_daemon_that_is_away_is_told_of_with_what_was_known():
    shown = drawn(View(report([SAFE]), age=12.0, trouble="it is not there"))
    assert shown[0] == "\u25cf not known now"
    assert "daemon  no answer for 12 s, what is shown was so then: it is not there" in shown
    assert any(line.startswith("demo") for line in shown)
    assert drawn(View(None, trouble="no answer")) == ["no answer"]
    assert drawn(View(None)) == ["asking..."]


def test_a_store_that_is_silent_is_told_of():
    text = "\n".join(drawn(View(report([BUSY], store_silent_for=7.2))))
    assert "has not answered for 7.20 s" in text
    assert "2.0 MB wait for the store" in text


@pytest.mark.parametrize("width", [40, 60, 80, 200])
@pytest.mark.parametrize("height", [12, 24, 60])
def test_it_fits_every_terminal(width: int, height: int):
    failed = [Failure("p" * 300, "cause " * 50)]
    numbers = (10**13, 10**5, 10**12, 32, 1, 10**6, 0, 10**6)
    many = [SessionStatus(f"session-{n:04}-{'x' * 40}", "open", n * 10**6, *numbers, failed) for n in range(300)]
    shown = drawn(View(report(many, notes=["n" * 500] * 9)), width, height)
    assert len(shown) <= height
    assert max(map(len, shown)) <= width
    text = "\n".join(shown)
    assert "session-000" in text
    assert "ppp: cause" in text, "however long the path is"
    for head in ("DIRTY", "FAILED", "AGE", "SAFE") if width >= 60 else ("DIRTY",):
        assert head in text
    assert "more, " in text


def test_a_wide_terminal_shows_more_than_a_narrow_one():
    wide, narrow = (" ".join(drawn(View(report([FAILED, BUSY])), width)) for width in (120, 60))
    assert all(head in wide for head in ("STATE", "EVICTED", "FLIGHT", "UNSENT"))
    assert "EVICTED" not in narrow


def test_no_name_acts_on_the_terminal():
    evil = "a\x1b[2J\x07\r\n\u202e[red]x[/red]\udcff"
    session = SessionStatus(evil, "open", 1, 1, 1, 1, 0, 1, 0, 0, 1.0, [Failure(evil, evil)])
    given = report([session], notes=[evil])
    shown = "\n".join(drawn(View(given, trouble=evil.encode("unicode_escape").decode())))
    assert not set(shown) & {"\x1b", "\x07", "\r", "\u202e", "\udcff"}
    assert "[red]x[/red]" in shown, "a name is no markup"


def test_a_terminal_without_unicode_gets_none():
    shown = drawn(View(report([SAFE])), encoding="ascii")
    assert shown[0] == "* everything is stored"
    assert all(line.isascii() for line in shown)
