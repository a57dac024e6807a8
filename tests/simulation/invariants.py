"""The promises as invariants: what must hold at every instant, after every step, and when all is quiet.

Bytes are told apart by what they are: nearly every write of a schedule has bytes of its own. A byte string is *given
up* when somebody who saw it replaced or deleted it: a program in the directory where it stood, or who named it (put,
rm, a foreign tool's PUT or DELETE of its key). Everything else must be somewhere, always.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from cachesync.model.ignore import FILE_NAME, IgnoreRules
from cachesync.model.reports import FlushReport
from cachesync.model.values import Kind, Version
from tests.flat_store import Held
from tests.simulation.barrier import Barrier
from tests.simulation.host import MANIFEST, PREFIX, SESSION, Seen, SimulatedHost, Snapshot
from tests.simulation.store import SimulatedStore

EPSILON = 0.01
SETTLE = 2.0


class Broken(BaseException):
    """A promise does not hold. No Exception, or the engine would take it for an error of a transfer."""


def check(holds: object, promise: str, sentence: str) -> None:
    """Raise Broken unless it ``holds``."""
    if not holds:
        raise Broken(f"{promise}: {sentence}")


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Ledger:
    """What happened to byte strings and names, as far as a promise asks."""

    def __init__(self, store: SimulatedStore, hosts: list[SimulatedHost]) -> None:
        self.store = store
        self.hosts = hosts
        self.alive: set[bytes] = set()
        self.given_up: set[bytes] = set()
        self.deleted: dict[str, set[str]] = {}
        """By host: paths that a program removed by name, in the directory that stands there still."""
        self.must_go: dict[str, set[str]] = {}
        """... of which the journal knew that they are stored and here."""
        self.moved: dict[str, dict[str, tuple[int, int]]] = {}
        """By host: paths that a program renamed, which file that was, and at which event."""
        self.unlinked: dict[str, set[str]] = {}
        """By host: paths that a program removed, and paths of files that it replaced."""
        self.once: dict[str, set[str]] = {}
        """By host: paths that a program once removed by name."""
        self.removing: set[str] = set()
        """Hosts on which a program removes the whole session, file after file."""
        self.went_at: dict[str, float] = {}
        """When a program last took something away that the store has."""
        self.deleted_at: dict[str, float] = {}
        """... of which the engine was told, or saw it: of what happened a moment ago it cannot know."""
        self.set_aside: dict[str, tuple[set[str], set[str]]] = {}
        self.clock_stepped: set[str] = set()
        self.written: defaultdict[bytes, set[str]] = defaultdict(set)
        """The paths at which these bytes stood, on any host."""
        self.forgetful: set[str] = set()
        """Hosts whose journal or disk has lost something, or whose disk does not tell directories apart."""
        self.doubted: set[str] = set()
        """... and whose engine has not looked at everything since: what is missing may have been lost."""
        self.newest = 0
        """The highest serial that a manifest had when the store was reset."""
        self.was_reset = False
        self.rolled_back: set[str] = set()
        """Hosts whose root was."""
        self.believing: set[str] = set()
        self.changed_at: dict[tuple[str, str], int] = {}
        """By host and path: the event at which a program last changed the file that stands there."""
        self.reverted: dict[tuple[str, str], bytes] = {}
        """By host and path: the bytes that a file has lost with the power."""
        self.vanished: dict[tuple[str, str], bytes] = {}
        """... and those of a file that is not there any more, as long as the engine has not looked: nobody can tell
        whether what a program makes there is the same file, changed."""
        self.contents: defaultdict[tuple[str, int], set[bytes]] = defaultdict(set)
        """By host and file: what it ever held."""
        self.stood: dict[tuple[str, str], Seen] = {}
        """By host and path: the file that stood there last."""
        self.forgotten: set[tuple[str, str, Version]] = set()
        """By host and key: versions that a host stored, and its journal, restored from that backup, does not know. Such
        an object may be kept when its file is removed."""
        self.asked: dict[str, str] = {}
        """Paths that are put or removed by name right now, and on which host."""

        for host in hosts:
            self.add(host)

    def add(self, host: SimulatedHost) -> None:
        """Another host comes."""
        for paths in (self.deleted, self.must_go, self.unlinked, self.once):
            paths[host.name] = set()
        self.moved[host.name] = {}
        if not host.disk.nature.births:
            self.forgetful.add(host.name)

    # -- what is told to it --------------------------------------------------------------------------------------------

    def appeared(self, contents: Iterable[bytes]) -> None:
        """Somebody wrote these; what is empty cannot be lost."""
        self.alive |= {data for data in contents if data}

    def give_up(self, contents: Iterable[bytes]) -> None:
        """Somebody who saw these replaced or removed them."""
        self.given_up |= set(contents)

    @contextlib.contextmanager
    def asking(self, host: SimulatedHost, path: str) -> Iterator[None]:
        """While it lasts a path is put or removed by its name there."""
        self.asked[path] = host.name
        try:
            yield
        finally:
            self.asked.pop(path, None)

    def seen(self, host: str, key: str, held: Held) -> None:
        """A host asked for an object. Who puts or removes it by name has then seen it, whoever wrote it and however
        short before: it may be replaced even if the process dies in between and the next one goes on."""
        if self.asked.get(key.removeprefix(PREFIX)) == host:
            self.give_up([held.data])

    def looked(self, host: SimulatedHost) -> None:
        """The engine there has been told of everything that a program did, or has seen it."""
        self.doubted.discard(host.name)
        for name, path in list(self.vanished):
            if name == host.name and not host.disk.nature.tick:  # else a scan does not always decide what is missing
                del self.vanished[name, path]
        if host.name in self.went_at:
            self.deleted_at[host.name] = self.went_at[host.name]

    def absence(self, host: SimulatedHost) -> None:
        """From now on what is missing there was not deleted by name (P7)."""
        self.deleted[host.name].clear()
        self.must_go[host.name].clear()
        self.moved[host.name].clear()
        self.unlinked[host.name].clear()
        if host.disk.nature.births:  # else the next directory of that name is the same one to the engine
            self.once[host.name].clear()

    def revived(self, data: bytes) -> None:
        """Somebody made these bytes the newest of a key again."""
        self.given_up.discard(data)
        self.appeared([data])

    def store_was_reset(self, gone: Iterable[bytes], before: bytes | None) -> None:
        """The store lost these; what a disk has is not lost. ``before`` is the manifest that it had."""
        self.was_reset = True
        self.newest = max(self.newest, _serial(before))
        kept = {data for host in self.hosts for data in host.everything()}
        self.give_up(set(gone) - kept)

    def was_read(self, key: str, data: bytes, lately: Collection[bytes | None]) -> None:
        """P11: a read of what is not here returned what the store had in the last seconds."""
        check(data in lately, "P11", f"{key} was read as {data!r}; lately the store had {sorted(map(str, lately))}")

    # -- always --------------------------------------------------------------------------------------------------------

    def object_changes(self, host: SimulatedHost, now: float, key: str, old: Held | None, new: Held | None) -> None:
        """Called before the engine of ``host`` changes an object. P7, P8, P9."""
        path = key.removeprefix(PREFIX)
        if key == MANIFEST:
            return
        asked = self.asked.get(path) == host.name
        if new is None and not asked:
            check(host.session.is_dir(), "P7", f"{path} is deleted by the absence of its session")
            replaced = (host.session / path).is_symlink()
            named = path in self.deleted[host.name] or self._went_before(host, path, old)
            named = named or self._has_another_name(host, path, old)
            check(replaced or named, "P7", f"{path} is deleted in the store, but nobody deleted it on {host.name}")
            at = self.deleted_at.get(host.name, 0.0)
            early = now - at < SETTLE - EPSILON and host.name not in self.believing | self.clock_stepped
            renamed = path in self.moved[host.name]
            check(not early or renamed or replaced, "P8", f"{path} is deleted {now - at:.3f} s after it went")
            if old is not None and renamed and not replaced and key not in self.store.landed:
                self._new_name_is_stored(host, path, old)
            removing = host.name in self.removing - self.believing and key not in self.store.landed and not renamed
            check(not removing or replaced, "P8", f"{path} is deleted while a program removes the whole session")
        if old is None or (new is not None and new.data == old.data):
            return
        if asked:
            self.give_up([old.data])
        kept = ".conflict-" not in path or new is None or self._elsewhere(key, old.data)
        check(kept, "P9", f"{path} is changed")
        lost = old.data in self.alive and old.data not in self.given_up and not self._elsewhere(key, old.data)
        on_disk = lost and any(old.data in other.everything() for other in self.hosts)
        check(not lost or on_disk, "P9", f"{old.data!r} at {path} was seen by nobody, and is replaced by {host.name}")

    def _went_before(self, host: SimulatedHost, path: str, old: Held | None) -> bool:
        """Whether a program removed the file that the object is of, before another one of its name was lost."""
        return (
            host.name in self.forgetful
            and path in self.once[host.name]
            and old is not None
            and old.data in self.given_up
        )

    def _has_another_name(self, host: SimulatedHost, path: str, old: Held | None) -> bool:
        """Whether a root that was rolled back, or that lost its power, has the file under the name that it had before,
        and the store, too."""
        if old is None or host.name not in self.rolled_back | self.forgetful:
            return False
        names = [name for name, data in host.files().items() if data == old.data and name != path]
        held = (self.store.objects.get(PREFIX + name) for name in names)
        return any(other is not None and other.data == old.data for other in held)

    def _new_name_is_stored(self, host: SimulatedHost, path: str, old: Held) -> None:
        """P8: the object of an old name goes after the store has one for the new name."""
        here = host.snapshot()
        if here.get(FILE_NAME, None) or host.disk.mounted or self._elsewhere(PREFIX + path, old.data):
            return
        file, moved_at = self.moved[host.name][path]
        if old.data not in self.contents[host.name, file]:
            return  # it is of another file of that name, which is no more
        names = [name for name, seen in here.items() if seen.file == file]
        stored = any(self.store.changed_at.get(PREFIX + name, 0) > moved_at for name in names)
        check(stored or not names, "P8", f"{path} is {names} now: the old object is deleted, and there is no new one")

    def _elsewhere(self, key: str, data: bytes) -> bool:
        return any(held.data == data for other, held in self.store.objects.items() if other != key)

    def nothing_is_lost(self) -> None:
        """P6, P9, P10: every byte string that nobody gave up is on a disk or in the store."""
        wanted = self.alive - self.given_up - {held.data for held in self.store.objects.values()}
        for host in self.hosts:
            if wanted:
                wanted -= host.everything()
        check(not wanted, "P10", f"nobody has {sorted(wanted)!r} any more")

    def nothing_is_falsely_clean(self, host: SimulatedHost) -> None:
        """P6: what the journal calls clean and here, the store has, or somebody else changed it since."""
        if host.driven is None or SESSION not in host.driven.engine.journal.sessions.names():
            return
        for entry in host.driven.engine.journal.entries.walk(SESSION):
            if entry.dirty or not entry.resident or entry.kind is not Kind.FILE:
                continue
            path, key = entry.path, PREFIX + entry.path
            check(entry.stored is not None, "P6", f"{path} is clean on {host.name}, and was never stored")
            assert entry.stored is not None
            if entry.unsettled or host.driven.engine.tree.lstat(SESSION, path) != entry.stat:
                continue  # the next look sees that it is another file, or none
            data = (host.session / path).read_bytes()
            check(sha(data) == entry.stored.sha256, "P4", f"{path} is clean on {host.name}, and is {data!r}")
            if self.store.last_writer(key) == host.name and key not in self.store.landed:
                held = self.store.objects.get(key)
                same = held is not None and held.info.sha256 == entry.stored.sha256
                check(same, "P6", f"{path} is clean on {host.name}, and the store has {held and held.data!r}")

    # -- what an answer says -------------------------------------------------------------------------------------------

    def changed(self, host: SimulatedHost, before: Snapshot, after: Snapshot) -> None:
        """A program changed these files: their bytes, their times or their names."""
        for path, seen in before.items():
            self.stood[host.name, path] = seen
        for seen in (*before.values(), *after.values()):
            self.contents[host.name, seen.file].add(seen.data)
        for path, seen in after.items():
            self.written[seen.data].add(path)
            if _is_new(seen, before.get(path)) and _is_new(seen, self.stood.get((host.name, path))):
                # else it only was away, or was touched
                self.changed_at[host.name, path] = self.store.tick()
        for name, path in list(self.reverted):
            if name == host.name and before.get(path) != after.get(path):
                self.give_up([self.reverted.pop((name, path))])
        for name, path in list(self.vanished):
            if name == host.name and path in after:
                self.give_up([self.vanished.pop((name, path))])
        self._names_changed(host, before, after)

    def _names_changed(self, host: SimulatedHost, before: Snapshot, after: Snapshot) -> None:
        moved, unlinked = self.moved[host.name], self.unlinked[host.name]
        files = {seen.file for seen in after.values()}
        arrived = {seen.file for path, seen in after.items() if path not in before or before[path].file != seen.file}
        self.once[host.name] |= before.keys() - after.keys()
        for path in before.keys() - after.keys():
            moved.pop(path, None)
            if before[path].file in arrived:
                moved[path] = before[path].file, self.store.tick()
            else:
                unlinked.add(path)
        unlinked |= {path for path, seen in before.items() if seen.file not in files}
        linked = {path for path in moved if (host.session / path).is_symlink()}  # what goes there now is the link
        for path in linked | (after.keys() - before.keys()):
            moved.pop(path, None)

    def cut_off(self, host: SimulatedHost, gone: set[bytes], lost: Mapping[str, bytes]) -> None:
        """The power went. Bytes in ``gone`` left the disk: those that were nowhere else may be lost. A program that
        changes a file that ``lost`` its bytes gives up those."""
        stored = {held.data for held in self.store.objects.values()}
        self.give_up(gone - stored)
        self.forgetful.add(host.name)
        self.doubted.add(host.name)
        self.must_go[host.name].clear()
        here = host.snapshot()
        for path, seen in here.items():
            if seen.data != getattr(self.stood.get((host.name, path)), "data", seen.data):
                self.changed_at.pop((host.name, path), None)  # it is as it was before its last change
        for path, data in lost.items():
            (self.reverted if path in here else self.vanished)[host.name, path] = data
            self.changed_at.pop((host.name, path), None)  # it may be as it was before that
        for old, (file, _) in self.moved[host.name].items():  # what had another name before lost its bytes there, too
            for path in lost.keys() & here.keys():
                if here[path].file == file:
                    self.vanished[host.name, old] = lost[path]

    def forget(self, host: SimulatedHost, known: Mapping[str, Version]) -> None:
        """The host's state is as it was when the objects had the ``known`` versions."""
        for key, held in self.store.objects.items():
            if held.writer == host.name and held.info.version != known.get(key):
                self.forgotten.add((host.name, key, held.info.version))

    def covered(self, host: SimulatedHost, folder: str) -> None:
        """A volume came or went: what a program removed below it is not known to have been removed."""
        self.must_go[host.name] = {path for path in self.must_go[host.name] if not path.startswith(f"{folder}/")}
        self.forgetful.add(host.name)

    def said_stored(self, barrier: Barrier, report: FlushReport) -> None:
        """P1, P3: all that stood there when it began is stored under the name that it has now, and listed; unless a
        program deleted or rewrote it since (see barrier.py)."""
        host = barrier.host
        here = host.files()
        ignored = {skipped.path for skipped in report.skipped} | _ignored_meanwhile(barrier.instants)
        check(report.manifest == MANIFEST, "P3", "stored, and no manifest is named")
        listed = self.listed()

        def holds(path: str, data: bytes, named: bool) -> str | None:  # noqa: FBT001
            if _is_left_out(path, ignored):
                return None
            key = PREFIX + path
            held, another = self.store.objects.get(key), self.is_anothers(host, path, barrier.began)
            if held is None or held.data != data:
                if not another and not self._is_overtaken():
                    return f"flush on {host.name} lied: {path} is {data!r}, the store has {held!r}"
                return None if data in self.store.versions(key) else f"{path}: {data!r} was never stored there"
            if named and not another and (path, "file") not in listed:
                return f"{path} is stored, and the manifest does not list it"
            return None

        fault = barrier.fault(holds)
        check(fault is None, "P3", fault or "")
        for path, seen in barrier.unchanged().items():
            if _is_left_out(path, ignored):
                continue
            row, held = listed.get((path, "file")), self.store.objects.get(PREFIX + path)
            same = held is not None and held.data == seen.data and not self.is_anothers(host, path, barrier.began)
            if row is not None and same and not self.store.was_stale:
                check(row["sha256"] == sha(seen.data), "P3", f"the manifest lists other bytes of {path}")
        self._all_went(
            host, {path for path in self.must_go[host.name] - here.keys() if not _is_left_out(path, ignored)}
        )

    def _is_overtaken(self) -> bool:
        """Whether other hosts wrote more manifests, since the store went back in time, than it had lost: a host that
        comes later takes the newest for a successor of the one that it knows (promises.md says so)."""
        held = self.store.objects.get(MANIFEST)
        return 0 < self.newest < _serial(None if held is None else held.data)

    def _all_went(self, host: SimulatedHost, paths: set[str]) -> None:
        """P8: what a program removed before a flush is not in the store after it."""
        for path in paths:
            key = PREFIX + path
            stands = self.store.last_writer(key) == host.name and key in self.store.objects
            stands = stands and key not in self.store.landed  # what arrives late, no flush can know of
            held = self.store.objects.get(key)
            stands = stands and (held is None or (host.name, key, held.info.version) not in self.forgotten)
            check(not stands, "P8", f"{path} was deleted on {host.name} and flushed, and its object is there")
        self.must_go[host.name].clear()
        self.unlinked[host.name].clear()

    def is_anothers(self, host: SimulatedHost, path: str, since: int) -> bool:
        """Whether another writer changed the object after the last change of the file there. What went with the whole
        store before an event, ``since``, nobody has changed (P17)."""
        key = PREFIX + path
        if self.store.gone_at.get(key, since) < since:
            return False
        later = self.store.changed_at.get(key, 0) > self.changed_at.get((host.name, path), 0)
        return later and self.store.last_writer(key) != host.name

    def listed(self) -> dict[tuple[str, str], Any]:
        """The rows of the manifest in the store."""
        rows = json.loads(self.store.objects[MANIFEST].data)["entries"]
        found = {(row["path"], row["type"]): row for row in rows}
        check(len(found) == len(rows), "P3", "a path stands twice in the manifest")
        return found

    def held(self, host: SimulatedHost, report: FlushReport) -> None:
        """P8: deletions are held if programs have removed more files than ``delete_guard``. A moved file was not
        removed, changed or not."""
        held = [failure.path for failure in report.failed if "--confirm-deletes" in failure.error]
        known = host.name not in self.forgetful and not host.files().get(FILE_NAME) and host.session.is_dir()
        few = known and len(self.unlinked[host.name]) <= host.guard
        check(not (held and few), "P8", f"{held} are held on {host.name}, and only {self.unlinked[host.name]} went")

    # -- when all is quiet ---------------------------------------------------------------------------------------------

    def agreed(self, host: SimulatedHost) -> None:
        """P2, P3: all is stored; what stands on the host is in the store, unless somebody else changed it there."""
        check(not self.dirty(host), "P2", f"still dirty on {host.name}: {self.dirty(host)}")
        assert host.driven is not None
        for path, data in host.files().items():
            entry = host.entry(path)
            if entry is None or not entry.resident:
                continue  # ignored
            held, key = self.store.objects.get(PREFIX + path), PREFIX + path
            if held is None or held.data != data:
                another = self.store.last_writer(key) != host.name and key not in self.store.gone_at
                another = another or self._is_overtaken()
                check(another, "P2", f"{path} on {host.name} is {data!r}, the store has {held and held.data!r}")
                check(data in self.store.versions(key), "P2", f"{path}: {data!r} of {host.name} was never stored")

    def deletions_followed(self, host: SimulatedHost) -> None:
        """P8: what was removed by its name is not in the store, also if nobody had seen it stored; unless the journal
        was lost, the power was, or it is ignored: then nobody knows whose it is. Bytes that nobody gave up stay: who
        made a file of an evicted one's name, and removed it again, saw nothing of them."""
        rules = self.store.objects.get(PREFIX + FILE_NAME)
        if host.name in self.forgetful or host.files().get(FILE_NAME) or (rules is not None and rules.data):
            return
        for path in self.deleted[host.name] - host.files().keys():
            held = self.store.objects.get(PREFIX + path)
            stands = held is not None and held.writer == host.name and held.data in self.given_up
            if held is not None and len(self.written[held.data]) > 1:
                stands = False  # perhaps it was given up at another path
            late = host.name in self.clock_stepped and PREFIX + path in self.store.landed
            check(late or not stands, "P8", f"{path} was removed on {host.name}, and is in the store when all is quiet")

    def dirty(self, host: SimulatedHost) -> list[str]:
        if host.driven is None or SESSION not in host.driven.engine.journal.sessions.names():
            return []
        return [entry.path for entry in host.driven.engine.journal.entries.walk(SESSION) if _has_work(entry)]

    def manifest_is_current(self) -> None:
        """P3: the manifest lists the objects that there are, version for version."""
        versions = {path: row["version"] for (path, kind), row in self.listed().items() if kind == "file"}
        links = {path for path, kind in self.listed() if kind == "link"}
        objects = {
            key.removeprefix(PREFIX): held.info.version.etag
            for key, held in self.store.objects.items()
            if key.startswith(PREFIX) and key != MANIFEST and key.removeprefix(PREFIX) not in links
        }
        for key in self.store.landed:  # whatever arrives after a process has died, no manifest can tell
            versions.pop(key.removeprefix(PREFIX), None)
            objects.pop(key.removeprefix(PREFIX), None)
        check(versions == objects, "P3", f"the manifest lists {versions}, the store has {objects}")

    def came_back(self, third: SimulatedHost) -> None:
        """P15: another host gets what the store has."""
        objects = {
            key.removeprefix(PREFIX): held.data
            for key, held in self.store.objects.items()
            if key.startswith(PREFIX) and key != MANIFEST
        }
        folders = {path[:at] for path in objects for at, letter in enumerate(path) if letter == "/"}
        links = {path for path, kind in self.listed() if kind == "link"} if MANIFEST in self.store.objects else set()
        here = third.files()
        for path, data in objects.items():
            if path in folders or path in links or any(path.startswith(f"{link}/") for link in links):
                continue
            check(here.get(path) == data, "P15", f"{path} came back as {here.get(path)!r}, the store has {data!r}")


def _is_new(seen: Seen, before: Seen | None) -> bool:
    """Whether a file is another one than before, or has other bytes."""
    return before is None or (before.file, before.data) != (seen.file, seen.data)


def _has_work(entry: Any) -> bool:
    return bool(entry.dirty and (entry.kind is Kind.FILE or entry.stored is not None))


def _ignored_meanwhile(instants: Sequence[Snapshot]) -> set[str]:
    """What was not to be stored at any time of a flush, by the rules that a program gave."""
    texts = {instant[FILE_NAME].data for instant in instants if FILE_NAME in instant}
    paths = {path for instant in instants for path in instant} if any(texts) else set[str]()
    found = set[str]()
    for text in texts if paths else ():
        rules = IgnoreRules(SESSION, session_text=text.decode())
        found |= {path for path in paths if rules.reason(path, is_dir=False)}
    return found


def _is_left_out(path: str, ignored: set[str]) -> bool:
    return any(path == one or path.startswith(one.rstrip("/") + "/") for one in ignored)


def _serial(manifest: bytes | None) -> int:
    return 0 if manifest is None else int(json.loads(manifest).get("serial") or 0)
