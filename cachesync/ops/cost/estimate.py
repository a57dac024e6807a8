"""From objects, bytes and requests to dollars a month. Pure, but for the file of prices."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

from cachesync.model.record import record
from cachesync.model.reports import Json
from cachesync.model.values import PastObject
from cachesync.ops.migrate.tally import put_requests

MONTH = 30 * 86400
"""Seconds."""


@record(frozen=True, slots=True)
class Class:
    """The prices of one storage class. An object below ``least_bytes`` is paid as one of that size."""

    name: str
    gb_month: float
    put_1000: float
    get_1000: float
    least_bytes: int


@record(frozen=True, slots=True)
class Prices:
    """The packaged file: the first class is the one that cachesync stores in."""

    written: str
    region: str
    source: str
    classes: tuple[Class, ...]


@record(frozen=True, slots=True)
class Use:
    """What is kept, and the requests of a month. ``stored`` counts past versions too, and ``bytes`` are those of all.
    ``gets`` None was not counted."""

    objects: int
    stored: int
    bytes: int
    puts: int
    gets: int | None


@record(frozen=True, slots=True)
class Cost:
    """Dollars a month."""

    name: str
    storage: float
    puts: float
    gets: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.storage + self.puts + self.gets

    def json(self) -> Json:
        """One item of "costs" in ``cost --json``."""
        return {"class": self.name, "storage": self.storage, "puts": self.puts, "gets": self.gets, "total": self.total}


@cache
def prices() -> Prices:
    """The prices, read once."""
    table = tomllib.loads(files(__package__).joinpath("prices.toml").read_text("utf-8"))
    classes = tuple(Class(**row) for row in table.pop("class"))
    return Prices(**table, classes=classes)


def given(*, sessions: int, artifacts: int, size: int, writes: int, reads: int) -> Use:
    """The use of a month in which so many sessions are made. ``artifacts`` are those of one session, of ``size`` bytes
    each; each is stored ``writes`` times and read ``reads`` times."""
    objects = sessions * artifacts
    return Use(objects, objects, objects * size, objects * writes * put_requests(size), objects * reads)


def counted(found: Iterable[PastObject], now: float) -> Use:
    """The use that a bucket's versions show: each that was made in the last 30 days took its requests. Of an object
    that is overwritten where no versions are kept, only the last write is seen."""
    objects = stored = total = puts = 0
    for version in found:
        if version.deleted:
            continue
        stored += 1
        objects += version.latest
        total += version.size
        if version.modified > now - MONTH:
            puts += put_requests(version.size)
    return Use(objects, stored, total, puts, None)


def cost(use: Use, of: Class) -> Cost:
    """What that costs in one class; objects are taken to be of one size."""
    paid = max(use.bytes, use.stored * of.least_bytes)
    return Cost(of.name, paid * of.gb_month / 1e9, use.puts * of.put_1000 / 1000, (use.gets or 0) * of.get_1000 / 1000)
