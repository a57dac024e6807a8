"""The MCP server: an agent's tools for the artifacts of its session (SPEC section 10). Needs the ``mcp`` extra."""
