"""Names: what becomes a key comes back the same, and nothing leaves its session (P14, P16)."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cachesync.model.errors import Unstorable, UsageError
from cachesync.model.keys import (
    MAX_KEY_BYTES,
    check_path,
    check_session,
    conflict_path,
    from_key,
    is_reserved,
    is_session_name,
    is_within,
    manifest_key,
    printable,
    reserved_near,
    session_prefix,
    to_key,
)

PARTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=40).filter(
    lambda part: part not in (".", "..")
)
PATHS = st.lists(PARTS, min_size=1, max_size=6).map("/".join)
PREFIXES = st.sampled_from(["", "team", "team/a b"])
SESSIONS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True)

HOSTILE = ["", "/", "/etc/passwd", "..", "../x", "a/../b", "a/..", "./a", "a/.", "a//b", "a/", "//", "a\0b", "."]


@settings(deadline=None)
@given(prefix=PREFIXES, session=SESSIONS, path=PATHS)
@example(prefix="", session="s", path="a b\n?versionId=1&x=%2F/[*]#\u0065\u0301\\")
def test_p14_a_path_comes_back_from_its_key(prefix, session, path):
    try:
        key = to_key(prefix, session, path)
    except Unstorable:
        assert is_reserved(path) or len((session_prefix(prefix, session) + path).encode()) > MAX_KEY_BYTES
        return
    assert key == session_prefix(prefix, session) + path
    assert from_key(prefix, session, key) == path


@settings(deadline=None)
@given(prefix=PREFIXES, session=SESSIONS, key=st.text() | PATHS)
def test_p16_a_listed_key_gives_a_safe_path_of_this_session_or_none(prefix, session, key):
    for listed in (key, session_prefix(prefix, session) + key):
        path = from_key(prefix, session, listed)
        if path is not None:
            assert check_path(path) == path
            assert not is_reserved(path)
            assert session_prefix(prefix, session) + path == listed


@pytest.mark.parametrize("path", HOSTILE)
def test_p16_paths_that_could_leave_are_refused(path):
    with pytest.raises(UsageError):
        check_path(path)
    assert from_key("", "s", f"sessions/s/{path}") is None


@pytest.mark.parametrize("path", ["...", "..a", "a..", "a/.../b", " ", "-rf", "~", "C:\\x", "\\..\\x", "a\n", "\u202e"])
def test_p14_odd_names_are_names(path):
    assert check_path(path) == path
    assert from_key("p", "s", to_key("p", "s", path)) == path


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "../a", "-x", "a b", "a\n", "\u00e9", "a" * 129, "\0"]
)
def test_p16_names_that_are_no_session(name):
    assert not is_session_name(name)
    with pytest.raises(UsageError):
        check_session(name)


@pytest.mark.parametrize("name", ["a", "0", "A.b_c-d", "a..b", "a" * 128])
def test_session_names(name):
    assert check_session(name) == name


@pytest.mark.parametrize("filling", ["x", "\u00e9"])
def test_a_key_has_1024_bytes_at_most(filling):
    start = "p/sessions/s/"
    room = MAX_KEY_BYTES - len(start)
    fits = filling * (room // len(filling.encode())) + "x" * (room % len(filling.encode()))
    assert len(to_key("p", "s", fits).encode()) == MAX_KEY_BYTES
    with pytest.raises(Unstorable, match="1025 bytes"):
        to_key("p", "s", fits + "x")


def test_a_name_that_is_not_utf8_cannot_be_stored_but_can_be_shown():
    with pytest.raises(Unstorable, match="not UTF-8"):
        to_key("", "s", "caf\udce9")
    assert printable("caf\udce9") == "caf\\xe9"
    assert printable("caf\u00e9\n") == "caf\u00e9\n"


@pytest.mark.parametrize("path", [".cachesync", ".cachesync/", ".cachesync/manifest.json"])
def test_our_own_folder_is_reserved(path):
    assert is_reserved(path)
    with pytest.raises(Unstorable):
        to_key("", "s", path)
    assert from_key("", "s", f"sessions/s/{path}") is None


@pytest.mark.parametrize("path", [".cachesyncignore", "a/.cachesync", ".cachesync2/x"])
def test_names_beside_it_are_not(path):
    assert not is_reserved(path)
    assert from_key("", "s", to_key("", "s", path)) == path


def test_keys_are_where_the_specification_says():
    assert to_key("", "s1", "a/b.txt") == "sessions/s1/a/b.txt"
    assert to_key("team", "s1", "a/b.txt") == "team/sessions/s1/a/b.txt"
    assert manifest_key("", "s1") == "sessions/s1/.cachesync/manifest.json"
    assert from_key("", "s1", "sessions/s10/a") is None
    assert from_key("", "s1", "sessions/s1/") is None


@settings(deadline=None)
@given(version=st.text(max_size=60))
def test_a_conflict_lies_beside_its_file(version):
    path = conflict_path("a/b.txt", "20261124T132416Z", version)
    assert check_path(path) == path
    assert path.startswith("a/b.txt.conflict-20261124T132416Z-")
    assert len(path) <= len("a/b.txt.conflict-20261124T132416Z-") + 12


@pytest.mark.parametrize(
    ("path", "directories", "expected"),
    [
        ("s/a/b", {"s/a"}, True),
        ("s/a", {"s/a"}, True),
        ("s/ab", {"s/a"}, False),
        ("s/ab", {"s"}, True),
        ("s", {"s/a"}, False),
        ("s/a", {"."}, True),
        ("s/a", set(), False),
        ("s/", {"s"}, True),
    ],
)
def test_what_lies_within_directories(path, directories, expected):
    assert is_within(path, directories) is expected


@pytest.mark.parametrize(
    ("prefix", "key", "start"),
    [
        ("", "sessions/s1/a/b", "sessions/s1/.cachesync/"),
        ("", "sessions/s1/.cachesync/manifest.json", "sessions/s1/.cachesync/"),
        ("p/q", "p/q/sessions/s1/a", "p/q/sessions/s1/.cachesync/"),
        ("", "projects/p/x", "sessions/.cachesync/"),
        ("p", "sessions/s1/a", "p/sessions/.cachesync/"),
        ("", "sessions/.cachesync/doctor-1", "sessions/.cachesync/"),
        ("", "sessions/s1", "sessions/.cachesync/"),
        ("", "", "sessions/.cachesync/"),
    ],
)
def test_our_own_keys_near_a_key(prefix: str, key: str, start: str) -> None:
    assert reserved_near(prefix, key) == start
