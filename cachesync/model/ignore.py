"""Which paths of a session are not stored, and by which rule: ``.cachesyncignore`` in gitignore's syntax. Pure.

The rules of the root are relative to the root (``/s1/tmp/`` is a folder of session s1, ``tmp/`` any folder of that
name), those of a session to the session. Strongest first: session, root, default; within a file the last line that
matches. As in git, what lies in an ignored folder cannot be brought back. ``.cachesyncignore`` is stored like any file.

Agents write the rules, so no rule may take long. A line is matched folder by folder, as an automaton whose positions
are its segments: a path costs one step of each line more than its folder (``_Level``), and a step matches one name, in
linear time (``glob.segment``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import translate

from cachesync.model.glob import WrongPattern, segment
from cachesync.model.keys import printable
from cachesync.model.record import record

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

LONGEST_LINE = 1024
MOST_RULES = 1000
"""Of one file. Both bound the time that a path takes."""

_DEFAULT = re.compile("|".join(f"({translate(rule)})" for rule in DEFAULTS))
_HINTS = [max(rule.split("*"), key=len) for rule in DEFAULTS]
"""What is in each name that a default speaks of."""

_REMEMBERED_FOLDERS = 4096

_Matcher = Callable[[str], object]


def _any_name(_name: str) -> bool:
    return True


@record(frozen=True, slots=True)
class _Rule:
    """One line of a file. ``place`` is "root" or "session".

    Each segment matches one name; None is "**", which matches any number of names, but at the end at least one. A
    position is the number of segments that a folder's names have matched; a state is a set of positions, as bits.
    """

    line: str
    place: str
    ignores: bool
    folders_only: bool
    segments: Sequence[_Matcher | None]

    @property
    def last(self) -> _Matcher:
        """Match the last name of a path, if the names before it led to ``final``."""
        return self.segments[-1] or _any_name

    @property
    def final(self) -> int:
        """The position before the last segment, as a bit."""
        return 1 << (len(self.segments) - 1)

    @property
    def start(self) -> int:
        """The state of the folder that the rule is relative to."""
        return self._reach(0)

    def enter(self, state: int, name: str) -> int:
        """Return the state of a folder, from that of the folder above."""
        entered = 0
        for position, matches in enumerate(self.segments[:-1]):
            if state >> position & 1:
                if matches is None:
                    entered |= self._reach(position)
                elif matches(name):
                    entered |= self._reach(position + 1)
        if self.segments[-1] is None:
            entered |= state & self.final
        return entered

    def _reach(self, position: int) -> int:
        reached = 1 << position
        if self.segments[position] is None and position + 1 < len(self.segments):
            reached |= 1 << (position + 1)  # "**" may match no name; two in a row are one
        return reached

    @property
    def sentence(self) -> str | None:
        """The reason why a path is not stored; None for a rule that brings it back."""
        return f"ignored by {self.line!r} ({FILE_NAME} of the {self.place})" if self.ignores else None


@record(frozen=True, slots=True)
class _Level:
    """What the rules say in one folder. ``files`` and ``folders`` are those that may match a name there.

    ``reason`` says why the folder itself is not stored, and so nothing in it.
    """

    states: Sequence[int]
    files: Sequence[tuple[_Matcher, _Rule]] = ()
    folders: Sequence[tuple[_Matcher, _Rule]] = ()
    reason: str | None = None

    def judge(self, name: str, *, is_dir: bool) -> str | None:
        """The sentence that says which rule ignores a name of this folder, or None if it is stored."""
        if self.reason is not None:
            return self.reason
        for matches, rule in self.folders if is_dir else self.files:
            if matches(name):
                return rule.sentence
        return None if is_dir else _default(name)


class IgnoreRules:
    """What is not stored of one session. ``broken`` has a sentence for each line that is no pattern; the others count.

    ``whole`` is the reason why the whole session is ignored, if a line in the root's file names it. Thread-safe.
    """

    def __init__(self, session: str, root_text: str = "", session_text: str = "") -> None:
        self.broken: list[str] = []
        own = self._compiled("session", session_text)
        shared = self._compiled("root", root_text)
        self._rules = own + shared
        # The session's own folder is a folder of the root, and can be ignored whole.
        above = self._level(shared, [rule.start for rule in shared])
        self.whole = above.judge(session, is_dir=True)
        entered = [rule.enter(state, session) for rule, state in zip(shared, above.states, strict=True)]
        self._top = self._level(self._rules, [rule.start for rule in own] + entered, self.whole)
        self._levels: dict[str, _Level] = {}

    def reason(self, path: str, is_dir: bool) -> str | None:  # noqa: FBT001 - every caller has it in a variable
        """The sentence that says which rule ignores ``path`` (relative to the session), or None if it is stored."""
        folder, _, name = path.rstrip("/").rpartition("/")
        if not self._rules:
            return None if is_dir else _default(name)
        return self._at(folder).judge(name, is_dir=is_dir)

    def ignored(self, directory: str, names: Sequence[str], *, is_dir: bool) -> dict[str, str]:
        """Which of ``names``, all files or all folders in ``directory`` ("" or ending in "/"), are not stored, and why.
        The same as ``reason`` of each, at a fraction of the cost."""
        if not self._rules:
            text = "/".join(names)
            if is_dir or not any(hint in text for hint in _HINTS):
                return {}
        level = self._at(directory.rstrip("/"))
        reasons = ((name, level.judge(name, is_dir=is_dir)) for name in names)
        return {name: reason for name, reason in reasons if reason}

    def _at(self, folder: str) -> _Level:
        """The rules in a folder: from the nearest folder above it that is remembered, one step a folder."""
        level, below = self._top, list[str]()
        while folder:
            if (known := self._levels.get(folder)) is not None:
                level = known
                break
            below.append(folder)
            folder = folder.rpartition("/")[0]
        if len(self._levels) + len(below) > _REMEMBERED_FOLDERS:
            self._levels.clear()
        for path in reversed(below):
            level = self._levels[path] = self._enter(level, path.rpartition("/")[2])
        return level

    def _enter(self, level: _Level, name: str) -> _Level:
        if level.reason is not None:
            return level
        reason = level.judge(name, is_dir=True)
        states = [
            rule.enter(state, name) if state else 0 for rule, state in zip(self._rules, level.states, strict=True)
        ]
        if reason is None and states == level.states:
            return level
        return self._level(self._rules, states, reason)

    @staticmethod
    def _level(rules: Sequence[_Rule], states: Sequence[int], reason: str | None = None) -> _Level:
        armed = [(rule.last, rule) for rule, state in zip(rules, states, strict=True) if state & rule.final]
        return _Level(states, [each for each in armed if not each[1].folders_only], armed, reason)

    def _compiled(self, place: str, text: str) -> list[_Rule]:
        """The rules of one file, the strongest first."""
        found: list[_Rule] = []
        # split, not splitlines: a name may hold a form feed or a line separator.
        for number, raw in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
            line = raw.removesuffix("\r")
            if not line.strip() or line.startswith("#"):
                continue
            where = f"{FILE_NAME} of the {place}, line {number}"
            if len(found) == MOST_RULES:
                self.broken.append(f"{where}: this and all later lines are passed over, {MOST_RULES} rules count")
                break
            try:
                found.append(_compile(line, place))
            except WrongPattern as error:
                self.broken.append(f"{where}: {printable(line[:LONGEST_LINE])!r} {error} and is passed over")
        return found[::-1]


def _default(name: str) -> str | None:
    match = _DEFAULT.fullmatch(name)
    return f"ignored by {DEFAULTS[match.lastindex - 1]!r} (default)" if match and match.lastindex else None


def _compile(line: str, place: str) -> _Rule:
    """The rule that a line stands for. Raises WrongPattern."""
    if len(line) > LONGEST_LINE:
        raise WrongPattern(f"is longer than {LONGEST_LINE} characters")
    pattern = line if line.endswith("\\ ") else line.rstrip()
    body = pattern.removeprefix("!")
    names = body.removesuffix("/").removeprefix("/").split("/")
    if names == [""]:
        raise WrongPattern("is no pattern")
    if len(names) == 1 and not body.startswith("/"):
        names.insert(0, "**")
    kept = [name for name, before in zip(names, [None, *names], strict=False) if (name, before) != ("**", "**")]
    segments = [None if name == "**" else segment(name) for name in kept]
    return _Rule(line, place, not pattern.startswith("!"), body.endswith("/"), segments)
