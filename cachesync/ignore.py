"""Which paths of a session are not stored, and by which rule: ``.cachesyncignore`` in gitignore's syntax. Pure.

The rules of the root are relative to the root (``/s1/tmp/`` is a folder of session s1, ``tmp/`` any folder of that
name), those of a session to the session. Strongest first: session, root, default; within a file the last line that
matches. As in git, what lies in an ignored folder cannot be brought back. ``.cachesyncignore`` is stored like any file.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from fnmatch import translate
from functools import lru_cache, partial

from cachesync.keys import printable
from cachesync.record import record

FILE_NAME = ".cachesyncignore"

DEFAULTS = (
    "*.swp",  # vim's swap files
    "*.swo",
    "*.swx",
    "4913",  # vim's try whether it may write in a folder
    ".#*",  # emacs' lock
    "#*#",  # emacs' autosave
    ".nfs*",  # a file deleted on NFS while it is open
    ".fuse_hidden*",  # the same on FUSE
    ".goutputstream-*",  # GLib's half-written file
)
"""What nobody wants stored. For names of files and links only: a folder is never skipped unless somebody says so."""

_DEFAULT = re.compile("|".join(f"({translate(rule)})" for rule in DEFAULTS))
_HINTS = [max(rule.split("*"), key=len) for rule in DEFAULTS]
"""What is in each name that a default speaks of."""

_REMEMBERED_FOLDERS = 4096
_MOST_STARS = 3
_FOLDER_MARK = "ps_d"
"""pathspec's name for the group; tests/unit/test_ignore.py compares us with git."""


@record(frozen=True, slots=True)
class _Rule:
    """One line. ``regex`` is pathspec's; its group marks the slash after a folder that the line names."""

    line: str
    ignores: bool
    folders_only: bool
    regex: re.Pattern[str]

    def matches(self, path: str, *, is_dir: bool) -> bool:
        """Whether the line names ``path`` itself; a line that names a folder above it does not count here."""
        if self.folders_only:
            end = len(path) + 1
            return is_dir and any(match.end(_FOLDER_MARK) == end for match in self.regex.finditer(path + "/"))
        match = self.regex.search(path)
        return match is not None and match.groupdict().get(_FOLDER_MARK) is None


@record(frozen=True, slots=True)
class _File:
    """The rules of one file, the strongest first. ``above`` makes paths relative to it: "" or "SESSION/"."""

    place: str
    above: str
    rules: Sequence[_Rule]

    def verdict(self, path: str, *, is_dir: bool) -> _Rule | None:
        """The rule that decides about ``path`` itself, or None."""
        # pathspec's expressions stop at a line feed, and no line of the file can hold one. No name can hold a NUL.
        place = (self.above + path).replace("\n", "\0")
        return next((rule for rule in self.rules if rule.matches(place, is_dir=is_dir)), None)


class IgnoreRules:
    """What is not stored of one session. ``broken`` has a sentence for each line that is no pattern; the others count.

    ``whole`` is the reason why the whole session is ignored, if a line in the root's file names it. Immutable and
    thread-safe.
    """

    def __init__(self, session: str, root_text: str = "", session_text: str = "") -> None:
        self.broken: list[str] = []
        given = [("session", "", session_text), ("root", f"{session}/", root_text)]
        files = [_File(place, above, self._rules(place, text)) for place, above, text in given]
        self._files = [file for file in files if file.rules]
        # The session's own folder is a folder of the root, and can be ignored whole.
        self.whole = next(
            (_sentence(rule, "root") for rule in files[1].rules if rule.matches(session, is_dir=True)), None
        )
        self._folder = lru_cache(_REMEMBERED_FOLDERS)(partial(self._judge, is_dir=True))

    def reason(self, path: str, is_dir: bool) -> str | None:  # noqa: FBT001 - every caller has it in a variable
        """The sentence that says which rule ignores ``path`` (relative to the session), or None if it is stored."""
        path = path.rstrip("/")
        if not self._files:
            return None if is_dir else _default(path)
        if self.whole:
            return self.whole
        folders = [path[:at] for at, letter in enumerate(path) if letter == "/"]
        if is_dir:
            folders.append(path)
        for folder in folders:
            if above := self._folder(folder):
                return above
        return None if is_dir else self._judge(path, is_dir=False)

    def ignored(self, directory: str, names: Sequence[str], *, is_dir: bool) -> dict[str, str]:
        """Which of ``names``, all files or all folders in ``directory`` ("" or ending in "/"), are not stored, and why.
        The same as ``reason`` of each, at a fraction of the cost."""
        judge: Callable[[str], str | None]
        if not self._files:
            text = "/".join(names)
            if is_dir or not any(hint in text for hint in _HINTS):
                return {}
            above, judge = None, _default
        else:
            above = self.reason(directory, is_dir=True) if directory else self.whole
            judge = self._folder if is_dir else partial(self._judge, is_dir=False)
        reasons = ((name, above or judge(directory + name)) for name in names)
        return {name: reason for name, reason in reasons if reason}

    def _judge(self, path: str, *, is_dir: bool) -> str | None:
        for file in self._files:
            if rule := file.verdict(path, is_dir=is_dir):
                return _sentence(rule, file.place)
        return None if is_dir else _default(path)

    def _rules(self, place: str, text: str) -> list[_Rule]:
        found: list[_Rule] = []
        # split, not splitlines: a name may hold a form feed or a line separator.
        for number, raw in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
            line = raw.removesuffix("\r")
            if not line.strip() or line.startswith("#"):
                continue
            if rule := _compile(line):
                found.append(rule)
            else:
                self.broken.append(
                    f"{FILE_NAME} of the {place}, line {number}: {printable(line)!r} is no pattern and is passed over"
                )
        return found[::-1]


def _sentence(rule: _Rule, place: str) -> str | None:
    return f"ignored by {rule.line!r} ({FILE_NAME} of the {place})" if rule.ignores else None


def _default(path: str) -> str | None:
    match = _DEFAULT.fullmatch(path.rpartition("/")[2])
    return f"ignored by {DEFAULTS[match.lastindex - 1]!r} (default)" if match and match.lastindex else None


def _is_costly(line: str) -> bool:
    """Whether matching could take for ever: a regular expression tries every way to share a name among the stars."""
    stars = max(part.replace("**", "").count("*") for part in line.split("/"))
    return stars > _MOST_STARS or line.count("**") > _MOST_STARS


def _compile(line: str) -> _Rule | None:
    """The rule that a line stands for; None if it is no pattern."""
    if _is_costly(line):
        return None
    # Only now: importing it takes 40 ms, and most sessions have no rules.
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

    try:
        with warnings.catch_warnings():
            # Of what another version of Python might take "[[]" for: that is no word for whoever wrote the file.
            warnings.simplefilter("ignore", FutureWarning)
            pattern = GitIgnoreSpecPattern(line)
    except (ValueError, re.error):
        return None
    if pattern.include is None or pattern.regex is None:
        return None
    return _Rule(line, pattern.include, line.rstrip().endswith("/"), pattern.regex)
