"""What is kept of a run: ``bench-results/RUN.json``, ``RUN.md``, and plots where matplotlib is."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.table import Row, Table, is_ours, markdown, tables


def save(folder: Path, name: str, about: Mapping[str, Any], rows: Sequence[Row]) -> list[Path]:
    """Write all; returns the paths, that of the tables first."""
    folder.mkdir(exist_ok=True)
    table, data = folder / f"{name}.md", folder / f"{name}.json"
    said = "\n".join(f"- {key}: {_short(value)}" for key, value in about.items())
    table.write_text(f"# Benchmark {name}\n\n{said}\n\n{markdown(rows)}", encoding="utf-8")
    kept = {"about": about, "rows": [dataclasses.asdict(row) for row in rows]}
    data.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return [table, data, *plots(folder, name, tables(rows))]


def _short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(each)}" for key, each in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def plots(folder: Path, name: str, of: Sequence[Table]) -> list[Path]:
    """A bar for each median, with the range, one picture a work; none without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return []
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    drawn: list[Path] = []
    for table in of:
        unit = table.columns[0] if table.columns else ""
        lines = [line for line in reversed(table.lines) if unit in line.figures]
        if len(lines) < 2:  # noqa: PLR2004 -- one bar says nothing
            continue
        spreads = [line.figures[unit] for line in lines]
        figure, axes = plt.subplots(figsize=(8, 0.6 + 0.4 * len(lines)), layout="constrained")
        ranges = [[each.median - each.least for each in spreads], [each.most - each.median for each in spreads]]
        colours = ["#c2410c" if is_ours(line.who) else "#94a3b8" for line in lines]
        axes.barh([line.who for line in lines], [each.median for each in spreads], xerr=ranges, color=colours)
        axes.set(xlabel=unit, title=table.work)
        drawn.append(folder / f"{name}-{len(drawn) + 1}.png")
        figure.savefig(drawn[-1], dpi=120)
        plt.close(figure)
    return drawn
