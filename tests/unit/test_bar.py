"""What a progress bar shows."""

from __future__ import annotations

import io

from cachesync.cli.bar import Bar
from cachesync.model.outcomes import Progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_rate_and_time_left() -> None:
    clock = Clock()
    bar = Bar("source", io.StringIO(), 200, clock)
    clock.now = 10.0
    line = bar.line(Progress(100, 400, 100_000_000, 400_000_000))
    assert line == "source [######..................]  25%  100/400 files  100.0 MB/400.0 MB  10.0 MB/s  30 s left"
    assert "100%  400/400 files" in bar.line(Progress(400, 400, 400_000_000, 400_000_000))
    assert "left" not in bar.line(Progress(400, 400, 400_000_000, 400_000_000))


def test_empty_files_are_work_too() -> None:
    assert " 50%" in Bar("s", io.StringIO(), 200).line(Progress(5, 10, 0, 0))


def test_nothing_to_do_and_nothing_known() -> None:
    assert "  0%  0/0 files" in Bar("s", io.StringIO(), 200).line(Progress())


def test_it_fits_the_terminal_and_is_drawn_now_and_then() -> None:
    clock, out = Clock(), io.StringIO()
    bar = Bar("a name\x1b[31m\n", out, 40, clock)
    bar.tell(Progress(1, 10, 1, 10))
    bar.tell(Progress(2, 10, 2, 10))
    clock.now = 0.5
    bar.tell(Progress(3, 10, 3, 10))
    drawn = out.getvalue().split("\r\x1b[K")[1:]
    assert len(drawn) == 2
    assert all(len(line) < 40 and line.startswith("a name\\x1b[31m\\n [") for line in drawn)
