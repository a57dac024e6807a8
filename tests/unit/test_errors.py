"""Every error says what to do and what the exit code is; the tree in the docstring is the tree."""

import re

import pytest

from cachesync.model import errors
from cachesync.model.errors import CacheSyncError, ExitCode


def tree(base: type[CacheSyncError], depth: int = 0) -> list[tuple[int, str]]:
    rows = [(depth, base.__name__)]
    for child in base.__subclasses__():
        if child.__module__ == errors.__name__:
            rows += tree(child, depth + 1)
    return rows


CLASSES = [getattr(errors, name) for _, name in tree(CacheSyncError)]
LEAVES = [cls for cls in CLASSES if not cls.__subclasses__()]


def drawn() -> list[tuple[int, str, str]]:
    """Depth, name and exit code (or nothing) of each line of the docstring's tree."""
    line = re.compile(r"    ([│├└─ ]*)([A-Z]\w+)(?:\s+(\d))?(?:\s|$)")
    found = map(line.match, (errors.__doc__ or "").splitlines())
    return [(len(match[1]) // 4, match[2], match[3] or "") for match in found if match]


def test_the_tree_in_the_docstring_matches_the_classes():
    assert sorted((depth, name) for depth, name, _ in drawn()) == sorted(tree(CacheSyncError))
    above: list[str] = []
    for depth, name, _ in drawn():
        above[depth:] = [name]
        if depth:
            assert getattr(errors, name).__base__.__name__ == above[depth - 1]


def test_the_exit_codes_in_the_docstring_are_the_classes():
    for _, name, code in drawn():
        if code:
            assert getattr(errors, name).exit_code == int(code), name


@pytest.mark.parametrize("cls", LEAVES, ids=lambda cls: cls.__name__)
def test_every_leaf_has_an_exit_code_and_a_docstring(cls):
    assert cls.exit_code in set(ExitCode) - {ExitCode.DONE}
    assert cls.__doc__


@pytest.mark.parametrize("cls", LEAVES, ids=lambda cls: cls.__name__)
def test_every_leaf_has_a_hint(cls):
    assert cls.hint


def test_no_error_of_a_store_promises_what_only_a_daemon_does():
    """A command that has ended tries nothing again; the daemon's log says itself that it does."""
    assert not [cls for cls in CLASSES if "tried again" in cls.hint and issubclass(cls, errors.StoreError)]


def test_a_message_says_operation_path_cause_and_hint():
    error = errors.StoreDenied("store", "a b.txt", "AccessDenied", "ask ada")
    assert str(error) == "store 'a b.txt': AccessDenied (ask ada)"
    assert error.reason == "AccessDenied"
    assert str(errors.Unstorable("store", "x")) == f"store 'x' ({errors.Unstorable.hint})"
    assert errors.Unstorable("store", "x").reason == "store"


def test_a_message_stays_one_line_whatever_the_name():
    assert "\n" not in str(errors.Unstorable("store", "two\nlines"))
