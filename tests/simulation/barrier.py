"""What "stored" means: a model of which file had which name and which bytes at each instant of a flush.

It is made of what programs do to the disk, and never of the journal. "Stored" promises: the bytes of every file that
stood in the session when the flush began are in the store, under the name that the file has now, and the manifest lists
it; or a program has deleted or rewritten the file since. A flush cannot know of a rename that comes after its last look
at the disk, so the promise has to hold at one instant: of the last whole scan that the flush made, of its last upload,
or later.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulation.host import SimulatedHost, Snapshot

Holds = Callable[[str, bytes, bool], str | None]
"""Says what is wrong if these bytes are expected in the store under this name, and maybe in the manifest; or None."""


@dataclass(slots=True)
class Barrier:
    """A flush of a host that is under way. ``depth`` says inside of how many other steps it runs; ``began`` numbers the
    event at which it began. ``since`` is the first of the ``instants`` that may be the promised one."""

    host: SimulatedHost
    depth: int
    began: int
    instants: list[Snapshot] = field(default_factory=list)
    removed: set[int] = field(default_factory=set)
    since: int = 0

    def see(self, now: Snapshot, *, program: bool = True) -> None:
        """Note how the session stands after a change. What a volume takes along when it is unmounted was not removed;
        what ``program`` or engine removed was."""
        before = {seen.file for seen in self.instants[-1].values()} if self.instants else set[int]()
        if program:
            self.removed |= before - {seen.file for seen in now.values()}
        self.instants.append(now)

    def looked(self) -> None:
        """The flush looks at the whole session now, or still uploads: what happened before, it has to know."""
        self.since = len(self.instants) - 1

    def fault(self, holds: Holds) -> str | None:
        """What is wrong with the answer "stored", or None."""
        faults = [self._at(instant, holds) for instant in range(self.since, len(self.instants))]
        return faults[-1] if all(faults) else None

    def unchanged(self) -> Snapshot:
        """The files that stood all the time under one name, with the same bytes."""
        first = self.instants[0]
        return {
            path: seen
            for path, seen in first.items()
            if all((now := instant.get(path)) and now.data == seen.data for instant in self.instants)
        }

    def _at(self, instant: int, holds: Holds) -> str | None:
        """What is wrong if the promise is held against how the session stood at one of the instants."""
        later = self.instants[instant:]
        for file, data in {seen.file: seen.data for seen in self.instants[0].values()}.items():
            if file in self.removed or self._rewritten(file, data):
                continue
            names = self._names(file, instant)
            stable = [path for path in names if all(path in now and now[path].file == file for now in later)]
            for path in stable:
                if (wrong := holds(path, data, True)) is not None:
                    return wrong
            if not stable:
                afterwards = names + [path for now in later for path, seen in now.items() if seen.file == file]
                wrongs = [holds(path, data, False) for path in afterwards]
                if all(wrongs):
                    return wrongs[-1]
        return None

    def _names(self, file: int, instant: int) -> list[str]:
        """Its names at an instant; if a volume took them away, the last ones before."""
        for now in reversed(self.instants[: instant + 1]):
            if names := [path for path, seen in now.items() if seen.file == file]:
                return names
        raise AssertionError("it stood at the beginning")

    def _rewritten(self, file: int, data: bytes) -> bool:
        return any(seen.data != data for now in self.instants for seen in now.values() if seen.file == file)
