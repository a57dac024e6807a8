"""Records: values that nobody changes once they are made.

A frozen dataclass guards itself while the program runs, and compiles six functions for each class. mypy sees the
dataclass and refuses what the guard would; the program runs without it, and compiles the constructor alone. A flush of
what is stored takes a sixth less for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as record
else:
    from collections.abc import Callable
    from dataclasses import dataclass, fields
    from operator import attrgetter

    def record(*, frozen: bool, slots: bool) -> Callable[[type], type]:  # noqa: ARG001 -- mypy takes it at its word
        """A dataclass as mypy sees it: compared, hashed and shown as a frozen one is."""

        def decorate(cls: type) -> type:
            made = dataclass(slots=slots, eq=False, repr=False)(cls)
            compared = [each.name for each in fields(made) if each.compare]
            shown = [each.name for each in fields(made) if each.repr]
            values = attrgetter(*compared)

            def equal(self: object, other: object) -> bool:
                return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

            def hashed(self: object) -> int:
                return hash(values(self))

            def told(self: object) -> str:
                return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

            made.__eq__, made.__hash__, made.__repr__ = equal, hashed, told
            return made

        return decorate


__all__ = ["record"]
