"""What the words of the command line mean: text to numbers and pairs. Each raises argparse.ArgumentTypeError. Pure."""

from __future__ import annotations

import argparse
import re

from cachesync.config.kinds import SIZE
from cachesync.model.limits import MAX_EXPIRES, MAX_FLUSH_TIMEOUT, MIN_EXPIRES


def seconds(text: str) -> float:
    """How long to wait: 0 to a day."""
    return _number(text, MAX_FLUSH_TIMEOUT)


def lifetime(text: str) -> float:
    """How long a presigned link works."""
    return _number(text, MAX_EXPIRES, MIN_EXPIRES)


def _number(text: str, most: float, least: float = 0.0) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: {least:.0f} to {most:.0f} seconds")
    return number


def days(text: str) -> int:
    """Whole days."""
    if not re.fullmatch("[0-9]{1,5}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: whole days")
    return int(text)


def amount(text: str) -> int:
    """A whole number."""
    if not re.fullmatch("[0-9]{1,12}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: a whole number")
    return int(text)


def byte_count(text: str) -> int:
    """A size, as 50KB."""
    try:
        return int(SIZE.parse(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: {SIZE.allowed}") from None


def pair(text: str) -> tuple[str, str]:
    """A name in lower case and a value, as NAME=VALUE."""
    name, separator, value = text.partition("=")
    if not name or not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: NAME=VALUE")
    return name.lower(), value
