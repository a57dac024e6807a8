"""What is remembered of an object besides its bytes, as JSON that is checked when it is read. Pure."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from cachesync.model.values import ObjectInfo, Version

LONGEST = 64 * 1024
"""Bytes of a record. S3's metadata are 2 KB at most."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_FIELDS = frozenset(
    {
        "name", "key", "size", "etag", "version_id", "modified", "sha256", "metadata", "content_type", "checked_at",
    }
)  # fmt: skip


def encode(name: str, info: ObjectInfo, checked_at: float) -> bytes:
    """The record that goes by ``name``; ``checked_at`` is when the store was asked."""
    fields = {
        "name": name,
        "key": info.key,
        "size": info.size,
        "etag": info.version.etag,
        "version_id": info.version.version_id,
        "modified": info.modified,
        "sha256": info.sha256,
        "metadata": dict(info.metadata),
        "content_type": info.content_type,
        "checked_at": checked_at,
    }
    return json.dumps(fields, separators=(",", ":")).encode()


def decode(name: str, data: bytes) -> tuple[ObjectInfo, float] | None:
    """The inverse of ``encode`` for the record of ``name``, or None for anything that it does not make."""
    try:
        row = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or row.keys() != _FIELDS or row["name"] != name or not _is_sound(row):
        return None
    info = ObjectInfo(
        key=row["key"],
        size=row["size"],
        version=Version(row["etag"], row["version_id"]),
        modified=float(row["modified"]),
        sha256=row["sha256"],
        metadata=row["metadata"],
        content_type=row["content_type"],
    )
    return info, float(row["checked_at"])


def _is_sound(row: dict[str, Any]) -> bool:
    metadata, digest = row["metadata"], row["sha256"]
    return (
        type(row["size"]) is int
        and 0 <= row["size"] < 2**63
        and all(type(row[name]) is str for name in ("key", "etag"))
        and all(row[name] is None or type(row[name]) is str for name in ("version_id", "content_type"))
        and (digest is None or (type(digest) is str and _DIGEST.fullmatch(digest) is not None))
        and all(_is_time(row[name]) for name in ("modified", "checked_at"))
        and isinstance(metadata, dict)
        and all(type(value) is str for value in metadata.values())
    )


def _is_time(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and abs(value) < 2**53  # type: ignore[arg-type]
