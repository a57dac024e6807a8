"""How long somebody may wait for a flush, and how long a link may live: what the command line, HTTP and MCP have in
common. Pure, and imports nothing: ``cachesync --help`` shows these.
"""

DEFAULT_FLUSH_TIMEOUT = 300.0
MAX_FLUSH_TIMEOUT = 86_400.0
"""Seconds. A flush that may wait longer than a day is a mistake in somebody's units."""

DEFAULT_EXPIRES = 3600.0
MIN_EXPIRES = 1.0
MAX_EXPIRES = 7 * 86_400.0
"""Seconds that a link lives, and how long S3 lets one live (Signature Version 4)."""
