"""A directory that is renamed while some of it is only in the store, and was brought under its new name first."""

from __future__ import annotations

from pathlib import Path

import pytest

from cachesync.mount.renaming import _put


@pytest.fixture
def two(tmp_path: Path) -> tuple[bytes, bytes]:
    """Two directories that have some of the same directories in them."""
    for path in ("old/a/b", "old/c", "new/a/d"):
        (tmp_path / path).mkdir(parents=True)
    for path in ("old/f", "old/a/b/f", "new/g", "new/a/f"):
        (tmp_path / path).write_text(path)
    return bytes(tmp_path / "old"), bytes(tmp_path / "new")


def test_what_had_begun_is_brought_to_its_end(two: tuple[bytes, bytes], tmp_path: Path) -> None:
    _put(*two, flags=0, begun=True)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert found == {"new", *(f"new/{name}" for name in ("a", "a/b", "a/b/f", "a/d", "a/f", "c", "f", "g"))}
    assert (tmp_path / "new/a/b/f").read_text() == "old/a/b/f"


def test_else_a_directory_that_is_not_empty_is_not_replaced(two: tuple[bytes, bytes], tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    with pytest.raises(OSError, match="not empty"):
        _put(*two, flags=0, begun=False)
    assert set(tmp_path.rglob("*")) == before
