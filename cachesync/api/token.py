"""The token for TCP that nobody has configured: made once, and kept in the state folder for its owner alone."""

from __future__ import annotations

import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from cachesync.model.errors import ConfigError, JournalUnavailable, is_passing

NAME = "http.token"

MCP_NAME = "mcp.token"
"""That of an MCP server: who has it reaches what that server serves, and not the control API."""

SHORTEST = 16
"""Characters. Guesses are limited per address, and from this machine not at all, so the token itself has to be out of
reach: 16 random ones are 64 bits at least."""
_BYTES = 32
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")


def check_token(token: str | None) -> None:
    """Raise ConfigError if the setting http_token is too short, on loopback too: every user and every container of the
    host's network can guess there."""
    if token is not None and len(token) < SHORTEST:
        cause = f"has {len(token)} characters; {SHORTEST} are the fewest"
        hint = "set a random one (openssl rand -hex 32), or none: cachesync makes one then"
        raise ConfigError("setting", "http_token", cause, hint)


def kept_token(state: Path, name: str = NAME) -> str:
    """Return the token that this state folder keeps in the file ``name``. Creates one if there is none or the file is
    not valid.

    Raises ConfigError if the token cannot be written, JournalUnavailable if the error is temporary.
    """
    path = state / name
    token = _read(path)
    if token is not None:
        return token
    token = secrets.token_urlsafe(_BYTES)
    made = state / "tmp" / f"{name}.{os.getpid()}"
    try:
        made.parent.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileNotFoundError):
            os.unlink(made)
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(token + "\n")
        os.replace(made, path)
    except OSError as error:
        hint = "set http_token, or mend the state folder"
        kind = JournalUnavailable if is_passing(error) else ConfigError
        raise kind("keep the token for the setting http in", str(path), error.strerror, hint) from error
    return token


def _read(path: Path) -> str | None:
    """What is kept, if it is a file of our own that nobody else can read or has another name for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1
        if not ours or stat.S_IMODE(found.st_mode) & 0o077:
            return None
        text = file.read(256).decode("ascii", "replace").strip()
    return text if _TOKEN.fullmatch(text) else None
