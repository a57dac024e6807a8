"""What a log line shows of names and errors that hold anything."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from cachesync.telemetry.logs import configure

NASTY = "a\x1b[31m\udcff\nforged"


@pytest.fixture
def root_logger() -> Iterator[None]:
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield
    logger.handlers[:], logger.level = handlers, level


def logged(log_format: str) -> str:
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    configure(log_format, "info", out)
    log = logging.getLogger("cachesync.test")
    try:
        raise ValueError(NASTY)
    except ValueError:
        log.exception("cannot read %s", NASTY, extra={"session": "s", "path": NASTY, "size": 7})
    out.flush()
    out.seek(0)
    return out.read()


def test_on_a_terminal_nothing_is_acted_on(root_logger):
    first, *traceback = logged("text").splitlines()
    assert "error   cannot read a\\x1b[31m\\udcff\\nforged  session=s path=" in first
    assert first.endswith("size=7")
    assert "ValueError: a\\x1b[31m\\udcff" in "\n".join(traceback)
    assert all(line.startswith("  ") for line in traceback)


def test_for_machines_a_line_is_an_object(root_logger):
    (line,) = logged("json").splitlines()
    told = json.loads(line)
    assert (told["level"], told["session"], told["size"]) == ("error", "s", 7)
    assert told["message"] == f"cannot read {NASTY}"
    assert told["traceback"].endswith(f"ValueError: {NASTY}")
