"""What travels with an object: the seed's content types and metadata, times and modes as other tools write them."""

import stat

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cachesync.model.attributes import (
    artifact_type,
    content_type,
    for_file,
    format_mtime,
    is_log,
    parse_mtime,
    to_stored,
)
from cachesync.model.values import FileStat, Kind, ObjectInfo, Version
from tests.rows import an_entry

STAT = FileStat(Kind.FILE, 5, 1_700_000_000_123_456_789, 0, 1, 0o640)
SHA = "ab" * 32


def entry(path, puts=0):
    return an_entry(path, session="s1", puts=puts, created_at=1_700_000_000.9)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("a.tf", "text/plain"),
        ("a.yaml", "application/yaml"),
        ("a.yml", "application/yaml"),
        ("a.YML", "application/yaml"),
        ("dir.tf/foundation.md", "text/markdown"),
        ("a.json", "application/json"),
        ("a.html", "text/html"),
        ("a.png", "image/png"),
        ("a.txt", "text/plain"),
        ("a", "application/octet-stream"),
        ("dir.md/a", "application/octet-stream"),
        ("a.unheardof", "application/octet-stream"),
        (".md", "text/markdown"),
        ("a.", "application/octet-stream"),
    ],
)
def test_content_types(path, kind):
    assert content_type(path) == kind


@given(st.text())
def test_any_name_has_a_content_type_that_fits_a_header(path):
    kind = content_type(path)
    assert kind.isascii()
    assert "/" in kind
    assert kind.isprintable()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("artifacts/terraform/main.tf", "terraform"),
        ("prod.tfvars", "terraform"),
        ("artifacts/dashboard.yaml", "dashboard"),
        ("artifacts/foundation.md", "foundation"),
        ("templates/a.tf", "template"),
        ("logs/run.jsonl", "log"),
        ("logs/main.tf", "log"),
        ("x/logs/run.jsonl", None),
        ("logs", None),
        ("notes.md", None),
        ("my-dashboard.yaml", None),
    ],
)
def test_artifact_types(path, kind):
    assert artifact_type(path) == kind
    assert is_log(path) is (kind == "log")


def test_the_metadata_of_a_file():
    found = for_file(entry("artifacts/dashboard.yaml", puts=2), STAT, SHA, "journal", "try")
    assert found.content_type == "application/yaml"
    assert found.tags == {}
    assert found.metadata == {
        "mtime": "1700000000.123456789",
        "mode": str(stat.S_IFREG | 0o640),
        "sha256": SHA,
        "writer": "journal",
        "attemptid": "try",
        "sessionid": "s1",
        "createdat": "2023-11-14T22:13:20Z",
        "version": "3",
        "artifacttype": "dashboard",
    }
    assert for_file(entry("logs/a"), STAT, SHA, "journal", "try").tags == {"kind": "log"}
    assert "artifacttype" not in for_file(entry("a"), STAT, SHA, "journal", "try").metadata


@given(st.text())
def test_metadata_is_ascii_whatever_the_name_is(path):
    assert all(value.isascii() for value in for_file(entry(path), STAT, SHA, "journal", "try").metadata.values())


@given(st.integers(-(2**62), 2**62))
@example(0)
@example(-1)
def test_a_time_comes_back(mtime_ns):
    assert parse_mtime(format_mtime(mtime_ns)) == mtime_ns


@given(st.integers(-(2**62), 2**62))
@example(-1)
@example(-1_500_000_000)
def test_a_time_is_the_decimal_number_that_rclone_reads(mtime_ns):
    from decimal import Decimal

    assert Decimal(format_mtime(mtime_ns)) == Decimal(mtime_ns) / 10**9


@pytest.mark.parametrize(
    ("text", "mtime_ns"),
    [
        ("1700000000", 1_700_000_000_000_000_000),
        ("1.5", 1_500_000_000),
        ("1.000000001", 1),
        ("1.0000000019", 1),
        ("", None),
        ("x", None),
        ("1.x", None),
        ("1e9", None),
        ("nan", None),
        ("1_0", None),
        ("1.-5", None),
        ("9" * 5000, None),
    ],
)
def test_times_of_other_tools(text, mtime_ns):
    assert parse_mtime(text) == (mtime_ns if mtime_ns is None or mtime_ns > 1e8 else mtime_ns + 10**9)


@given(
    mtime=st.text(max_size=30) | st.integers().map(str),
    mode=st.text(max_size=30) | st.integers().map(str),
)
@example(mtime="9" * 25, mode="33188")
@example(mtime="1" + "0" * 40, mode="9" * 30)
@example(mtime="1", mode="9" * 5000)
@example(mtime="1", mode="\u0663")
def test_another_writers_metadata_give_values_that_the_journal_can_hold(mtime, mode):
    stored = to_stored(ObjectInfo("k", 1, Version("v"), 5.0, None, {"mtime": mtime, "mode": mode}))
    assert -(2**63) <= stored.mtime_ns < 2**63
    assert 0 <= stored.mode <= 0o7777


def test_what_the_metadata_do_not_say_is_the_stores_own():
    info = ObjectInfo("k", 7, Version("v", "id"), 5.5, SHA, {})
    stored = to_stored(info, fallback_mode=0o600)
    assert (stored.mtime_ns, stored.mode, stored.stored_at) == (5_500_000_000, 0o600, 5.5)
    assert (stored.size, stored.sha256, stored.version) == (7, SHA, Version("v", "id"))
    assert to_stored(ObjectInfo("k", 7, Version("v"), 5.5, SHA, {"mode": "33261"})).mode == 0o755
