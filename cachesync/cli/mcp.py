"""``cachesync mcp``: the MCP server, on stdio or HTTP."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cachesync.api.client import ControlClient
from cachesync.cli.arguments import SETTING
from cachesync.cli.connect import Connect, load_config
from cachesync.model.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from cachesync.config import Config
    from cachesync.programs.mcp_server.shared import AgentVerbs


def run(options: argparse.Namespace, connect: Connect) -> int:
    """Serve until the client leaves or a signal comes."""
    config = load_config(options)
    try:
        from cachesync.programs.mcp_server.scope import Scope
        from cachesync.programs.mcp_server.serve import Entry, serve_http, serve_stdio
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("cachesync"):
            raise
        cause = f"{error.name} is not installed"
        raise UsageError("serve MCP", cause=cause, hint="pip install 'cachesync[mcp]'") from None
    from cachesync.telemetry.logs import configure

    configure(config.log_format, config.log_level)
    scope = Scope(options.session or os.environ.get("CACHESYNC_SESSION") or None, options.allow_projects)

    def reach() -> contextlib.AbstractContextManager[AgentVerbs]:
        return _reach(config, connect)

    # Only the flag: CACHESYNC_HTTP and cachesync.toml say where the daemon's control API is.
    if getattr(options, f"{SETTING}http", None) is None or config.http is None:
        serve_stdio(reach, scope)
    else:
        token, where = _token(config)

        def announce(url: str) -> None:
            print(f"serving MCP at {url}", file=sys.stderr)
            print(f"it wants 'Authorization: Bearer TOKEN', with the token {where}", file=sys.stderr, flush=True)

        serve_http(reach, scope, config.http, Entry(token, config.http_names or ()), announce)
    return ExitCode.DONE


def _token(config: Config) -> tuple[str, str]:
    """The token that clients have to send, and where it is found. Raises ConfigError."""
    from cachesync.api.token import MCP_NAME, check_token, kept_token

    check_token(config.http_token)
    if config.http_token is not None:
        return config.http_token, "of the setting http_token"
    if not config.root.is_dir():
        cause = "HTTP wants a token, and there is no root here whose state could keep one"
        raise UsageError("serve MCP", cause=cause, hint="set CACHESYNC_HTTP_TOKEN; openssl rand -hex 32 makes one")
    config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    return kept_token(config.state, MCP_NAME), f"in {config.state / MCP_NAME}"


@contextlib.contextmanager
def _reach(config: Config, connect: Connect) -> Iterator[AgentVerbs]:
    """The verbs as for every command; where there is neither daemon nor root, those of the store alone."""
    if config.root.is_dir() or ControlClient.of(config).is_serving():
        with connect() as verbs:
            yield verbs
        return
    from cachesync.programs.artifact_store import ArtifactStore
    from cachesync.programs.mcp_server.shared import StoreOnly

    with ArtifactStore(config=config) as store:
        yield StoreOnly(config, store)
