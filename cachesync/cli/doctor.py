"""``cachesync doctor``: looks at everything that cachesync needs, and says what mends what it finds."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from cachesync.cli.connect import Connect, load_config
from cachesync.cli.formatting import count, one_line

if TYPE_CHECKING:
    from cachesync.ops.doctor.finding import Finding

_VERDICT_WIDTH = 7
_CHECK_WIDTH = 11


def run(options: argparse.Namespace, _connect: Connect) -> int:
    """Print each finding as it comes; 1 if one is a problem. JSON is a list of them."""
    config = load_config(options)
    from cachesync.ops.doctor.finding import Verdict, exit_code
    from cachesync.ops.doctor.run import examine
    from cachesync.store.devserver import DevServer

    dev_server = None
    if options.dev_server is not None:
        dev_server = DevServer(options.dev_server)
        dev_server.attach()
    found = []
    for finding in examine(config, dev_server):
        found.append(finding)
        if not options.json:
            _show(finding)
    if options.json:
        print(json.dumps([finding.json() for finding in found]))
        return exit_code(found)
    problems = sum(finding.verdict is Verdict.PROBLEM for finding in found)
    warnings = sum(finding.verdict is Verdict.WARNING for finding in found)
    print(f"{count(problems, 'problem')}, {count(warnings, 'warning')}")
    return exit_code(found)


def _show(finding: Finding) -> None:
    seen = one_line(finding.seen)
    print(f"{finding.verdict.value:{_VERDICT_WIDTH}}  {finding.check:{_CHECK_WIDTH}}  {seen}", flush=True)
    if finding.mend:
        word = "hint" if finding.verdict == "ok" else "mend"
        print(f"{'':{_VERDICT_WIDTH}}  {'':{_CHECK_WIDTH}}  {word}: {one_line(finding.mend)}", flush=True)
