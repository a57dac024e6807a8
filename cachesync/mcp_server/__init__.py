"""The MCP server: an agent's tools for the artifacts of its session (SPEC section 10). Needs the ``mcp`` extra."""

from cachesync.mcp_server.build import build_server
from cachesync.mcp_server.scope import Scope
from cachesync.mcp_server.serve import Entry, serve_http, serve_stdio
from cachesync.mcp_server.shared import AgentVerbs, StoreOnly

__all__ = ["AgentVerbs", "Entry", "Scope", "StoreOnly", "build_server", "serve_http", "serve_stdio"]
