"""``cachesync completion``: what a shell needs to complete commands, options, choices, session names and paths.

The script that it prints runs ``cachesync`` at each TAB with ``_ARGCOMPLETE`` set, and ``answer`` says what fits. That
is bounded in time, says nothing of errors, and names nothing that could act by itself at a prompt.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import argcomplete
from argcomplete.shell_integration import shellcode

from cachesync.api.client import ControlClient
from cachesync.cli.connect import Connect, load_config
from cachesync.model.address import Space, parse_whole
from cachesync.model.errors import CacheSyncError, ExitCode
from cachesync.model.keys import is_session_name
from cachesync.model.values import Kind

PATIENCE = 0.7
LONGEST = 3.0
"""Seconds that the daemon has for its part, and after which nothing is offered at all."""

MOST = 500
"""Names that are offered."""

_STATE = ".cachesync"

Completer = Callable[..., Iterable[str]]


def run(options: argparse.Namespace, _connect: Connect) -> int:
    """Print the script."""
    print(shellcode(["cachesync"], use_defaults=False, shell=options.shell), end="")
    return ExitCode.DONE


def answer(parser: argparse.ArgumentParser) -> NoReturn:
    """Tell the shell what fits, and end the process."""
    signal.signal(signal.SIGALRM, lambda *_: os._exit(1))
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    _teach(parser)
    argcomplete.autocomplete(parser, always_complete_options=False, default_completer=_nothing)  # type: ignore[arg-type]
    os._exit(1)


def _teach(parser: argparse.ArgumentParser) -> None:
    """Tell each option what completes it, by its metavar."""
    for action in parser._actions:  # noqa: SLF001  # argparse has no other way to walk over them
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for child in action.choices.values():
                _teach(child)
        elif action.metavar in _BY_METAVAR:
            action.completer = _BY_METAVAR[str(action.metavar)]  # type: ignore[attr-defined]


def sessions(*, prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """The session names that begin so: what stands in the root, and what the daemon knows besides."""
    try:
        config = load_config(parsed_args)
        here = _names(config.root)
        known = _within(lambda: ControlClient.of(config).sessions())
    except (CacheSyncError, OSError):
        return []
    return _offered(prefix, [*here, *known])


def addresses(*, prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """The addresses that begin so, one level of them; what goes on ends in "/"."""
    head, slash = prefix.rpartition("/")[:2]
    if not slash:
        spaces = [f"{Space.PROJECTS}/", f"{Space.TEMPLATES}/"] if prefix else []
        return _offered(prefix, [*(f"{name}/" for name in sessions(prefix=prefix, parsed_args=parsed_args)), *spaces])
    try:
        folder = parse_whole(f"{head}/")
        config = load_config(parsed_args)
        here = _entries(Path(config.root, head), f"{head}/") if folder.session else []
        known = _within(
            lambda: [
                artifact.address.rstrip("/") + ("/" if artifact.kind == Kind.DIRECTORY else "")
                for artifact in ControlClient.of(config).artifacts.list(folder, shallow=True)
            ]
        )
    except (CacheSyncError, OSError):
        return []
    return _offered(prefix, [*here, *(name for name in known if name.rstrip("/") != head)])


def files(*, prefix: str, **_: Any) -> list[str]:
    """The files and directories here that begin so."""
    return _local(prefix, directories=False)


def directories(*, prefix: str, **_: Any) -> list[str]:
    """The directories here that begin so."""
    return _local(prefix, directories=True)


def _bucket(*, parsed_args: argparse.Namespace, prefix: str, **_: Any) -> list[str]:
    said = getattr(parsed_args, "words", None) or []
    fits = {(): ["init", "check", "policy"], ("policy",): ["daemon", "session", "cloudwatch"]}.get(tuple(said), [])
    return sessions(prefix=prefix, parsed_args=parsed_args) if said == ["policy", "session"] else fits


def _nothing(**_: Any) -> list[str]:
    return []


_BY_METAVAR: dict[str, Completer] = {
    "SESSION": sessions,
    "SESSION/PATH": addresses,
    "ADDRESS": addresses,
    "FILE": files,
    "FILE|DIR": files,
    "DIR": directories,
    "ROOT": directories,
    "STATE": directories,
    "VERB": _bucket,
}


def _within(ask: Callable[[], list[str]]) -> list[str]:
    """What the daemon says within PATIENCE; nothing if it says nothing."""
    said: list[str] = []

    def work() -> None:
        try:
            said.extend(ask())
        except (CacheSyncError, OSError):
            return

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return list(said)


def _names(root: Path) -> list[str]:
    try:
        with os.scandir(root) as found:
            return [
                entry.name for entry in found if is_session_name(entry.name) and entry.is_dir(follow_symlinks=False)
            ]
    except OSError:
        return []


def _entries(folder: Path, before: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if entry.name != _STATE:
                    yield before + entry.name + ("/" if entry.is_dir(follow_symlinks=False) else "")
    except OSError:
        return


def _local(prefix: str, *, directories: bool) -> list[str]:
    head, slash = prefix.rpartition("/")[:2]
    found = _entries(Path(os.path.expanduser(head + slash) or "."), head + slash)
    hidden = prefix.rpartition("/")[2].startswith(".")
    fits = (name for name in found if name.endswith("/") or not directories)
    return _offered(prefix, (name for name in fits if hidden or not name[len(head + slash) :].startswith(".")))


def _offered(prefix: str, names: Iterable[str]) -> list[str]:
    """What begins with ``prefix`` and can stand at a prompt as it is: no line ends, no escapes, no odd bytes."""
    return sorted({name for name in names if name.startswith(prefix) and name.isprintable()})[:MOST]
