"""What happens in one schedule, as a value made from a seed alone: no disk, no clock, nothing that differs twice."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

Argument = int | float | str | bool

FILES = ("a", "b", "l.jsonl", "d/a", "d/b", "d/e/a", "é \n?versionId=[*]")
FOLDERS = ("d", "d/e", "f")
HOSTS = 2


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that somebody does on host ``host``. ``inner`` is what happens in the middle of a later step of the
    engine (verb "trap"; with "storm" one after the other, each a few points later); without it the engine is killed
    there. Of what happens there it is what happens next."""

    verb: str
    host: int = 0
    args: tuple[Argument, ...] = ()
    inner: Step | None = None

    def __str__(self) -> str:
        shown = ", ".join(repr(arg) for arg in self.args)
        inside = f" then {self.inner}" if self.inner is not None else ""
        return f"{self.verb}@{self.host}({shown}){inside}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """A seed's steps, and how its hosts are set up. ``orderly`` says how their last processes end, ``disk`` of which
    kind (kernel.NATURES) their disks are, ``ears`` whether a flush hears at once which names come."""

    seed: int
    guard: int
    watched: bool
    orderly: bool
    third: bool
    steps: tuple[Step, ...]
    disk: str = "plain"
    ears: bool = False

    @property
    def settings(self) -> str:
        """How its hosts are set up."""
        names = ("guard", "watched", "orderly", "third", "disk", "ears")
        return " ".join(f"{name}={getattr(self, name)}" for name in names)

    def without(self, start: int, end: int) -> Schedule:
        """The same without some of its steps."""
        return replace(self, steps=self.steps[:start] + self.steps[end:])


Make = Callable[[random.Random, int], tuple[Argument, ...]]


def _path(rng: random.Random, _: int) -> tuple[Argument, ...]:
    return (rng.choice(FILES),)


def _data(rng: random.Random, number: int) -> str:
    """Mostly bytes that nobody else ever writes, so that it shows if they are lost."""
    if rng.random() < 0.15:
        return rng.choice(("", "same\n", "SAME\n"))
    return f"{number:03d}" + rng.choice(("", "\n", "\nhalf", "\nand more\n"))


def _written(rng: random.Random, number: int) -> tuple[Argument, ...]:
    return (rng.choice(FILES), _data(rng, number))


def _pair(rng: random.Random, _: int) -> tuple[Argument, ...]:
    return (rng.choice(FILES), rng.choice(FILES))


def _folders(rng: random.Random, _: int) -> tuple[Argument, ...]:
    return (rng.choice(FOLDERS), rng.choice(FOLDERS))


def _folder(rng: random.Random, _: int) -> tuple[Argument, ...]:
    return (rng.choice(FOLDERS),)


def _none(_: random.Random, __: int) -> tuple[Argument, ...]:
    return ()


def _some(*values: Argument) -> Make:
    return lambda rng, _: (rng.choice(values),)


USER: dict[str, tuple[float, Make]] = {
    "write": (8, _written),
    "append": (3, _written),
    "flip": (2, lambda rng, _: (rng.choice(FILES), rng.random() < 0.6)),
    "replace": (3, _written),
    "rename": (4, _pair),
    "rename_folder": (2, _folders),
    "unlink": (5, _path),
    "rmtree": (2, _folder),
    "mkdir": (1, _folder),
    "spoil": (0.3, lambda rng, _: (rng.choice((*FILES, "d")),)),
    "symlink": (1, lambda rng, _: (rng.choice(FILES), rng.choice(("a", "../../etc", "d")))),
    "hardlink": (1, _pair),
    "map": (1, _path),
    "map_write": (2, lambda rng, n: (_data(rng, n),)),
    "unmap": (1, _none),
    "touch": (1, lambda rng, _: (rng.choice(FILES), rng.choice((-5000.0, 0.0, 3.0)))),
    "chmod": (1, lambda rng, _: (rng.choice(FILES), rng.choice((0o600, 0o644, 0o755)))),
    "hold": (1, _path),
    "hold_write": (2, lambda rng, n: (_data(rng, n),)),
    "release": (1, _none),
    "ignore": (1, _some("", "a\n", "d/\n", "*\n!b\n")),
}

ABSENCE: dict[str, tuple[float, Make]] = {
    "remove_session": (2, _none),
    "move_away": (2, _none),
    "move_back": (3, _none),
    "make_session": (1, _none),
    "slow_remove": (0.5, _some(3, 20)),
}

ENGINE: dict[str, tuple[float, Make]] = {
    "notice": (6, _some(1.0, 1.0, 0.6)),
    "scan": (4, _none),
    "pump": (8, _some(1, 2, 50)),
    "flush": (5, _some(True, False, False)),
    "drain": (0.5, _none),
}

LIFE: dict[str, tuple[float, Make]] = {
    "open": (4, _none),
    "lazy": (2, _none),
    "evict": (5, _none),
    "close": (2, _some(True, False)),
    "put": (2, _written),
    "rm": (2, _path),
    "read": (2, _path),
    "restore": (1, _path),
}

WORLD: dict[str, tuple[float, Make]] = {
    "time": (6, _some(0.02, 1.5, 2.5, 7.0, 100.0)),
    "step_clock": (1, _some(-3600.0, -1.0, 0.5, 3600.0)),
    "outage": (1, _some(True, False, False)),
    "fault": (2, lambda rng, _: (rng.randrange(8), rng.choice(("lost", "refused")))),
    "stale": (1, _some(1, 2)),
    "foreign_put": (2, lambda rng, n: (rng.choice(FILES), _data(rng, n), rng.random() < 0.7)),
    "foreign_delete": (1, _path),
    "foreign_copy": (1, lambda rng, _: (rng.choice(FILES), rng.randrange(3), rng.choice(FILES))),
    "deaf": (0.5, _some(True, False)),
    "portal": (0.5, _some(True, False, False)),
}

RESET: dict[str, tuple[float, Make]] = {
    "keep_store": (1, _none),
    "reset_store": (2, _some("emptied", "another", "older")),
}

LOST = ("names", "zeros", "empty", "old")
"""What a disk has lost of what was last written: the names, or the bytes, of which there are zeros, none or the ones
before."""

DISKS = ("coarse", "ext3", "birthless", "overlay", "nfs")

MOUNTS: dict[str, tuple[float, Make]] = {
    "mount": (2, _folder),
    "unmount": (2, _folder),
}

DEATH: dict[str, tuple[float, Make]] = {
    "crash": (3, _none),
    "stop": (1, _none),
    "remember": (1, _none),
    "power_loss": (2, _none),
    "power_cut": (3, lambda rng, _: (rng.choice(LOST), rng.choice((0, 0, 1, 2, 3)), rng.random() < 0.7)),
    "lose_journal": (1, _none),
    "straggle": (1, _none),
}

ROLLBACK: dict[str, tuple[float, Make]] = {
    "keep_root": (2, _none),
    "roll_back_root": (2, _some(True, False)),
    "keep_state": (2, _none),
    "roll_back_state": (2, _some(True, False)),
}

INSIDE = (
    "write",
    "append",
    "hold_write",
    "flip",
    "replace",
    "rename",
    "rename",
    "rename_folder",
    "unlink",
    "rmtree",
    "foreign_put",
    "foreign_delete",
)
OTHERS = ("flush", "pump", "scan", "evict", "open")
ON_ONE = ("write", "append", "flip", "replace", "rename", "unlink", "unlink", "symlink", "symlink", "touch")
"""What programs do with one file, which is the first argument."""

BESIDE = ("notice", "notice", "scan", "pump", "flush", "evict")
"""What other threads of the same process do while one waits for the store."""


MOVES = ("rename", "rename", "rename_folder", "rename_folder", "write", "unlink", "append")
"""What programs do while a flush waits."""


def generate(seed: int) -> Schedule:
    """The schedule of a seed. Each has an emphasis of its own: a mixture of everything seldom gets anywhere."""
    rng = random.Random(seed)
    verbs = _mixture(rng)
    names, weights = list(verbs), [weight for weight, _ in verbs.values()]
    traps = rng.choice((0.0, 0.08, 0.25))
    second = rng.choice((0.0, 0.15, 0.5))
    disk = rng.choice(DISKS) if rng.random() < 0.2 else "plain"
    steps = [_step(rng, USER, "write", 0, number) for number in range(rng.randrange(1, 4))]
    scenes = rng.choices(list(SCENES), k=rng.choice((0, 1, 1, 2))) if SCENES else []
    for number in range(len(steps), len(steps) + rng.randrange(4, 20)):
        host = int(rng.random() < second)
        if scenes and rng.random() < 0.15:
            steps += SCENES[rng.choice(scenes)](rng, host, number)
        if rng.random() < traps:
            steps.append(_trap(rng, host, number, _recent(steps)))
        steps.append(_step(rng, verbs, rng.choices(names, weights)[0], host, number))
    return Schedule(
        seed,
        guard=rng.choice((100, 100, 1)),
        watched=rng.random() < (0.5 if "moved while scanned" in scenes else 0.9),
        orderly=rng.random() < 0.3,
        third=rng.random() < 0.25,
        steps=tuple(steps),
        disk=disk,
        ears=rng.random() < 0.5,
    )


def _recent(steps: Sequence[Step]) -> str:
    """The file that was written last."""
    return str(next(step.args[0] for step in reversed(steps) if step.verb == "write"))


def _mixture(rng: random.Random) -> dict[str, tuple[float, Make]]:
    mixture: dict[str, tuple[float, Make]] = {}
    for table, chance in (
        (USER, 1.0),
        (ENGINE, 1.0),
        (WORLD, 0.8),
        (LIFE, 0.6),
        (ABSENCE, 0.3),
        (DEATH, 0.5),
        (MOUNTS, 0.1),
        (ROLLBACK, 0.1),
        (RESET, 0.1),
    ):
        if rng.random() < chance:
            scale = rng.choice((0.4, 1.0, 2.0))
            for verb, (weight, make) in table.items():
                if rng.random() < 0.75:
                    mixture[verb] = (weight * scale, make)
    return mixture or USER


def _step(rng: random.Random, verbs: dict[str, tuple[float, Make]], verb: str, host: int, number: int) -> Step:
    return Step(verb, host, verbs[verb][1](rng, number))


def _trap(rng: random.Random, host: int, number: int, recent: str) -> Step:
    """Something in the middle of what the engine does next: at a request, a transaction, or a look at the disk."""
    point = rng.choice(("request", "journal", "look"))
    args = (point, min(30, int(rng.expovariate(0.2))), rng.random() < 0.5)
    if point == "request" and rng.random() < 0.5:
        return Step("trap", host, args, _meanwhile(rng, host, number, recent))
    if rng.random() < 0.5:
        return Step("trap", host, args)
    if rng.random() < 0.2:
        verb, verbs = rng.choice(OTHERS), ENGINE | LIFE
        return Step("trap", host, args, _step(rng, verbs, verb, 1 - host, number + 500))
    verb = rng.choice(INSIDE)
    return Step("trap", host, args, _step(rng, USER | WORLD, verb, host, number + 500))


def _moved_while_flushed(rng: random.Random, host: int, number: int) -> list[Step]:
    """Names change while a flush waits, of files that were stored and of new ones."""
    steps = [_step(rng, USER, "write", host, number + at) for at in range(rng.randrange(1, 4))]
    if rng.random() < 0.3:
        steps.append(Step("flush", host, (False,)))
        steps.append(_step(rng, USER, rng.choice(("write", "append", "touch")), host, number + 4))
    moves = [_step(rng, USER, rng.choice(MOVES), host, number + 520 + at) for at in range(rng.choice((1, 1, 2, 4, 8)))]
    if rng.random() < 0.2:
        moves = [step for move in moves for step in (move, Step("notice", host, (1.0,)))]
    point, before = rng.choice(("request", "request", "listing", "look", "journal")), rng.random() < 0.7
    first = rng.randrange(4) if point == "listing" else min(30, int(rng.expovariate(0.15)))
    if rng.random() < 0.5:
        steps.append(Step("trap", host, (point, first, before), _chain(moves)))
    else:
        steps.append(Step("storm", host, (point, first, before, rng.choice((0, 1, 3))), _chain(moves)))
    if rng.random() < 0.3:
        steps.append(Step("fault", host, (rng.randrange(4), "refused")))
    return [*steps, rng.choice((Step("flush", host, (False,)), Step("close", host, (True,)), Step("drain", host)))]


def _cut_off(rng: random.Random, host: int, number: int) -> list[Step]:
    """The power goes shortly after a flush; the disk comes back without all that was written."""
    steps = [_step(rng, USER, "write", host, number + at) for at in range(rng.randrange(1, 4))]
    steps.append(Step("flush", host, (False,)))
    verbs = [rng.choice(("write", "flip", "append", "unlink", "rename")) for _ in range(rng.randrange(3))]
    steps += [_step(rng, USER, verb, host, number + 4 + at) for at, verb in enumerate(verbs)]
    if rng.random() < 0.4:
        steps.append(rng.choice((Step("flush", host, (False,)), Step("evict", host), Step("pump", host, (2,)))))
    return [*steps, _step(rng, DEATH, "power_cut", host, number), *_found_out(rng, host)]


def _found_out(rng: random.Random, host: int) -> list[Step]:
    """The engine sees what became of the disk, and does what it thinks is right."""
    looks = rng.choice((Step("scan", host), Step("flush", host, (False,)), Step("notice", host, (1.0,))))
    return [looks, Step("time", 0, (rng.choice((2.5, 7.0, 100.0)),)), Step("pump", host, (2,))]


def _covered(rng: random.Random, host: int, number: int) -> list[Step]:
    """A volume comes and goes below the session."""
    folder = rng.choice(FOLDERS)
    steps = [_step(rng, USER, "write", host, number)]
    steps += [Step("mkdir", host, (folder,))] if rng.random() < 0.7 else []
    steps += [Step("flush", host, (False,))] if rng.random() < 0.5 else []
    steps.append(Step("mount", host, (folder,)))
    steps += [replace(_step(rng, USER, "write", host, number + 1), args=(f"{folder}/a", f"{number:03d} there"))]
    steps += _found_out(rng, host) if rng.random() < 0.6 else [Step("flush", host, (False,))]
    steps += [rng.choice((Step("stop", host), Step("crash", host)))] if rng.random() < 0.3 else []
    return [*steps, Step("unmount", host, (folder,)), *_found_out(rng, host)]


def _rolled_back(rng: random.Random, host: int, number: int) -> list[Step]:
    """The root, the state or the store goes back to a backup, and the others do not."""
    what = rng.choice(("root", "root", "state", "store"))
    steps = [_step(rng, USER, "write", host, number), Step("flush", host, (False,))]
    steps.append(Step(f"keep_{what}", host))
    verbs = [rng.choice(("write", "write", "append", "unlink", "rename", "flip")) for _ in range(rng.randrange(1, 4))]
    steps += [_step(rng, USER, verb, host, number + 1 + at) for at, verb in enumerate(verbs)]
    steps.append(rng.choice((Step("flush", host, (False,)), Step("evict", host), Step("pump", host, (2,)))))
    back = Step("reset_store", host, ("older",)) if what == "store" else None
    return [*steps, back or Step(f"roll_back_{what}", host, (rng.random() < 0.5,)), *_found_out(rng, host)]


def _emptied(rng: random.Random, host: int, number: int) -> list[Step]:
    """The store loses everything, and nobody tells the daemon."""
    steps = [_step(rng, USER, "write", host, number + at) for at in range(rng.randrange(1, 3))]
    steps += [Step("flush", host, (False,)), Step("reset_store", host, (rng.choice(("emptied", "another")),))]
    steps += [rng.choice((Step("stop", host), Step("crash", host)))] if rng.random() < 0.3 else []
    steps += [_step(rng, USER, rng.choice(("write", "append", "unlink", "touch")), host, number + 3)] * rng.randrange(2)
    return [*steps, rng.choice((Step("flush", host, (False,)), Step("drain", host), Step("close", host, (True,))))]


def _copied(rng: random.Random, host: int, number: int) -> list[Step]:
    """Somebody copies, moves or restores objects inside the bucket, and the file changes here."""
    path, other = rng.choice(FILES), rng.choice(FILES)
    steps = [Step("write", host, (path, f"{number:03d} first")), Step("flush", host, (False,))]
    if rng.random() < 0.7:
        steps += [Step("write", host, (path, f"{number:03d} second")), Step("flush", host, (False,))]
    elsewhere = [Step("remove_session", 1 - host), Step("restore", 1 - host, (path,))]
    copies = [Step("foreign_copy", host, (path, rng.randrange(2), rng.choice((path, other))))]
    steps += rng.choice((elsewhere, copies, copies))
    steps += [Step("foreign_delete", host, (path,))] if rng.random() < 0.2 else []
    steps.append(Step("write", host, (rng.choice((path, other)), f"{number:03d} third")))
    return [*steps, *rng.choice(([Step("flush", host, (False,))], _found_out(rng, host)))]


def _closed_and_read(rng: random.Random, host: int, number: int) -> list[Step]:
    """A session is closed here, goes on elsewhere, and is read here."""
    path = rng.choice(FILES)
    leave = rng.choice(("close", "evict", "remove_session"))
    return [
        Step("write", host, (path, f"{number:03d} first")),
        Step("flush", host, (False,)),
        Step(leave, host, (False,) if leave == "close" else ()),
        *([Step("read", host, (path,))] if rng.random() < 0.7 else []),
        Step("open", 1 - host),
        Step("write", 1 - host, (path, f"{number:03d} second")),
        Step("flush", 1 - host, (False,)),
        Step("time", 0, (100.0,)),
        Step("read", host, (path,)),
    ]


def _renamed_badly(rng: random.Random, host: int, number: int) -> list[Step]:
    """A stored file gets a name under which it cannot be stored, ever or for now."""
    path = rng.choice([path for path in FILES if path.startswith("d/")])
    steps = [Step("write", host, (path, f"{number:03d}")), Step("flush", host, (False,))]
    if rng.random() < 0.5:
        steps.append(Step("spoil", host, (rng.choice((path, "d")),)))
    else:
        steps.append(rng.choice((Step("rename_folder", host, ("d", "f")), Step("rename", host, (path, "b")))))
        steps += [Step("append", host, (rng.choice(("b", "f/a", "f/b")), "more"))] if rng.random() < 0.5 else []
        steps += [Step("fault", host, (at, "refused")) for at in range(rng.randrange(4))]
    return [*steps, *_found_out(rng, host), Step("pump", host, (1,))]


def _linked(rng: random.Random, host: int, number: int) -> list[Step]:
    """A name of a file goes that has another one."""
    path, other = rng.sample(FILES, 2)
    steps = [Step("write", host, (path, f"{number:03d}")), Step("hardlink", host, (path, other))]
    steps += [_step(rng, USER, "write", host, number + 1), Step("flush", host, (False,))]
    for gone in (path, rng.choice(FILES)):
        steps += [Step("unlink", host, (gone,)), Step("notice", host, (1.0,)), Step("time", 0, (1.5,))]
    return [*steps, Step("pump", host, (1,))]


def _late(rng: random.Random, host: int, number: int) -> list[Step]:
    """A process dies, and what it sent arrives after that."""
    path = rng.choice(FILES)
    steps = [Step("write", host, (path, f"{number:03d}")), Step("straggle", host), Step("flush", host, (False,))]
    steps.append(rng.choice((Step("unlink", host, (path,)), Step("rename", host, (path, rng.choice(FILES))))))
    return [*steps, *_found_out(rng, host)]


def _mapped(rng: random.Random, host: int, number: int) -> list[Step]:
    """A program writes to pages that it has mapped, again and again."""
    path = rng.choice(FILES)
    steps = [Step("write", host, (path, f"{number:03d}")), Step("map", host, (path,)), Step("map_write", host, ("A",))]
    for data in "BCD":
        steps += [rng.choice((Step("flush", host, (False,)), Step("pump", host, (2,)), Step("scan", host)))]
        steps += [Step("time", 0, (rng.choice((0.02, 7.0, 100.0)),))] if rng.random() < 0.5 else []
        steps += [Step("map_write", host, (data,))] if rng.random() < 0.7 else []
    return [*steps, rng.choice((Step("flush", host, (False,)), Step("evict", host), Step("unmap", host)))]


def _rewritten(rng: random.Random, host: int, number: int) -> list[Step]:
    """A file is rewritten in the moment in which it is stored; its size stays."""
    path = rng.choice(FILES)
    steps = [Step("write", host, (path, f"{number:03d}a"))]
    for data in "bcd"[: rng.randrange(1, 4)]:
        steps += [rng.choice((Step("flush", host, (False,)), Step("pump", host, (2,)), Step("scan", host)))]
        steps += [Step("time", 0, (rng.choice((0.02, 1.5)),))] if rng.random() < 0.3 else []
        steps += [Step("write", host, (path, f"{number:03d}{data}"))]
    return [*steps, rng.choice((Step("flush", host, (False,)), Step("evict", host), Step("close", host, (True,))))]


def _held(rng: random.Random, host: int, number: int) -> list[Step]:
    """A program holds a file open, and writes nothing for a while."""
    path = rng.choice(FILES)
    steps = [Step("write", host, (path, f"{number:03d}")), Step(rng.choice(("hold", "map")), host, (path,))]
    steps += [Step("time", 0, (rng.choice((7.0, 100.0)),)), Step("flush", host, (False,))]
    steps.append(rng.choice((Step("evict", host), Step("close", host, (False,)))))
    return [*steps, Step("hold_write", host, ("more",)), Step("map_write", host, ("M",)), *_found_out(rng, host)]


def _moved_and_changed(rng: random.Random, host: int, number: int) -> list[Step]:
    """A directory is renamed, and its files are changed in it."""
    steps = [Step("write", host, (f"d/{name}", f"{number:03d}{name}")) for name in "ab"]
    steps += [Step("flush", host, (False,)), Step("rename_folder", host, ("d", "f"))]
    steps += [Step("append", host, (f"f/{name}", "more")) for name in "ab"]
    return [*steps, *rng.choice(([Step("flush", host, (False,))], _found_out(rng, host)))]


def _moved_while_scanned(rng: random.Random, host: int, number: int) -> list[Step]:
    """A file leaves a directory that was not listed yet for one that was, be it stored or new."""
    old = rng.choice([path for path in FILES if "/" in path])
    steps = [Step("write", host, (old, f"{number:03d}"))]
    if rng.random() < 0.4:
        steps += [Step("flush", host, (False,)), Step("append", host, (old, "more"))]
    move = Step("rename", host, (old, rng.choice([path for path in FILES if "/" not in path])))
    steps.append(Step("trap", host, ("listing", rng.choice((1, 1, 2)), True), move))
    flush = Step("flush", host, (False,))
    return [*steps, rng.choice((flush, flush, flush, Step("close", host, (True,)), Step("drain", host)))]


def _removed_slowly(rng: random.Random, host: int, number: int) -> list[Step]:
    """``rm -rf`` of a stored session."""
    steps = [_step(rng, USER, rng.choice(("write", "write", "hardlink")), host, number + at) for at in range(3)]
    return [*steps, Step("flush", host, (False,)), Step("slow_remove", host, (rng.choice((3, 20)),))]


SCENES: dict[str, Callable[[random.Random, int, int], list[Step]]] = {
    "moved while flushed": _moved_while_flushed,
    "cut off": _cut_off,
    "covered": _covered,
    "rolled back": _rolled_back,
    "emptied": _emptied,
    "copied": _copied,
    "closed and read": _closed_and_read,
    "renamed badly": _renamed_badly,
    "linked": _linked,
    "late": _late,
    "mapped": _mapped,
    "rewritten": _rewritten,
    "removed slowly": _removed_slowly,
    "held": _held,
    "moved and changed": _moved_and_changed,
    "moved while scanned": _moved_while_scanned,
}
"""What seldom comes about by itself: things that happen in one order."""


def _chain(steps: Sequence[Step]) -> Step | None:
    """Steps that follow each other in the middle of something."""
    first: Step | None = None
    for step in reversed(steps):
        first = replace(step, inner=first)
    return first


def _meanwhile(rng: random.Random, host: int, number: int, recent: str) -> Step | None:
    """Several things in a row while a request is under way: of programs, mostly with one file, and of other threads of
    the process, which mostly notice that at once."""
    steps: list[Step] = []
    path = recent if rng.random() < 0.7 else rng.choice(FILES)
    for at in range(rng.choice((1, 2, 3, 4))):
        if rng.random() < 0.7:
            verb = rng.choice(ON_ONE)
            step = _step(rng, USER, verb, host, number + 500 + 20 * at)
            steps.append(replace(step, args=(path, *step.args[1:])))
            if rng.random() < 0.7:
                steps.append(Step("notice", host, (1.0,)))
        else:
            steps.append(_step(rng, ENGINE | LIFE, rng.choice(BESIDE), host, number))
    if rng.random() < 0.3:
        steps.append(Step("flush", host, (False,)))
    return _chain(steps)
