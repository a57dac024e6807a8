"""Records: values that nobody changes once they are made.

A frozen dataclass guards itself while the program runs: its fields are set by a call each, and two more functions are
compiled for each class. That is 8 % of a flush of what is stored. mypy sees the dataclass and refuses what the guard
would; the program runs without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as record
else:
    from dataclasses import dataclass

    def record(*, frozen: bool, slots: bool) -> Callable[[type], type]:
        """A dataclass as mypy sees it, that can be hashed as a frozen one can."""
        return dataclass(slots=slots, unsafe_hash=frozen)


__all__ = ["record"]
