"""Log lines: one JSON object a line for machines, plain text for a terminal (SPEC section 12)."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

from cachesync.model.keys import printable

_FACTS = (
    "session", "path", "key", "size", "uri", "duration", "latency", "attempts", "again_in", "kept_as", "files", "bytes",
    "kept", "left",
)  # fmt: skip
"""In the order in which a line has them; seconds and bytes."""


def configure(log_format: str, level: str, stream: TextIO | None = None) -> None:
    """Send the log to ``stream`` (stderr). ``log_format`` "auto" is text on a terminal, else JSON."""
    out = stream or sys.stderr
    as_text = log_format == "text" or (log_format == "auto" and out.isatty())
    handler = logging.StreamHandler(out)
    handler.setFormatter(_Text() if as_text else _Json())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("botocore", "aiobotocore", "s3fs", "fsspec", "asyncio", "aiohttp", "watchdog"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _facts(record: logging.LogRecord) -> dict[str, object]:
    found = {name: getattr(record, name) for name in _FACTS if getattr(record, name, None) is not None}
    return {name: printable(value) if isinstance(value, str) else value for name, value in found.items()}


def _visible(text: str) -> str:
    """``text`` on one line, with nothing in it that a terminal would act on: a file's name may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """One JSON object."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {"time": when, "level": record.levelname.lower(), "message": record.getMessage()}
        line |= _facts(record)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """``12:34:56 warning  message  name=value ...``."""
        when = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        facts = " ".join(f"{name}={value}" for name, value in _facts(record).items())
        line = _visible(f"{when} {record.levelname.lower():8}{record.getMessage()}  {facts}".rstrip())
        if not record.exc_info:
            return line
        told = self.formatException(record.exc_info).splitlines()
        return "\n".join([line, *(f"  {_visible(each)}" for each in told)])
