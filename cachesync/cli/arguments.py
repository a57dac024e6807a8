"""The words of the command line: commands, their options, and a flag for every setting."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from cachesync import __version__
from cachesync.cli import options
from cachesync.config import SETTINGS
from cachesync.model.errors import UsageError

SETTING = "setting_"
"""What the parsed name of a setting's flag starts with, so that no option of a command can be taken for one."""

EXIT_CODES = """\
exit codes:
  0  done and stored            3  no such session, file or bucket
  1  cannot be stored or read   4  not finished in time, still dirty
  2  usage or configuration
"""


def build_parser(first: str | None = None) -> argparse.ArgumentParser:
    """The parser; ``command`` is None where none was given. Its errors are UsageError. Where the ``first`` word is a
    command, it knows no other: each takes its time."""
    known = {first: COMMANDS[first]} if first in COMMANDS else COMMANDS
    parser = _Parser(
        prog="cachesync",
        usage="cachesync [SETTING]... COMMAND ...",
        description="Makes the files under ROOT durable in S3, and says whether all of them are.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cachesync {__version__}")
    settings = _Parser(add_help=False, allow_abbrev=False)  # once, and not for each command: that takes its time
    _add_settings(settings, shown=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, command in known.items():
        child = commands.add_parser(
            name,
            help=command.summary,
            description=f"{command.summary}.",
            epilog="Every setting has a flag too: see cachesync --help.",
            allow_abbrev=False,
            parents=[settings],
        )
        command.add_options(child)
    if known is COMMANDS:
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


COMMANDS = {
    "run": Command("the daemon, in the foreground: watches, uploads, serves the control socket", "run", options.run),
    "mount": Command("the daemon, with every session as ordinary files at a directory", "mount", options.mount),
    "umount": Command("stores everything, then takes a mount away", "umount", options.umount),
    "flush": Command("waits until everything in a session is stored, and says whether it is", "flush", options.flush),
    "status": Command("what is stored, what is not yet, what failed", "status", options.status),
    "explain": Command("the story of one file", "explain", options.explain),
    "retry": Command("tries failed files again now", "retry", options.retry),
    "new": Command("makes a session and prints its name", "new", options.new),
    "open": Command("brings a session here from the store", "open", options.open_),
    "close": Command("flushes a session, marks it closed and drops its local files", "close", options.close),
    "evict": Command("drops the local bytes of files that are stored", "evict", options.evict),
    "verify": Command("reads a session's objects from the store and compares them", "verify", options.verify),
    "rebind": Command("moves this root to another store", "rebind", options.rebind),
    "ls": Command("the artifacts under an address", "ls", options.ls),
    "cat": Command("an artifact's bytes", "cat", options.cat),
    "get": Command("copies an artifact, or all under an address, to a file or directory", "get", options.get),
    "put": Command("stores a file, a directory or stdin under an address", "put", options.put),
    "rm": Command("deletes artifacts, here and in the store", "rm", options.rm),
    "url": Command("a link by which anybody can read an artifact for a while", "url", options.url),
    "history": Command("every version of an artifact", "history", options.history),
    "restore": Command("makes a past version of an artifact the newest again", "restore", options.restore),
    "mcp": Command("the MCP server, for agents: on stdio, or with --http HOST:PORT", "mcp", options.mcp),
    "migrate": Command(
        "stores a sessions directory that exists already; run again, it goes on", "migrate", options.migrate
    ),
    "bucket": Command(
        "makes a bucket as it should be, compares it with that, prints who needs which rights", "bucket", options.bucket
    ),
    "cost": Command(
        "what the store costs a month, from given numbers or from what is in the bucket", "cost", options.cost
    ),
    "doctor": Command(
        "looks at everything that is needed, and says what mends what it finds", "doctor", options.doctor
    ),
    "completion": Command(
        "prints a script by which a shell completes commands, options and names", "completion", options.completion
    ),
    "config": Command("every setting, its value and where it comes from", "config", options.as_json),
    "version": Command("prints the version", "version", options.as_json),
}
