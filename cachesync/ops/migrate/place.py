"""Where a migration keeps its state: never in what it migrates."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cachesync.model.errors import UsageError

if TYPE_CHECKING:
    from cachesync.config import Config

_HINT = "name another folder by CACHESYNC_STATE or --state"


def elsewhere(config: Config, environ: Mapping[str, str]) -> Config:
    """The configuration with a state folder of this source's and this store's own: under the state setting if it is
    given, else under XDG_STATE_HOME or ~/.local/state. Raises UsageError if that would be in the source, or nowhere.
    """
    source = os.path.realpath(config.root)
    if any(row.name == "state" and row.source != "default" for row in config.origins):
        base = config.state
    else:
        home, given = environ.get("HOME", ""), environ.get("XDG_STATE_HOME", "")
        if not given.startswith("/") and not home.startswith("/"):
            raise UsageError("migrate", source, "there is no home directory to keep the state in", _HINT)
        base = Path(given if given.startswith("/") else f"{home}/.local/state") / "cachesync"
    name = hashlib.sha256(os.fsencode(source) + b"\0" + config.store.shown.encode("utf-8", "surrogateescape"))
    state = base / "migrate" / name.hexdigest()[:32]
    if Path(os.path.realpath(state)).is_relative_to(source):
        raise UsageError("migrate", source, f"its state would be written into it, to {state}", _HINT)
    return replace(config, state=state)
