"""``cachesync mcp``: the MCP server, on stdio or HTTP."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cachesync.cli.arguments import SETTING
from cachesync.cli.reach import Connect, load_config
from cachesync.control.client import ControlClient
from cachesync.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from cachesync.config import Config
    from cachesync.mcp_server import AgentVerbs


def run(options: argparse.Namespace, connect: Connect) -> int:
    """Serve until the client leaves or a signal comes."""
    config = load_config(options)
    try:
        from cachesync.mcp_server import Scope, serve_http, serve_stdio
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("cachesync"):
            raise
        cause = f"{error.name} is not installed"
        raise UsageError("serve MCP", cause=cause, hint="pip install 'cachesync[mcp]'") from None
    from cachesync.logs import configure

    configure(config.log_format, config.log_level)
    scope = Scope(options.session or os.environ.get("CACHESYNC_SESSION") or None, options.allow_projects)

    def reach() -> contextlib.AbstractContextManager[AgentVerbs]:
        return _reach(config, connect)

    # Only the flag: CACHESYNC_HTTP and cachesync.toml say where the daemon's control API is.
    if getattr(options, f"{SETTING}http", None) is None or config.http is None:
        serve_stdio(reach, scope)
    else:
        serve_http(reach, scope, config.http.host, config.http.port, config.http_token, _announce)
    return ExitCode.DONE


@contextlib.contextmanager
def _reach(config: Config, connect: Connect) -> Iterator[AgentVerbs]:
    """The verbs as for every command; where there is neither daemon nor root, those of the store alone."""
    if config.root.is_dir() or ControlClient.of(config).is_serving():
        with connect() as verbs:
            yield verbs
        return
    from cachesync.artifact_store import ArtifactStore
    from cachesync.mcp_server import StoreOnly

    with ArtifactStore(config=config) as store:
        yield StoreOnly(config, store)


def _announce(url: str) -> None:
    print(f"serving MCP at {url}", file=sys.stderr, flush=True)
