"""The classes of attack. Each runs as an agent's user, in a session of its own, until it has done its number or its
time is over. The amounts are small enough that three attackers do not fill a developer's disk."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import socket
import stat
import struct
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tests.tenants.agent import Agent

_TIB = 1024**4
_ACCESS, _DEFAULT = "system.posix_acl_access", "system.posix_acl_default"


def flood(agent: Agent) -> None:
    """Thousands of small files, written one by one or moved in at once."""
    made = agent.top / "flood"
    made.mkdir(exist_ok=True)
    for number in range(agent.chance.choice((500, 2000, 5000))):
        if not agent.going():
            break
        place = made / f"{number}"
        agent.attempt(place.write_bytes, b"tiny")
    agent.attempt(made.rename, agent.top / f"moved{agent.chance.random()}")
    agent.flush(0.1)


def sparse(agent: Agent) -> None:
    """Files of 1 TiB without a byte in them, and their flush."""
    for number in range(8):
        place = agent.top / f"sparse{number}"
        agent.attempt(_truncated, place, agent.chance.choice((_TIB, 4 * _TIB, 2**42 - 1)))
    agent.flush(0.2)
    while agent.going():
        agent.attempt(_truncated, agent.top / "sparse0", agent.chance.randrange(_TIB))
        agent.rest(0.01)


def renames(agent: Agent) -> None:
    """A storm of renames: files, directories, one into another."""
    places = [agent.top / f"r{number}" for number in range(20)]
    for place in places:
        agent.attempt(_made, place / "f", b"renamed")
    while agent.going():
        one, other = agent.chance.sample(places, 2)
        kind = agent.chance.randrange(4)
        target = (other, other / "f", other / one.name, agent.top / f"r{agent.chance.randrange(40)}")[kind]
        source = one / "f" if kind == 1 else one
        agent.attempt(source.rename, target)
        if agent.chance.random() < 0.05:
            agent.attempt(_made, one / "f", b"again")


def rules(agent: Agent) -> None:
    """Ignore rules that cost, and names that make them cost."""
    star = "/".join(["*a*a*a*a*a*a*b"] * agent.chance.randint(1, 4))
    lines = (star, "**/" * 40 + "b", "[a-z]*" * 50, "(a+)+$", "!" * 500, "[" * 2000, "\\" * 999, "*" * 5000, "a?" * 200)
    rule = agent.top / ".cachesyncignore"
    while agent.going():
        chosen = "\n".join(agent.chance.choices(lines, k=agent.chance.choice((1, 10, 300))))
        agent.attempt(rule.write_text, chosen)
        deep = agent.top.joinpath(*["a" * agent.chance.randint(1, 200)] * agent.chance.randint(1, 8))
        agent.attempt(deep.mkdir, parents=True, exist_ok=True)
        agent.attempt((deep / ("a" * 200)).write_bytes, b"x")
        agent.flush(0.2)
    agent.attempt(rule.unlink)


def names(agent: Agent) -> None:
    """Deep trees, odd names, and what is no file: pipes, sockets, devices."""
    while agent.going():
        raw = bytes(agent.chance.choice(b"\x01\n\r\t\x7f\x80\xc0\xff%?#*'\" .\\ab") for _ in range(30))
        odd = os.fsdecode(raw).strip("/") or "x"
        pick = agent.chance.randrange(6)
        if pick == 0:
            agent.attempt(_deep, agent.top, agent.chance.randint(50, 300))
        elif pick == 1:
            agent.attempt(os.mkfifo, agent.top / odd)
        elif pick == 2:
            with socket.socket(socket.AF_UNIX) as made:
                agent.attempt(made.bind, os.fspath(agent.top / f"s{agent.chance.random()}"))
        elif pick == 3:
            agent.forbidden("a device", os.mknod, agent.top / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        elif pick == 4:
            reserved = agent.chance.choice((".cachesync", ".cachesync/manifest.json", "-rf", "...", "~", "a" * 255))
            place = agent.top / reserved
            agent.attempt(_made, place, b'{"entries": 1}')
        else:
            agent.attempt((agent.top / odd).write_bytes, b"odd")
    agent.flush(0.2)


def links(agent: Agent) -> None:
    """Links that lead out of the session, in turn with files, directories and pipes under the same name."""
    targets = _targets(agent)
    for number, target in enumerate(targets):
        agent.attempt((agent.top / f"l{number}").symlink_to, target)
        agent.forbidden(f"a hard link to {target}", os.link, target, agent.top / f"h{number}")
    fresh = agent.top / "fresh"
    while agent.going():
        target = agent.chance.choice(targets)
        name = agent.top / agent.chance.choice(("secret.txt", "x", "y"))
        kind = agent.chance.randrange(3)
        agent.attempt(fresh.symlink_to, target)
        agent.attempt(fresh.rename, name)
        if kind == 0:
            agent.attempt(fresh.write_bytes, b"own")
        elif kind == 1:
            agent.attempt(os.mkfifo, fresh)
        agent.attempt(fresh.rename, name)
        below, out = agent.top / "d", Path(target).parent
        agent.attempt(_made, below / "secret.txt", b"own")
        agent.attempt(below.rename, agent.top / "kept")
        agent.attempt(below.symlink_to, out)
        agent.forbidden("a read through a link", (below / "secret.txt").read_bytes)
        agent.attempt(below.unlink)
        agent.attempt((agent.top / "kept").rename, below)
        if agent.chance.random() < 0.05:
            agent.flush(0.1)


def others(agent: Agent) -> None:
    """Reads and changes of others' sessions, of the state, of the daemon's process, of the root itself."""
    own = agent.top / "own"
    agent.attempt(own.write_bytes, b"own")
    while agent.going():
        target = Path(agent.chance.choice(_targets(agent)))
        what, call = agent.chance.choice(_deeds(agent, target, own))
        agent.forbidden(f"{what} {target}", call)
        if agent.chance.random() < 0.3:
            _ask_for_others(agent)


def fuzz(agent: Agent) -> None:
    """Requests that are malformed: lines, headers, bodies, lengths, targets, bytes."""
    paths = [
        "/v1/status",
        "/v1/sessions",
        "/v1/events",
        "/v1/explain/",
        "/v1/artifacts/",
        "/v1/list",
        "/",
        "*",
        "//",
        "",
    ]
    while agent.going():
        chance = agent.chance
        method = chance.choice(("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "CONNECT", "PRI", "\0", "G" * 9000))
        tail = bytes(chance.randrange(256) for _ in range(chance.choice((0, 3, 50, 400))))
        target = (
            chance.choice(paths).encode()
            + chance.choice((b"", b"?session=", b"?timeout=", b"%", b"%00", b"/../"))
            + tail
        )
        heads = [
            b"Host: x", b"Content-Length: -1", b"Content-Length: 99999999999999999999", b"Transfer-Encoding: chunked",
            b"Transfer-Encoding: chunked, x", b"Expect: 100-continue", b"Upgrade: websocket", b"Range: bytes=9-1",
            b"A: " + b"b" * chance.choice((10, 9000, 70000)), b": :", b"\0", b" folded", b"Origin: http://evil",
        ]  # fmt: skip
        lines = chance.choices(heads, k=chance.randrange(6))
        request = method.encode() + b" " + target + b" HTTP/1." + chance.choice((b"1", b"0", b"9", b"")) + b"\r\n"
        request += b"".join(line + b"\r\n" for line in lines) + b"\r\n" + tail
        agent.send(request if chance.random() < 0.8 else tail * 20)


def held(agent: Agent) -> None:
    """Connections that are held: silent, half a request, flushes and streams that nobody reads."""
    starts = (
        b"", b"GET /v1/status", b"GET /v1/status HTTP/1.1\r\nHost: x\r\n",
        f"POST /v1/sessions/{agent.session}/flush?timeout=60 HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        f"GET /v1/events?session={agent.session} HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n" * 50,
        b"POST /v1/sessions/x/flush HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\nabc",
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        for _ in range(agent.chance.choice((50, 200, 600))):
            if not agent.going():
                break
            if (made := agent.attempt(agent.connect)) is not None:
                stack.enter_context(made)
                made.settimeout(0.2)
                agent.attempt(made.sendall, agent.chance.choice(starts))
        agent.rest(60)


def descriptors(agent: Agent) -> None:
    """As many open files as one process may have, while they are read, renamed and removed."""
    with contextlib.ExitStack() as stack:
        for number in range(2000):
            if not agent.going():
                break
            place = agent.top / f"open{number % 300}"
            found = agent.attempt(place.open, "a+b")
            if found is not None:
                stack.enter_context(found)
                agent.attempt(found.write, b"held")
                agent.attempt(found.flush)
            if agent.chance.random() < 0.1:
                agent.attempt(place.unlink)
        agent.flush(0.2)
        agent.rest(60)


def locks(agent: Agent) -> None:
    """Locks of whole files, of thousands of ranges, and leases, which hold up others' opens."""
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    with contextlib.ExitStack() as stack:
        for number in range(30):
            place = agent.top / f"locked{number}"
            file = agent.attempt(place.open, "w+b")
            if file is None:
                continue
            stack.enter_context(file)
            file.write(os.urandom(64))
            file.flush()
            for kind in (fcntl.F_WRLCK, fcntl.F_RDLCK):
                agent.attempt(fcntl.fcntl, file, fcntl.F_SETLEASE, kind)
            agent.attempt(fcntl.flock, file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for start in range(0, 2000, 2):
                agent.attempt(fcntl.lockf, file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, start)
        agent.flush(0.2)
        agent.rest(60)


def modes(agent: Agent) -> None:
    """Modes, owners, POSIX ACLs and attributes, right and wrong, on files and on the session itself."""
    places = [agent.top / "m", agent.top / "dir", agent.top]
    agent.attempt(places[0].write_bytes, b"m")
    agent.attempt(_made, places[1] / "f", b"m")
    while agent.going():
        place = agent.chance.choice(places)
        bits = [(tag, agent.chance.randrange(8), 0xFFFFFFFF) for tag in (1, 4, 16, 32)]
        named = [(agent.chance.choice((2, 8)), 7, agent.plan.user + agent.chance.randrange(3))]
        rows = sorted(bits + named * agent.chance.choice((0, 1, 1, 200)))
        value = struct.pack("<I", agent.chance.choice((2, 2, 2, 1, 77)))
        value += b"".join(struct.pack("<HHI", *row) for row in rows)
        kind = agent.chance.randrange(5)
        if kind == 0:
            agent.attempt(place.chmod, agent.chance.randrange(0o10000))
        elif kind == 1:
            name = agent.chance.choice((_ACCESS, _DEFAULT))
            agent.attempt(os.setxattr, place, name, value)
        elif kind == 2:
            name = agent.chance.choice(
                ("user.x", "user.cachesync.state", "user." + "n" * 250, "user.cachesync.version")
            )
            agent.attempt(os.setxattr, place, name, b"v" * agent.chance.randrange(9000))
        elif kind == 3:
            agent.forbidden("a gift of a file to root", os.chown, place, 0, 0)
        else:
            agent.forbidden("a trusted attribute", os.setxattr, place, "trusted.x", value)
        if agent.chance.random() < 0.1:
            agent.attempt(agent.top.chmod, 0o700)
    for place in (agent.top, places[1]):
        agent.attempt(place.chmod, 0o700)


def deletes(agent: Agent) -> None:
    """Files that are removed, cut and replaced while the daemon stores them."""
    while agent.going():
        place = agent.top / "gone" / f"{agent.chance.randrange(20)}"
        data = b"deleted" * agent.chance.choice((1, 1000, 100_000))
        agent.attempt(place.parent.mkdir, exist_ok=True)
        agent.attempt(place.write_bytes, data)
        agent.rest(agent.chance.choice((0, 0.005, 0.02)))
        kind = agent.chance.randrange(4)
        if kind == 0:
            agent.attempt(place.unlink)
        elif kind == 1:
            agent.attempt(os.truncate, place, 3)
        elif kind == 2:
            agent.attempt(place.rename, place.with_name("other"))
        elif agent.chance.random() < 0.1:
            agent.clear()
            agent.flush(0.1)


def turns(agent: Agent) -> None:
    """Work in the session while the operator evicts and opens it."""
    agent.flush(0.2)
    while agent.going():
        place = agent.top / f"t{agent.chance.randrange(10)}"
        deeds: tuple[Callable[[], object], ...] = (
            place.read_bytes, partial(place.write_bytes, b"turn" * 5000), place.unlink,
            partial(place.rename, agent.top / f"t{agent.chance.randrange(10)}"), partial(os.listdir, agent.top),
            partial(os.truncate, place, agent.chance.randrange(100_000)), partial((agent.top / "tmp").rename, place),
            partial((agent.top / "tmp").write_bytes, b"new"),
        )  # fmt: skip
        told = agent.attempt(agent.chance.choice(deeds))
        if isinstance(told, bytes):
            agent.look_at(f"{place}", told)
        if agent.chance.random() < 0.02:
            agent.flush(0.5)


ATTACKS: dict[str, Callable[[Agent], None]] = {
    each.__name__: each
    for each in (
        flood, sparse, renames, rules, names, links, others, fuzz, held, descriptors, locks, modes, deletes, turns,
    )
}  # fmt: skip


def order(seed: str, attacks: Sequence[str], rounds: int) -> list[str]:
    """The attacks of one attacker, in its order: all of them, shuffled, again and again."""
    chance = random.Random(seed)
    return [name for _ in range(rounds) for name in chance.sample(attacks, len(attacks))]


# -- what they are made of ---------------------------------------------------------------------------------------------


def _made(place: Path, data: bytes) -> None:
    """A file and its directory. Raises OSError."""
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(data)


def _truncated(place: Path, size: int) -> None:
    with place.open("wb") as file:
        file.truncate(size)


def _deep(top: Path, levels: int) -> None:
    """A tree that is deeper than a path may be long. Raises OSError."""
    at = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for _ in range(levels):
            with contextlib.suppress(FileExistsError):
                os.mkdir("d" * 40, dir_fd=at)
            below = os.open("d" * 40, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = below
        os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    finally:
        os.close(at)


def _targets(agent: Agent) -> list[str]:
    plan = agent.plan
    tops = [top for top in (plan.root, plan.mount) if top]
    found = [f"{top}/{victim}/{name}" for top in tops for victim in plan.victims for name in plan.known]
    found += [f"{agent.top}/../{victim}/{name}" for victim in plan.victims for name in plan.known]
    return [*found, f"{plan.root}/.cachesync/journal.db", f"{plan.root}/.cachesync/control.sock", plan.outside]


def _deeds(agent: Agent, target: Path, own: Path) -> list[tuple[str, Callable[[], object]]]:
    pid, above = agent.chance.choice(agent.plan.pids), target.parent
    new = above / f"new{agent.chance.randrange(1000)}"
    beside = Path(agent.chance.choice([top for top in (agent.plan.root, agent.plan.mount) if top]))
    return [
        ("read", target.read_bytes),
        ("append", lambda: target.open("ab").close()),
        ("create", lambda: new.open("xb").close()),
        ("mkdir", partial(os.mkdir, new)),
        ("symlink", lambda: new.symlink_to("x")),
        ("list", lambda: os.listdir(above)),
        ("stat", target.stat),
        ("unlink", target.unlink),
        ("rmdir", above.rmdir),
        ("move away", lambda: target.rename(own)),
        ("move over", lambda: own.rename(target)),
        ("move the session", lambda: above.rename(above.with_name("stolen"))),
        ("move over the session", lambda: agent.top.rename(above)),
        ("link", lambda: os.link(target, agent.top / "hard")),
        ("chmod", lambda: target.chmod(0o777)),
        ("chmod the session", lambda: above.chmod(0o777)),
        ("chown", lambda: os.chown(above, agent.plan.user, agent.plan.user)),
        ("truncate", lambda: os.truncate(target, 0)),
        ("utime", lambda: os.utime(target)),
        ("setxattr", lambda: os.setxattr(target, "user.x", b"x")),
        ("getxattr", lambda: os.getxattr(target, "user.cachesync.state")),
        ("a new session", (beside / "stranger").mkdir),
        ("a file in the root", lambda: (beside / "stray").open("xb").close()),
        ("the end of a session", lambda: agent.top.rename(beside / "renamed")),
        ("kill", lambda: os.kill(pid, signal.SIGKILL)),
        ("environ", Path(f"/proc/{pid}/environ").read_bytes),
        ("memory", lambda: Path(f"/proc/{pid}/mem").open("rb").close()),
        ("descriptors", lambda: os.listdir(f"/proc/{pid}/fd")),
        ("the process' root", lambda: os.listdir(f"/proc/{pid}/root/")),
        ("the operator's socket", lambda: _connected(f"{agent.plan.root}/.cachesync/control.sock")),
    ]


def _connected(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(path)


def _ask_for_others(agent: Agent) -> None:
    victim, name = agent.chance.choice(agent.plan.victims), agent.chance.choice(agent.plan.known)
    spelled = agent.chance.choice((victim, f"%{ord(victim[0]):x}{victim[1:]}", f"{agent.session}%2f..%2f{victim}"))
    refused = [
        ("POST", f"/v1/sessions/{spelled}/flush?timeout=1"), ("GET", f"/v1/sessions/{spelled}"),
        ("GET", f"/v1/explain/{spelled}/{name}"), ("GET", f"/v1/explain/{agent.session}/../{victim}/{name}"),
        ("GET", f"/v1/events?session={spelled}"), ("GET", f"/v1/status?session={spelled}"),
        ("GET", f"/v1/artifacts/{spelled}/{name}"), ("PUT", f"/v1/artifacts/{spelled}/{name}"),
        ("DELETE", f"/v1/artifacts/{spelled}/{name}"), ("GET", f"/v1/list/{spelled}"), ("GET", "/v1/list"),
        ("POST", f"/v1/sessions/{spelled}/evict?force=1"), ("POST", f"/v1/sessions/{spelled}/close"),
        ("POST", f"/v1/sessions/{spelled}/open"), ("POST", f"/v1/sessions/{agent.session}/evict"),
        ("POST", "/v1/retry"), ("GET", "/metrics"), ("GET", "/"), ("GET", f"/v1/artifacts/projects/{name}"),
    ]  # fmt: skip
    method, target = agent.chance.choice(refused)
    told = agent.ask(method, target)
    if told.startswith(b"HTTP/1.1 2"):
        agent.breaches.append(f"{method} {target} was answered: {told[-200:]!r}")
    for target in ("/v1/status", "/v1/sessions"):
        told = agent.ask("GET", target)
        for other in agent.plan.victims:
            if f'"{other}"'.encode() in told:
                agent.breaches.append(f"{target} names {other}")
