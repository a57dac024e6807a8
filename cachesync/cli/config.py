"""``cachesync config``: every setting, its value and where it comes from. Secrets are masked already."""

from __future__ import annotations

import argparse
import json

from cachesync.cli.connect import Connect, load_config
from cachesync.cli.formatting import one_line
from cachesync.model.errors import ExitCode


def run(options: argparse.Namespace, _connect: Connect) -> int:
    """Print them. JSON is a list of ``{"name", "value", "source"}``."""
    rows = load_config(options).sources()
    if options.json:
        print(json.dumps([{"name": row.name, "value": row.value, "source": row.source} for row in rows]))
        return ExitCode.DONE
    name_width = max(len(row.name) for row in rows)
    value_width = min(50, max(len(row.value) for row in rows))
    for row in rows:
        print(f"{row.name:{name_width}}  {one_line(row.value):{value_width}}  {one_line(row.source)}")
    return ExitCode.DONE
