"""The table of watched directories, beside the plain one that it stands for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from watchdog.observers.inotify_c import WatchDescriptor as Wd

from cachesync.watch.table import Table

PREFIXES = st.lists(st.sampled_from("ab"), max_size=4).map(lambda names: "".join(f"{name}/" for name in names))
STEPS = st.lists(st.tuples(st.sampled_from(["put", "drop", "take"]), st.integers(0, 5), PREFIXES), max_size=40)


@given(steps=STEPS)
def test_it_is_a_plain_map_from_watch_to_prefix(steps: list[tuple[str, int, str]]):
    table, plain = Table(), dict[Wd, str]()
    for step, number, prefix in steps:
        wd = Wd(number)
        if step == "put":
            table.put(wd, prefix)
            plain[wd] = prefix
        elif step == "drop":
            table.drop(wd)
            plain.pop(wd, None)
        else:
            below = {each for each, at in plain.items() if at.startswith(prefix)}
            assert set(table.take(prefix)) == below
            plain = {each: at for each, at in plain.items() if each not in below}
        assert all(table.prefix(Wd(each)) == plain.get(Wd(each)) for each in range(6))
        assert len(table) == len(plain)
    table.take("")
    assert not table._below
    assert not table._watches
