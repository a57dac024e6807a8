"""The manifest: what is written is read, in the format of SPEC section 4, and a hostile one says nothing."""

import io
import json
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cachesync.model.errors import ObjectNotFound
from cachesync.model.keys import check_path
from cachesync.model.values import FileStat, Kind, Superseded, Version
from cachesync.sync import manifest
from tests.flat_store import FlatStore
from tests.rows import STAT, STORED, an_entry

KEY = "sessions/s/.cachesync/manifest.json"
NOW = 1_700_000_000.5
PARTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=20).filter(
    lambda part: part not in (".", "..")
)
PATHS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)


def file(path, **changes):
    return an_entry(path, **changes)


def link(path, target):
    return file(path, kind=Kind.LINK, stored=None, stat=FileStat(Kind.LINK, 1, 7, 0, 1, 0o777, target))


def directory(path):
    return file(f"{path}/", kind=Kind.DIRECTORY, stored=None, stat=FileStat(Kind.DIRECTORY, 0, 7, 0, 1, 0o2755))


def write(*entries, state="open"):
    out = io.BytesIO()
    summary = manifest.write(out, entries, session="s", state=state, host="h", now=NOW)
    return summary, out.getvalue()


def read(data):
    store = FlatStore()
    store.foreign_put(KEY, data)
    found = manifest.read(store, KEY)
    assert found.version == store.objects[KEY].info.version
    return found


def test_the_format_is_the_contract():
    summary, data = write(file("dir/a"), link("l", "../x"), directory("dir"), state="closed")
    assert json.loads(data) == {
        "format": 1,
        "session": "s",
        "state": "closed",
        "host": "h",
        "written_at": "2023-11-14T22:13:20.500Z",
        "serial": 0,
        "entries": [
            {
                "path": "dir/a",
                "type": "file",
                "size": 5,
                "mtime": "1600000000.000000001",
                "mode": "0640",
                "sha256": "ab" * 32,
                "version": '"etag"',
                "version_id": "id",
            },
            {"path": "l", "type": "link", "mtime": "0.000000007", "target": "../x"},
            {"path": "dir", "type": "dir", "mtime": "0.000000007", "mode": "2755"},
        ],
    }
    assert (summary.files, summary.bytes, summary.failures) == (1, 5, [])
    assert len(data.splitlines()) == 5, "an entry is a line"


def test_the_sessions_own_mode_comes_back():
    out = io.BytesIO()
    manifest.write(out, [file("a")], session="s", state="open", host="h", now=NOW, serial=3, mode=0o1750)
    found = read(out.getvalue())
    assert (found.mode, found.serial, found.flaws) == (0o1750, 3, [])
    amended = io.BytesIO()
    assert manifest.amend(iter([out.getvalue()]), amended, {"a": None})
    found = read(amended.getvalue())
    assert (found.mode, found.serial, found.flaws) == (0o1750, 4, [])


@pytest.mark.parametrize("mode", [7, None, "", "u=rwx", "99", "100700", "-1", [], "0x1ff"])
def test_a_mode_that_is_none_is_a_flaw(mode):
    _, data = write(file("a"))
    found = read(data.replace(b'"serial"', b'"mode": ' + json.dumps(mode).encode() + b', "serial"'))
    assert found.mode is None
    assert len(found.flaws) == 1
    assert found.files.keys() == {"a"}


def test_an_empty_session_has_a_manifest_too():
    summary, data = write()
    assert json.loads(data)["entries"] == []
    assert (summary.files, summary.bytes) == (0, 0)


def test_what_the_session_does_not_contain_is_not_listed():
    _, data = write(
        file("tombstone", gone_at=5.0),
        file("never stored", stored=None),
        replace(link("l", "x"), gone_at=5.0),
        replace(link("m", "x"), stat=None),
        file("kept"),
    )
    assert [row["path"] for row in json.loads(data)["entries"]] == ["kept"]


def test_a_clean_file_shows_the_disks_time_and_mode_and_a_dirty_or_evicted_one_the_stores():
    touched = replace(STAT, mtime_ns=9, mode=0o600)
    _, data = write(
        file("clean", stat=touched),
        file("dirty", stat=touched, generation=2),
        file("evicted", stat=touched, resident=False),
    )
    shown = [(row["path"], row["mtime"], row["mode"]) for row in json.loads(data)["entries"]]
    stored = ("1600000000.000000001", "0640")
    assert shown == [("clean", "0.000000009", "0600"), ("dirty", *stored), ("evicted", *stored)]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([Kind.FILE, Kind.LINK, Kind.DIRECTORY]),
            st.booleans(),
            st.sampled_from(["nothing", "replaced", "removed"]),
        ),
        max_size=12,
    )
)
def test_another_hosts_word_counts_unless_this_host_has_changed_it_since(rows):
    """Of a file always, since its upload settles that; of what is only in the manifest while it is unchanged here."""
    theirs, entries, expected = replace(STORED, version=Version("theirs")), [], {}
    for number, (kind, changed, word) in enumerate(rows):
        name = str(number)
        entry = {Kind.FILE: file, Kind.LINK: lambda path: link(path, "ours"), Kind.DIRECTORY: directory}[kind](name)
        told = replace(entry.stat, mtime_ns=9, target="theirs" if kind is Kind.LINK else None, mode=0o711)
        superseded = None
        if word != "nothing":
            superseded = Superseded(theirs, None) if kind is Kind.FILE else Superseded(None, told)
            superseded = Superseded() if word == "removed" else superseded
        entries.append(replace(entry, generation=1 + changed, superseded=superseded))
        heard = word != "nothing" and (kind is Kind.FILE or not changed)
        if not heard or word == "replaced":
            ours = {Kind.FILE: '"etag"', Kind.LINK: "ours", Kind.DIRECTORY: "2755"}
            expected[name] = ({Kind.FILE: "theirs", Kind.LINK: "theirs", Kind.DIRECTORY: "0711"} if heard else ours)[
                kind
            ]
    _, data = write(*entries)
    shown = {Kind.FILE: "version", Kind.LINK: "target", Kind.DIRECTORY: "mode"}
    assert {row["path"]: row[shown[Kind(row["type"])]] for row in json.loads(data)["entries"]} == expected


def test_p14_names_that_are_not_utf8_are_reported_and_the_rest_is_written():
    summary, data = write(file("good"), file("bad\udcff"), link("l", "bad\udcff"))
    assert [f.path for f in summary.failures] == ["bad\udcff", "l"]
    assert [row["path"] for row in json.loads(data)["entries"]] == ["good"]


@given(
    st.lists(st.tuples(PATHS, st.sampled_from(Kind), st.text(min_size=1).filter(lambda t: "\0" not in t)), max_size=8)
)
@example([("e\u0301/\n/\u2028", Kind.FILE, ""), ('"\\', Kind.LINK, "\n"), ("\x7f\ufeff", Kind.DIRECTORY, "")])
def test_p14_what_is_written_is_read(rows):
    entries, files, others = [], {}, []
    for path, kind, target in rows:
        try:
            target.encode()
        except UnicodeEncodeError:
            continue
        if kind is Kind.FILE:
            entries.append(file(path))
            files[path] = manifest.ManifestFile('"etag"', 5, STORED.sha256, STORED.mtime_ns, STORED.mode)
        elif kind is Kind.LINK:
            entries.append(link(path, target))
            others.append((path, FileStat(Kind.LINK, 0, 7, 0, 0, 0o777, target)))
        else:
            entries.append(directory(path))
            others.append((f"{path}/", FileStat(Kind.DIRECTORY, 0, 7, 0, 0, 0o2755)))
    found = read(write(*entries)[1])
    assert found.files == files
    assert found.others == others


def test_a_missing_manifest_is_not_found():
    with pytest.raises(ObjectNotFound):
        manifest.read(FlatStore(), KEY)


# -- somebody else's bytes ---------------------------------------------------------------------------------------------

ROW = {"path": "a", "type": "file", "size": 5, "mtime": "1.5", "mode": "0644", "sha256": "ab" * 32, "version": "v"}
LINK_ROW = {"path": "l", "type": "link", "mtime": "1.5", "target": "x"}
DIRECTORY_ROW = {"path": "d", "type": "dir", "mtime": "1.5", "mode": "0755"}


def document(*rows, **head):
    return json.dumps({"format": 1, "entries": list(rows), **head}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not json",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"x"',
        b"1",
        b"{}",
        b'{"format": 1}',
        b'{"format": 2, "entries": []}',
        b'{"format": 1, "entries": {"a": 1}}',
        b'{"format": 1, "entries": "abc"}',
        b'{"format": 1, "entries": [1, null, "x", []]}',
        b"[" * 1_000_000,
        b'{"a":' * 100_000,
        b'{"format": 1, "entries": [' + b"[" * 100_000,
        b'{"format": 1, "entries": [' + b"9" * 100_000,
    ],
    ids=lambda data: repr(data[:30]),
)
def test_p16_what_is_no_manifest_says_nothing(data):
    found = read(data)
    assert (found.files, found.others) == ({}, [])


@pytest.mark.parametrize(
    "path", ["", "/", "/etc/passwd", "..", "../x", "a/../../b", "./a", "a//b", "a/", "a\0b", None, 5.5]
)
@pytest.mark.parametrize("row", [ROW, LINK_ROW, DIRECTORY_ROW], ids=["file", "link", "dir"])
def test_p16_a_path_that_leads_out_is_passed_over(row, path):
    found = read(document(row | {"path": path}, ROW | {"path": "good"}))
    paths = [*found.files, *(name.rstrip("/") for name, _ in found.others)]
    assert "good" in paths
    assert all(check_path(name) for name in paths)
    assert path is None or path == 5.5 or path not in paths


@pytest.mark.parametrize("path", [".cachesync", ".cachesync/x"])
@pytest.mark.parametrize("row", [ROW, LINK_ROW, DIRECTORY_ROW], ids=["file", "link", "dir"])
def test_p16_our_own_folder_is_nobodys(row, path):
    found = read(document(row | {"path": path}))
    assert (found.files, found.others) == ({}, [])


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**30, -(10**30), 1e308, float("inf"), float("nan"), "9" * 30, "1e400", "-1", "\ud800", "\0"])
    | st.floats()
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(
    row=st.sampled_from([ROW, LINK_ROW, DIRECTORY_ROW]),
    field=st.sampled_from(["path", "type", "size", "mtime", "mode", "sha256", "version", "target"]),
    value=JSON,
)
@example(row=ROW, field="size", value=float("inf"))
@example(row=ROW, field="size", value=10**30)
@example(row=ROW, field="size", value=-1)
@example(row=ROW, field="mtime", value="9" * 30)
@example(row=ROW, field="mode", value="7" * 40)
@example(row=ROW, field="mode", value="-644")
@example(row=ROW, field="sha256", value=[])
@example(row=ROW, field="sha256", value="not hex")
@example(row=LINK_ROW, field="target", value="\ud800")
@example(row=LINK_ROW, field="target", value="")
@example(row=LINK_ROW, field="target", value="a\0b")
@example(row=LINK_ROW, field="path", value="\ud800")
@example(row=DIRECTORY_ROW, field="path", value="\ud800")
@example(row=DIRECTORY_ROW, field="mtime", value="1" * 25)
def test_p16_a_row_that_makes_no_sense_is_passed_over_and_no_other(row, field, value):
    found = read(document(row | {field: value}, ROW | {"path": "good"}))
    assert "good" in found.files
    for facts in found.files.values():
        assert isinstance(facts.etag, str)
        assert facts.sha256 is None or (isinstance(facts.sha256, str) and len(facts.sha256) == 64)
        assert 0 <= facts.size < 2**63
        assert -(2**63) <= facts.mtime_ns < 2**63
        assert 0 <= facts.mode <= 0o7777
    for path, stat in found.others:
        path.encode("utf-8", "surrogateescape")
        assert -(2**63) <= stat.mtime_ns < 2**63
        assert 0 <= stat.mode <= 0o7777
        if stat.kind is Kind.LINK:
            assert stat.target
            assert "\0" not in stat.target
            stat.target.encode("utf-8", "surrogateescape")


def test_a_manifest_that_is_too_large_is_read_if_it_has_lines_and_else_passed_over(monkeypatch):
    monkeypatch.setattr(manifest, "_LARGEST", 1000)
    rows = [ROW | {"path": f"f{number}"} for number in range(50)]
    lines = b",\n".join(json.dumps(row).encode() for row in rows)
    assert len(read(b'{"format": 1, "entries": [\n' + lines + b"\n]}\n").files) == 50
    assert (read(document(*rows)).files, read(document(*rows)).others) == ({}, [])
