"""What is not stored: the built-in rules, gitignore's syntax, and who overrides whom."""

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachesync.model.ignore import DEFAULTS, LONGEST_LINE, MOST_RULES, IgnoreRules


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        (".a.txt.swp", "*.swp"), ("d/.swo", "*.swo"), ("d/e/x.swx", "*.swx"), ("4913", "4913"), (".#lock", ".#*"),
        ("#auto#", "#*#"), ("d/.nfs000123", ".nfs*"), (".fuse_hidden1", ".fuse_hidden*"),
        (".goutputstream-A1B2", ".goutputstream-*"),
    ],
)  # fmt: skip
def test_defaults(path, rule):
    assert IgnoreRules("s1").reason(path, is_dir=False) == f"ignored by '{rule}' (default)"


@pytest.mark.parametrize(
    "path", ["a.txt", "notes~", "swp", "a.swpx", "44913", "a.swp\n", "#open", "x.nfs", ".cachesyncignore", "4913.txt"]
)
def test_what_users_write_is_kept(path):
    assert IgnoreRules("s1").reason(path, is_dir=False) is None


@pytest.mark.parametrize("root_text", ["", "*.log\n"])
def test_defaults_never_hide_a_folder(root_text):
    rules = IgnoreRules("s1", root_text)
    assert rules.reason("data.swp", is_dir=True) is None
    assert rules.reason("data.swp/", is_dir=True) is None
    assert rules.reason("data.swp/real.csv", is_dir=False) is None
    assert rules.reason("data.swp/x.swp", is_dir=False) == "ignored by '*.swp' (default)"


def test_a_reason_names_the_line_and_the_file():
    rules = IgnoreRules("s1", "# notes\n\nnode_modules/\n", "*.log\n")
    assert rules.reason("a/node_modules", is_dir=True) == "ignored by 'node_modules/' (.cachesyncignore of the root)"
    assert rules.reason("a/node_modules/x.js", is_dir=False) is not None
    assert rules.reason("node_modules", is_dir=False) is None, "the rule is for folders"
    assert rules.reason("b/c.log", is_dir=False) == "ignored by '*.log' (.cachesyncignore of the session)"


def test_roots_rules_are_relative_to_the_root():
    text = "/s1/tmp\n/top\nboth/x\n"
    assert IgnoreRules("s1", text).reason("tmp", is_dir=True) is not None
    assert IgnoreRules("s2", text).reason("tmp", is_dir=True) is None
    assert IgnoreRules("s1", text).reason("top", is_dir=False) is None
    assert IgnoreRules("both", text).reason("x", is_dir=False) is not None
    assert IgnoreRules("s1", "", "/top\n").reason("top", is_dir=False) is not None


def test_the_root_can_ignore_a_whole_session():
    rules = IgnoreRules("scratch", "/scratch/\n", "!*\n")
    assert rules.reason("a/b", is_dir=False) == "ignored by '/scratch/' (.cachesyncignore of the root)"
    assert IgnoreRules("scratch2", "/scratch/\n").reason("a/b", is_dir=False) is None


def test_later_lines_and_nearer_files_win():
    rules = IgnoreRules("s1", "*.log\n!*.swp\n*.bin\n", "*.tmp\n!keep.tmp\n!run.log\n")
    assert rules.reason("keep.tmp", is_dir=False) is None
    assert rules.reason("other.tmp", is_dir=False) is not None
    assert rules.reason("run.log", is_dir=False) is None, "the session overrides the root"
    assert rules.reason("other.log", is_dir=False) is not None
    assert rules.reason("a.swp", is_dir=False) is None, "the root overrides the defaults"


def test_nothing_comes_back_out_of_an_ignored_folder():
    rules = IgnoreRules("s1", "", "build/\n!build/keep\n")
    assert rules.reason("build/keep", is_dir=False) == "ignored by 'build/' (.cachesyncignore of the session)"
    rules = IgnoreRules("s1", "", "build/*\n!build/keep/\n")
    assert rules.reason("build/keep/x", is_dir=False) is None
    assert rules.reason("build/other", is_dir=False) is not None


@pytest.mark.parametrize("line", ["x[", "!", "/", "a[z-", "!/", "a\\", "[z-a]"])
def test_a_broken_line_is_reported_and_the_others_count(line):
    rules = IgnoreRules("s1", f"*.one\n{line}\n", f"{line}\n*.two\n")
    assert len(rules.broken) == 2
    assert ".cachesyncignore of the root, line 2" in " ".join(rules.broken)
    assert ".cachesyncignore of the session, line 1" in " ".join(rules.broken)
    assert repr(line) in rules.broken[0]
    assert rules.reason("a.one", is_dir=False) is not None
    assert rules.reason("a.two", is_dir=False) is not None
    assert rules.reason("a.three", is_dir=False) is None


def test_odd_names_and_texts():
    rules = IgnoreRules("s1", "", "\ufeff*.log\r\n\\#x\r\n\\!y\r\n")
    assert rules.broken == []
    assert rules.reason("new\nline/a.log", is_dir=False) is not None
    assert rules.reason("a.log\n", is_dir=False) is None
    assert rules.reason("not-utf8-\udcff.log", is_dir=False) is not None
    assert rules.reason("#x", is_dir=False) is not None
    assert rules.reason("!y", is_dir=False) is not None
    assert rules.reason("d/" * 2000 + "a.log", is_dir=False) is not None


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("*a*a*a/*a*a*a/*a*a*a/*a*a*b", "/".join(["a" * 40] * 4)),  # stars in each of four names
        ("a*" * 200 + "b", "a" * 255),
        ("**/a/" * 100 + "b", "/".join("a" * 400)),
        ("**/" + "a/" * 400 + "b", "/".join("a" * 500)),
        ("*" + "[ab]?" * 100 + "c", "a" * 255),
    ],
)
def test_no_line_takes_long(line, path):
    """A regular expression that tries all ways to match would not return before the end of the test run."""
    rules = IgnoreRules("s1", line, line)
    assert rules.broken == []
    assert rules.reason(path, is_dir=False) is None
    assert rules.ignored(path + "/", ["a", "a" * 255], is_dir=False) == {}
    matching = path[:-1] + line[-1]
    assert rules.reason(matching, is_dir=False) is not None


def test_a_long_line_and_lines_past_the_most_are_reported():
    text = "".join(f"{number}.x\n" for number in range(MOST_RULES)) + "last\nand more\n"
    rules = IgnoreRules("s1", "a" * (LONGEST_LINE + 1) + "\n" + "*" * LONGEST_LINE + "q\n*.ok", text)
    assert [sentence.split(": ")[0] for sentence in rules.broken] == [
        f".cachesyncignore of the session, line {MOST_RULES + 1}",
        ".cachesyncignore of the root, line 1",
        ".cachesyncignore of the root, line 2",
    ]
    assert rules.reason(f"{MOST_RULES - 1}.x", is_dir=False) is not None
    assert rules.reason("last", is_dir=False) is None
    assert rules.reason("a.ok", is_dir=False) is not None


def test_more_folders_than_are_remembered_are_judged_alike(monkeypatch):
    monkeypatch.setattr("cachesync.model.ignore._REMEMBERED_FOLDERS", 3)
    rules = IgnoreRules("s1", "", "a/**/x\n")
    for _ in range(2):
        for number in range(5):
            assert rules.reason(f"a/{number}/x", is_dir=False) is not None
            assert rules.reason(f"b/{number}/x", is_dir=False) is None


_NAMES = st.sampled_from(["a", "b", "c.log", "d.log", "x y", "#e"])
_PATHS = st.lists(_NAMES, min_size=1, max_size=4).map("/".join)
_LINES = st.sampled_from(
    [
        "a",
        "/a",
        "a/",
        "!a",
        "*.log",
        "!c.log",
        "a/b",
        "a/*",
        "!a/b",
        "**/b",
        "a/**",
        "a/**/b",
        "[a-b]",
        "x y",
        "/*",
        "!/b/",
        "*a*",
        "a*/",
        "[!a]",
        "c?l*g",
        "/**/b",
        "**/a/",
        "/a/**/",
        "a/*/b/",
        "**",
        "*/",
        "!**/b/**",
        "\\\\a",
    ]
)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is the judge here")
@settings(max_examples=60, deadline=None)
@given(
    paths=st.lists(_PATHS, min_size=1, max_size=8), root=st.lists(_LINES, max_size=3), own=st.lists(_LINES, max_size=3)
)
def test_agrees_with_git(tmp_path_factory, paths, root, own):
    top = tmp_path_factory.mktemp("git")
    session = top / "s1"
    session.mkdir()
    subprocess.run(["git", "init", "-q", str(top)], check=True)
    # core.ignoreCase and the user's own excludes are this machine's; only our two files may count.
    (top / ".git/info/exclude").write_text("")
    (top / ".gitignore").write_text("\n".join(root))
    (session / ".gitignore").write_text("\n".join(own))
    asked = "\0".join(f"s1/{path}" for path in paths)
    answer = subprocess.run(
        ["git", "-C", str(top), "-c", "core.excludesFile=/dev/null", "check-ignore", "-z", "--stdin", "--no-index"],
        input=asked, capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    ignored = {path.removeprefix("s1/") for path in answer.split("\0") if path}
    rules = IgnoreRules("s1", "\n".join(root), "\n".join(own))
    assert {path for path in paths if rules.reason(path, is_dir=False)} == ignored


@pytest.mark.parametrize("directory", ["", "a/", "a/b/", "c.log/"])
@pytest.mark.parametrize("name", ["s1", "a"])
@given(
    names=st.lists(st.sampled_from([rule.replace("*", "x") for rule in DEFAULTS]) | _NAMES, unique=True),
    root=st.lists(_LINES, max_size=3),
    own=st.lists(_LINES, max_size=3),
    is_dir=st.booleans(),
)
def test_many_names_are_judged_as_each_is(name, directory, names, root, own, is_dir):
    rules = IgnoreRules(name, "\n".join(root), "\n".join(own))
    each = {name: reason for name in names if (reason := rules.reason(directory + name, is_dir=is_dir))}
    assert rules.ignored(directory, names, is_dir=is_dir) == each


@pytest.mark.parametrize("is_dir", [False, True])
def test_the_defaults_are_judged_alike_one_by_one_and_together(is_dir):
    names = [rule.replace("*", x) for rule in DEFAULTS for x in ("", "x", "x\n", "4913")] + ["14913", "kept", "#"]
    rules = IgnoreRules("s")
    each = {name: reason for name in names if (reason := rules.reason(f"d/{name}", is_dir=is_dir))}
    assert rules.ignored("d/", names, is_dir=is_dir) == each
    assert bool(each) != is_dir


def test_each_default_is_a_rule_of_its_own():
    for rule in DEFAULTS:
        assert IgnoreRules("s").reason(rule.replace("*", "x"), is_dir=False) == f"ignored by '{rule}' (default)"
