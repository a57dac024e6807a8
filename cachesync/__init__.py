"""cachesync makes the files that programs write durable in S3, and says whether all of them are."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cachesync.programs.artifact_store import ArtifactStore
    from cachesync.programs.client import Client

__version__ = "0.1.0"

__all__ = ["ArtifactStore", "Client", "__version__"]

_PLACES = {"ArtifactStore": "cachesync.programs.artifact_store", "Client": "cachesync.programs.client"}


def __getattr__(name: str) -> Any:
    """Import what is for programs when it is asked for: the command line does without."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
