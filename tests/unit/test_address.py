"""Addresses: there and back, and whatever is written or listed, no key outside its place."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cachesync.model.address import Address, Space, from_key, parse, parse_whole
from cachesync.model.errors import CacheSyncError, Unstorable, UsageError

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
PARTS = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda part: part not in (".", "..")
)
PATHS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
PREFIXES = st.sampled_from(["", "p", "a/b", "sessions"])
WORDS = [*"ab.~%?*[]\\\n\0 ", "/", "/", "/", "..", "sessions", "projects", "templates", ".cachesync"]
HOSTILE = st.lists(st.sampled_from(WORDS), max_size=12).map("".join)


@st.composite
def addresses(draw):
    space = draw(st.sampled_from(list(Space)))
    name = "" if space is Space.TEMPLATES else draw(NAMES)
    if space is Space.SESSIONS and name in list(Space):
        name += "1"
    return Address(space, name, draw(PATHS))


@given(addresses())
def test_an_address_comes_back_from_its_text(address):
    assert parse(str(address)) == address


@given(addresses(), PREFIXES)
def test_an_address_comes_back_from_its_key(address, prefix):
    reserved = address.space is Space.SESSIONS and address.path.split("/")[0] == ".cachesync"
    assert reserved or from_key(prefix, address.key(prefix)) == address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", Address(Space.SESSIONS)),
        ("s", Address(Space.SESSIONS, "s")),
        ("s/", Address(Space.SESSIONS, "s")),
        ("s/d/", Address(Space.SESSIONS, "s", "d/")),
        ("s/d", Address(Space.SESSIONS, "s", "d")),
        ("projects", Address(Space.PROJECTS)),
        ("projects/p", Address(Space.PROJECTS, "p")),
        ("projects/p/learnings/", Address(Space.PROJECTS, "p", "learnings/")),
        ("templates", Address(Space.TEMPLATES)),
        ("templates/a/b", Address(Space.TEMPLATES, "", "a/b")),
    ],
)
def test_addresses_of_many(text, address):
    assert parse_whole(text) == address
    assert parse_whole(str(address)).key("x").rstrip("/") == address.key("x").rstrip("/")
    assert address.whole is (not text.endswith(("/d", "/b")))


@pytest.mark.parametrize("text", ["", "s", "s/", "s/d/", "projects", "projects/p", "projects/p/", "templates"])
def test_one_artifact_is_asked_for(text):
    with pytest.raises(UsageError, match="SESSION/PATH"):
        parse(text)


@pytest.mark.parametrize(
    "text",
    ["/a", "../a", "s/../t", "s//a", "s/./a", ".cachesync/x", "projects/../a", "projects/-/a", "s/a\0", "templates//a"],
)
def test_what_names_nothing_is_refused(text):
    with pytest.raises(UsageError):
        parse_whole(text)


@pytest.mark.parametrize(
    "text", ["s/.cachesync/manifest.json", "s/" + "a" * 1020, "templates/" + "é" * 600, "s/\udcff"]
)
def test_what_has_no_key_is_not_stored(text):
    with pytest.raises(Unstorable):
        parse(text).key("")


@given(HOSTILE, PREFIXES)
@example("s/..", "p")
@example("projects/s/../../sessions/s/a", "")
def test_hostile_text_never_gets_out_of_its_place(text, prefix):
    try:
        address = parse_whole(text)
        key = address.key(prefix)
    except CacheSyncError:
        return
    inside = key.removeprefix(f"{prefix}/" if prefix else "")
    assert inside.startswith("/".join(filter(None, (address.space, address.name))) + "/")
    assert not {"..", ".", ""} & set(key.rstrip("/").split("/"))
    assert address.whole or inside.split("/")[2:3] != [".cachesync"] or address.space is not Space.SESSIONS


@given(HOSTILE | st.text(), PREFIXES)
@example("sessions/s/../t/a", "")
@example("sessions/projects/p/a", "")
@example("sessions/s/.cachesync/manifest.json", "")
@example("projects/p//a", "")
@example("templates/", "")
@example("p/sessions/s/a", "p")
def test_a_listed_key_has_its_own_address_or_none(key, prefix):
    found = from_key(prefix, key)
    if found is not None:
        assert found.key(prefix) == key
        assert parse(str(found)) == found
