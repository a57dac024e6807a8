"""A record is compared, hashed and shown as the frozen dataclass is that mypy takes it for."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from cachesync.model.record import record


def value(made: Any) -> Any:
    """A class of values, as a dataclass or as a record."""

    @made(frozen=True, slots=True)
    class Value:
        """With everything that a field can be."""

        name: str
        size: int = 0
        secret: str = field(default="", repr=False)
        seen: float = field(default=0.0, compare=False)

    return Value


Frozen, Record = value(dataclass), value(record)


@record(frozen=True, slots=True)
class One:
    """A single field."""

    name: str


@record(frozen=True, slots=True)
class More(One):
    """A record of a record."""

    kept: bool = False


SAME = [("a", 1, "s", 2.0), ("a",), ("", 0, "", 1.0)]


@pytest.mark.parametrize("values", SAME)
def test_it_is_shown_and_hashed_as_a_frozen_dataclass(values: tuple[str, int, str, float]):
    assert repr(Record(*values)) == repr(Frozen(*values))
    assert hash(Record(*values)) == hash(Frozen(*values))


def test_no_secret_is_shown():
    assert "hush" not in repr(Record("a", secret="hush"))


def test_it_equals_what_has_the_same_values_and_is_of_its_class():
    assert Record("a", seen=1.0) == Record("a", seen=2.0)
    assert Record("a") != Record("a", 1)
    others = [Frozen("a"), One("a"), ("a", 0, "")]
    assert all(Record("a") != other for other in others)
    assert {Record("a"): 1}[Record("a", seen=3.0)] == 1


def test_one_field_and_an_inherited_one_count():
    assert (One("a") == One("a"), One("a") == One("b"), repr(One("a"))) == (True, False, "One(name='a')")
    assert More("a", kept=True) != More("a")
    assert One("a") != More("a")
    assert repr(More("a", kept=True)) == "More(name='a', kept=True)"


def test_it_can_be_replaced_and_has_no_room_for_more():
    assert replace(Record("a"), size=2) == Record("a", 2)
    with pytest.raises(AttributeError):
        Record("a").more = 1
