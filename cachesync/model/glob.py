"""Globs of one name, as in gitignore, matched in linear time. Pure.

What stands between two stars has a fixed length, so its first place is as good as any later one. Each is taken once and
for all (an atomic group), so the matcher never returns to a star that it has passed.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable


class WrongPattern(ValueError):
    """The text is no pattern; the message says why, as the end of a sentence."""


def segment(pattern: str) -> Callable[[str], object]:
    """Return what matches a whole name that holds no slash. Raises WrongPattern."""
    pieces, literal = _pieces(pattern)
    if literal is not None:
        return literal.__eq__
    first, *rest = pieces
    last = rest.pop() if rest else None
    atomic = "".join(f"(?>.*?{piece})" for piece in rest if piece)
    expression = first + atomic + ("" if last is None else f".*{last}")
    try:
        with warnings.catch_warnings():
            # Of what another version of Python might take "[[]" for: that is no word for whoever wrote the pattern.
            warnings.simplefilter("ignore", FutureWarning)
            return re.compile(expression, re.DOTALL).fullmatch
    except re.error as error:
        raise WrongPattern("is no pattern") from error


def _pieces(pattern: str) -> tuple[list[str], str | None]:
    """What stands between the stars, as regular expressions of fixed length; and the name, if there is only one."""
    pieces, literal, at = [""], "", 0
    plain = True
    while at < len(pattern):
        letter = pattern[at]
        at += 1
        if letter == "*":
            plain = False
            pieces.append("")
        elif letter == "?":
            plain = False
            pieces[-1] += "."
        elif letter == "[":
            plain = False
            # A bracket that comes first, or after the negation, is one of the letters.
            first = at + (pattern[at : at + 1] in {"!", "^"})
            end = pattern.find("]", first + 1)
            if end < 0:
                raise WrongPattern("is no pattern")
            letters = pattern[first:end].replace("\\", "\\\\")
            pieces[-1] += f"[{'^' * (first - at)}{letters}]"
            at = end + 1
        else:
            if letter == "\\":
                if at == len(pattern):
                    raise WrongPattern("is no pattern")
                letter = pattern[at]
                at += 1
            pieces[-1] += re.escape(letter)
            literal += letter
    return pieces, literal if plain else None
