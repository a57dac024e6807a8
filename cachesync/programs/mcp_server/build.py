"""The server with its tools. What a tool raises becomes an error that the agent can act on."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

from cachesync import __version__
from cachesync.model.errors import CacheSyncError, NoSuchSession, ObjectNotFound, StoreTransient
from cachesync.programs.mcp_server.answers import fit
from cachesync.programs.mcp_server.scope import Scope
from cachesync.programs.mcp_server.shared import Connect, Shared
from cachesync.programs.mcp_server.tools import Tools

INSTRUCTIONS = (
    "Files of a session are stored durably (S3). Paths are relative to the session: results go under artifacts/, logs"
    " under logs/. write_artifact stores at once. Files that programs write in the session's directory are stored in"
    " the background: call flush_session before you say that work is done, and go on only if it answers stored=true."
)

_HINTS: tuple[tuple[type[CacheSyncError], str], ...] = (
    (ObjectNotFound, "list_artifacts shows what there is"),
    (NoSuchSession, "check the name of the session; write_artifact makes a session by writing to it"),
    (StoreTransient, "nothing is lost: try again later, and tell the user if it goes on"),
)
"""What to do, for those who have the tools and no command line; in place of a class's own hint."""


def build_server(connect: Connect, scope: Scope) -> MCPServer[Any]:
    """The server over the verbs that ``connect`` finds at each call."""
    server = _Server("cachesync", version=__version__, instructions=INSTRUCTIONS)
    tools = Tools(Shared(connect), scope)
    looks = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    writes = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)
    adds = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
    for tool, hints in (
        (tools.write_artifact, writes),
        (tools.read_artifact, looks),
        (tools.list_artifacts, looks),
        (tools.artifact_url, looks),
        (tools.flush_session, adds),
        (tools.session_status, looks),
        (tools.artifact_history, looks),
        (tools.restore_artifact, adds),
    ):
        server.tool(annotations=hints, structured_output=True)(_telling(tool))
        server.known[tool.__name__] = list(inspect.signature(tool).parameters)
    return server


class _Server(MCPServer[Any]):
    """Refuses arguments that a tool does not have: the SDK drops them, and a mistyped ``session`` would go unnoticed.

    ``known`` are the arguments of each tool.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.known: dict[str, list[str]] = {}
        super().__init__(*args, **kwargs)

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None) -> Any:
        """See MCPServer. Raises ToolError for an unknown argument too."""
        known = self.known.get(name, list(arguments))
        if unknown := [argument for argument in arguments if argument not in known]:
            told = f"{name} has no argument {', '.join(map(repr, unknown))}; it has {', '.join(known)}"
            raise ToolError(fit(f"Error executing tool {name}: {told}"))
        return await super().call_tool(name, arguments, context)


def _telling(tool: Callable[..., Any]) -> Callable[..., Any]:
    """``tool``, with its errors in the words that the client gets; those of a defect stay in the log."""

    @functools.wraps(tool)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return tool(*args, **kwargs)
        except CacheSyncError as error:
            raise ToolError(fit(str(_for_agents(error)))) from error

    return call


def _for_agents(error: CacheSyncError) -> CacheSyncError:
    if error.hint == type(error).hint:
        for kind, hint in _HINTS:
            if isinstance(error, kind):
                return CacheSyncError(error.operation, error.path, error.cause, hint)
    return error
