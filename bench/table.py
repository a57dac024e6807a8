"""Figures of many runs as a table: medians with their range, and what each is of the ceiling and of the best peer."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

OURS = "cachesync"
CEILINGS = ("raw", "ext4", "find")
"""Who does as little as there can be done; no peers."""


@dataclass(frozen=True)
class Row:
    """What somebody needed for some work in one run. The name of a figure is its unit; the first one is what is
    compared. A ``note`` stands for figures that there are not."""

    work: str
    who: str
    figures: dict[str, float]
    note: str = ""


@dataclass(frozen=True)
class Spread:
    """One figure of all runs."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        if self.least == self.most:
            return number(self.median)
        return f"{number(self.median)} ({number(self.least)}-{number(self.most)})"


@dataclass
class Line:
    """One line of a work's table: ratios are above 1 where it is faster."""

    who: str
    figures: dict[str, Spread]
    note: str
    of_ceiling: float | None = None
    of_best: float | None = None


@dataclass
class Table:
    """One work: ``ceiling`` and ``best`` are who its lines are compared with."""

    work: str
    columns: list[str]
    lines: list[Line]
    ceiling: str | None
    best: str | None


@dataclass
class _Runs:
    figures: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    note: str = ""


def number(value: float) -> str:
    """Three digits that count."""
    if abs(value) >= 100:  # noqa: PLR2004
        return f"{value:,.0f}"
    if abs(value) >= 10:  # noqa: PLR2004
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def is_more_better(unit: str) -> bool:
    """Whether a figure is a rate."""
    return unit.endswith("/s")


def is_ours(who: str) -> bool:
    """Whether somebody is cachesync, one way or another."""
    return who.startswith(OURS)


def tables(rows: Sequence[Row]) -> list[Table]:
    """A table a work, in the order in which they came."""
    works: dict[str, dict[str, _Runs]] = {}
    for row in rows:
        runs = works.setdefault(row.work, {}).setdefault(row.who, _Runs())
        runs.note = runs.note or row.note
        for unit, value in row.figures.items():
            runs.figures[unit].append(value)
    return [_table(work, each) for work, each in works.items()]


def _table(work: str, each: dict[str, _Runs]) -> Table:
    columns = list(dict.fromkeys(unit for runs in each.values() for unit in runs.figures))
    first = {who: runs.figures[columns[0]] for who, runs in each.items() if columns and runs.figures.get(columns[0])}
    if not first:
        return Table(work, columns, [Line(who, {}, runs.note) for who, runs in each.items()], None, None)
    more = is_more_better(columns[0])
    ceiling = next((who for who in CEILINGS if who in first), None)
    peers = [who for who in first if who not in CEILINGS and not is_ours(who)]
    best = (max if more else min)(peers, key=lambda who: statistics.median(first[who])) if peers else None
    lines = []
    for who, runs in each.items():
        line = Line(who, {unit: Spread.of(values) for unit, values in runs.figures.items()}, runs.note)
        line.of_ceiling = _faster(first.get(who), first.get(ceiling or ""), more=more)
        line.of_best = _faster(first.get(who), first.get(best or ""), more=more)
        lines.append(line)
    lines.sort(key=lambda line: _place(line, columns[0], ceiling, more=more))
    return Table(work, columns, lines, ceiling, best)


def _place(line: Line, unit: str, ceiling: str | None, *, more: bool) -> tuple[int, float]:
    if unit not in line.figures:
        return 2, 0.0
    median = line.figures[unit].median
    return int(line.who != ceiling), -median if more else median


def _faster(values: Sequence[float] | None, base: Sequence[float] | None, *, more: bool) -> float | None:
    """How many times as fast as the base, run by run: the median of the ratios."""
    if not values or not base:
        return None
    pairs = [(a, b) if more else (b, a) for a, b in zip(values, base, strict=False)]
    return statistics.median(up / down for up, down in pairs if down) if all(down for _, down in pairs) else None


def markdown(rows: Sequence[Row]) -> str:
    """All tables."""
    return "\n".join("\n".join(_lines(table)) + "\n" for table in tables(rows))


def _lines(table: Table) -> Iterator[str]:
    yield f"### {table.work}"
    yield ""
    heads = ["who", *table.columns]
    if table.ceiling:
        heads.append(f"speed, of {table.ceiling}")
    if table.best:
        heads.append(f"speed, of {table.best}")
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for line in table.lines:
        cells = [f"**{line.who}**" if is_ours(line.who) else line.who]
        cells += [str(line.figures[unit]) if unit in line.figures else "" for unit in table.columns]
        if table.ceiling:
            cells.append("" if line.of_ceiling is None else f"{line.of_ceiling:.2f}")
        if table.best:
            cells.append("" if line.of_best is None else f"{line.of_best:.2f}")
        if line.note:
            cells[min(1, len(cells) - 1)] += f" {line.note}".replace("|", "\\|") if len(cells) > 1 else ""
            if len(cells) == 1:
                cells.append(line.note)
        yield "| " + " | ".join(cell.strip() for cell in cells) + " |"
