"""What programs use: the Python API, fsspec, MCP."""
