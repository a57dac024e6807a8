"""The words of the command line: commands, their options, and a flag for every setting."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from cachesync import __version__
from cachesync.config import SETTINGS
from cachesync.control.wire import DEFAULT_FLUSH_TIMEOUT, MAX_FLUSH_TIMEOUT
from cachesync.errors import UsageError

SETTING = "setting_"
"""What the parsed name of a setting's flag starts with, so that no option of a command can be taken for one."""

EXIT_CODES = """\
exit codes:
  0  done and stored          3  no such session, file or bucket
  1  cannot be stored         4  not finished in time, still dirty
  2  usage or configuration
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser; ``command`` is None where none was given. Its errors are UsageError."""
    parser = _Parser(
        prog="cachesync",
        usage="cachesync [SETTING]... COMMAND ...",
        description="Makes the files under ROOT durable in S3, and says whether all of them are.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cachesync {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, command in COMMANDS.items():
        child = commands.add_parser(
            name,
            help=command.summary,
            description=f"{command.summary}.",
            epilog="Every setting has a flag too: see cachesync --help.",
            allow_abbrev=False,
        )
        command.add_options(child)
        _add_settings(child, shown=False)
    _add_settings(parser.add_argument_group("settings, before or after the command"), shown=True)
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError("read the command line", cause=message, hint=f"see {self.prog} --help")


class Command(NamedTuple):
    """A command: its line in --help, the module of cachesync.cli that does it, and what adds its options."""

    summary: str
    module: str
    add_options: Callable[[argparse.ArgumentParser], None]


def _add_settings(group: Any, *, shown: bool) -> None:
    for setting in SETTINGS.values():
        if setting.secret:  # every user of the machine can read a command line
            continue
        # SUPPRESS as default: a flag before the command is not undone by its absence after it.
        group.add_argument(
            setting.flag,
            dest=SETTING + setting.name,
            metavar=setting.name.rpartition("_")[2].upper(),
            default=argparse.SUPPRESS,
            help=setting.help.replace("%", "%%") if shown else argparse.SUPPRESS,
        )


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else")


def _run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dev-server", metavar="DIR", type=Path, help="also run an S3 server on this machine, with its data in DIR"
    )


def _flush(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sessions", nargs="*", metavar="SESSION")
    parser.add_argument("--all", action="store_true", help="every session; JSON is a list then")
    parser.add_argument(
        "--timeout", metavar="S", type=_seconds, default=DEFAULT_FLUSH_TIMEOUT, help="seconds to wait (%(default)g)"
    )
    parser.add_argument("--receipt", action="store_true", help="list every file with its checksum and version")
    parser.add_argument(
        "--confirm-deletes", action="store_true", help="let through the deletes that the guard holds back"
    )
    _json(parser)


def _status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("session", nargs="?", metavar="SESSION", help="exit code 0 if it is safe to kill, else 4")
    parser.add_argument("--watch", action="store_true", help="again every second, until Ctrl-C")
    _json(parser)


def _explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", metavar="SESSION/PATH")
    _json(parser)


def _retry(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("session", nargs="?", metavar="SESSION")
    _json(parser)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_FLUSH_TIMEOUT:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: 0 to {MAX_FLUSH_TIMEOUT:.0f} seconds")
    return seconds


COMMANDS = {
    "run": Command("the daemon, in the foreground: watches, uploads, serves the control socket", "run", _run),
    "flush": Command("waits until everything in a session is stored, and says whether it is", "flush", _flush),
    "status": Command("what is stored, what is not yet, what failed", "status", _status),
    "explain": Command("the story of one file", "explain", _explain),
    "retry": Command("tries failed files again now", "retry", _retry),
    "config": Command("every setting, its value and where it comes from", "config", _json),
    "version": Command("prints the version", "version", _json),
}
