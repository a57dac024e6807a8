"""``cachesync cost``: what the store costs a month, from given numbers or from what is in the bucket."""

from __future__ import annotations

import argparse
import json
import time
from contextlib import closing
from typing import TYPE_CHECKING

from cachesync.cli.connect import Connect, load_config
from cachesync.cli.formatting import count, size
from cachesync.model.errors import ConfigError, ExitCode
from cachesync.store.devserver import DevServer

if TYPE_CHECKING:
    from cachesync.ops.cost.estimate import Use

NOTE = {"sessions": 1000, "artifacts": 10, "size": 50_000, "writes": 1, "reads": 5}
"""The design note's example: it fills up what is not given."""


def run(options: argparse.Namespace, _connect: Connect) -> int:
    """Print the costs by storage class. If no number is given, the bucket is asked."""
    from cachesync.ops.cost.estimate import cost, given, prices

    numbers = {name: value for name in NOTE if (value := getattr(options, name)) is not None}
    use = given(**(NOTE | numbers)) if numbers else _counted(options)
    known = prices()
    costs = [cost(use, of) for of in known.classes]
    if options.json:
        what = {"objects": use.objects, "stored": use.stored, "bytes": use.bytes, "puts": use.puts, "gets": use.gets}
        rows = [row.json() for row in costs]
        print(json.dumps({**what, "costs": rows, "prices": {"written": known.written, "region": known.region}}))
        return ExitCode.DONE
    past = use.stored - use.objects
    kept = count(use.objects, "object") + (f" and {count(past, 'past version')}" if past else "")
    print(f"{kept}, {size(use.bytes)}; in a month {use.puts:,} PUT and {_requests(use)} GET requests")
    print(f"{'US dollars a month':20}{'STORAGE':>10}{'PUT':>10}{'GET':>10}{'TOTAL':>10}")
    for row in costs:
        print(f"{row.name:20}{row.storage:10.2f}{row.puts:10.2f}{row.gets:10.2f}{row.total:10.2f}")
    print(f"prices of {known.region}, written down on {known.written}; see {known.source}")
    return ExitCode.DONE


def _requests(use: Use) -> str:
    return "uncounted" if use.gets is None else f"{use.gets:,}"


def _counted(options: argparse.Namespace) -> Use:
    config = load_config(options)
    from cachesync.daemon.store_factory import open_store
    from cachesync.ops.bucket.desired import Wanted
    from cachesync.ops.cost.estimate import counted

    bucket = config.store.bucket
    if bucket is None:
        cause = "the store is no bucket"
        raise ConfigError("count the cost of", config.store.shown, cause, "--store s3://BUCKET, or --sessions N")
    dev_server = None
    if options.dev_server is not None:
        dev_server = DevServer(options.dev_server)
        dev_server.attach()
    with closing(open_store(config, dev_server)) as store:
        archive = store.archive
        if archive is None:
            raise ConfigError("count the cost of", config.store.shown, "it lists no versions", "--sessions N")
        scopes = Wanted(bucket, config.prefix).scopes
        return counted((found for scope in scopes for found in archive.history(scope)), time.time())
