"""The words of the command line: commands, their options, and a flag for every setting."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from cachesync import __version__
from cachesync.config import SETTINGS
from cachesync.config.kinds import SIZE
from cachesync.control.wire import DEFAULT_FLUSH_TIMEOUT, MAX_FLUSH_TIMEOUT
from cachesync.errors import UsageError
from cachesync.verbs import DEFAULT_EXPIRES, MAX_EXPIRES, MIN_EXPIRES

SETTING = "setting_"
"""What the parsed name of a setting's flag starts with, so that no option of a command can be taken for one."""

EXIT_CODES = """\
exit codes:
  0  done and stored            3  no such session, file or bucket
  1  cannot be stored or read   4  not finished in time, still dirty
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


def _mount(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="an empty directory beside the root")
    parser.add_argument(
        "--write-through",
        choices=("off", "fsync", "close"),
        default="off",
        help="when a program waits until its bytes are stored: never, at fsync, at close too (%(default)s)",
    )
    parser.add_argument("--read-only", action="store_true", help="nobody changes anything through it")
    parser.add_argument(
        "--timeout", metavar="S", type=_seconds, default=DEFAULT_FLUSH_TIMEOUT,
        help="seconds that an fsync or close waits for the store (%(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--dev-server", metavar="DIR", type=Path, help="also run an S3 server on this machine, with its data in DIR"
    )


def _umount(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("--lazy", action="store_true", help="even if programs use it: they finish, nobody new gets in")
    parser.add_argument(
        "--timeout", metavar="S", type=_seconds, default=DEFAULT_FLUSH_TIMEOUT, help="seconds to wait (%(default)g)"
    )
    _json(parser)


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


def _new(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("session", nargs="?", metavar="SESSION", help="default: a name is made up")
    parser.add_argument("--project", metavar="P")
    parser.add_argument("--workspace", metavar="W")
    parser.add_argument("--template", metavar="T", action="append", default=[], help="copy templates/T in; several")
    _json(parser)


def _open(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("session", metavar="SESSION")
    parser.add_argument("--lazy", action="store_true", help="only learn what there is; fetch nothing")
    parser.add_argument("--into", metavar="DIR", help="into another directory, which is not watched")
    parser.add_argument(
        "--timeout", metavar="S", type=_seconds, help="seconds to wait (default: as long as the store answers)"
    )
    _json(parser)


def _close(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("session", metavar="SESSION")
    parser.add_argument("--keep", action="store_true", help="keep the local files")
    parser.add_argument(
        "--timeout", metavar="S", type=_seconds, default=DEFAULT_FLUSH_TIMEOUT, help="seconds to wait (%(default)g)"
    )
    parser.add_argument(
        "--confirm-deletes", action="store_true", help="let through the deletes that the guard holds back"
    )
    _json(parser)


def _session(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("session", metavar="SESSION")
    _json(parser)


def _ls(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", nargs="?", default="", metavar="ADDRESS", help="default: the sessions there are")
    parser.add_argument("-l", "--long", action="store_true", help="size, time (UTC) and state too")
    parser.add_argument("-R", "--recursive", action="store_true", help="also what lies in its directories")
    parser.add_argument("--tree", action="store_true", help="all of it, names below their directories")
    _json(parser)


def _version_id(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version-id", metavar="V", help="a past version, as cachesync history lists them")


def _cat(parser: argparse.ArgumentParser) -> None:
    _address(parser)
    _version_id(parser)
    parser.add_argument("--json", action="store_true", help="print what it is, not its bytes")


def _get(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="ADDRESS", help="a file, or a folder or session for all that is in it")
    parser.add_argument("target", nargs="?", metavar="FILE|DIR", help="default: the same name, here")
    _version_id(parser)
    parser.add_argument("--force", action="store_true", help="overwrite what is there")
    _json(parser)


def _put(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a file, a directory for all that is in it, or - for stdin")
    parser.add_argument("address", metavar="ADDRESS", help='one that ends in "/" takes the file\'s name')
    parser.add_argument("--type", metavar="ARTIFACTTYPE", help="terraform, dashboard, foundation, template...")
    parser.add_argument("--meta", metavar="K=V", type=_pair, action="append", default=[], help="metadata; several")
    parser.add_argument("--content-type", metavar="T", help="default: by the name")
    parser.add_argument("--no-overwrite", action="store_true", help="only where there is nothing yet")
    _json(parser)


def _rm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("addresses", nargs="+", metavar="ADDRESS")
    _json(parser)


def _url(parser: argparse.ArgumentParser) -> None:
    _address(parser)
    parser.add_argument(
        "--expires", metavar="S", type=_lifetime, default=DEFAULT_EXPIRES, help="seconds that it works (%(default)g)"
    )
    _json(parser)


def _history(parser: argparse.ArgumentParser) -> None:
    _address(parser)
    _json(parser)


def _restore(parser: argparse.ArgumentParser) -> None:
    _address(parser)
    _version_id(parser)
    _json(parser)


def _address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="ADDRESS", help="SESSION/PATH, projects/P/PATH or templates/PATH")


def _mcp(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--session", metavar="SESSION", help="the only session that is served; default: CACHESYNC_SESSION"
    )
    parser.add_argument("--allow-projects", action="store_true", help="serve projects and templates too")


def _migrate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="DIR", type=Path, help="a sessions directory; it is only read")
    parser.add_argument("--dry-run", action="store_true", help="count what would be sent, and its cost; send nothing")
    _json(parser)


def _bucket(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words", nargs="+", metavar="VERB",
        help="init prints the plan, check compares, policy [daemon | session SESSION | cloudwatch] prints rights",
    )  # fmt: skip
    parser.add_argument("--apply", action="store_true", help="init: make the bucket and set what differs")
    parser.add_argument("--log-bucket", metavar="NAME", help="another bucket, for S3's access logs")
    parser.add_argument("--log-days", metavar="N", type=_days, default=30, help="logs expire (%(default)d; 0 never)")
    parser.add_argument(
        "--archive-days", metavar="N", type=_days, help="sessions go to GLACIER (90 on AWS, else not; 0 never)"
    )
    parser.add_argument(
        "--version-days", metavar="N", type=_days, default=30, help="past versions go (%(default)d; 0 never)"
    )
    parser.add_argument(
        "--upload-days", metavar="N", type=_days, default=7, help="unfinished uploads go (%(default)d; 0 never)"
    )
    parser.add_argument(
        "--dev-server", metavar="DIR", type=Path, help="the bucket of the S3 server with its data in DIR"
    )
    _json(parser)


def _cost(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sessions", metavar="N", type=_amount, help="a month (1000); no number: what is in the bucket"
    )
    parser.add_argument("--artifacts", metavar="N", type=_amount, help="of each session (10)")
    parser.add_argument("--size", metavar="BYTES", type=_bytes, help="of each artifact, as 50KB (50KB)")
    parser.add_argument("--writes", metavar="N", type=_amount, help="times that each artifact is stored (1)")
    parser.add_argument("--reads", metavar="N", type=_amount, help="times that each artifact is read (5)")
    parser.add_argument(
        "--dev-server", metavar="DIR", type=Path, help="the bucket of the S3 server with its data in DIR"
    )
    _json(parser)


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dev-server", metavar="DIR", type=Path, help="the one that the daemon was started with")
    _json(parser)


def _seconds(text: str) -> float:
    return _number(text, MAX_FLUSH_TIMEOUT)


def _lifetime(text: str) -> float:
    return _number(text, MAX_EXPIRES, MIN_EXPIRES)


def _number(text: str, most: float, least: float = 0.0) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not least <= seconds <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: {least:.0f} to {most:.0f} seconds")
    return seconds


def _days(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: whole days")
    return int(text)


def _amount(text: str) -> int:
    if not re.fullmatch("[0-9]{1,12}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: a whole number")
    return int(text)


def _bytes(text: str) -> int:
    try:
        return int(SIZE.parse(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: {SIZE.allowed}") from None


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not name or not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: NAME=VALUE")
    return name.lower(), value


COMMANDS = {
    "run": Command("the daemon, in the foreground: watches, uploads, serves the control socket", "run", _run),
    "mount": Command("the daemon, with every session as ordinary files at a directory", "mount", _mount),
    "umount": Command("stores everything, then takes a mount away", "umount", _umount),
    "flush": Command("waits until everything in a session is stored, and says whether it is", "flush", _flush),
    "status": Command("what is stored, what is not yet, what failed", "status", _status),
    "explain": Command("the story of one file", "explain", _explain),
    "retry": Command("tries failed files again now", "retry", _retry),
    "new": Command("makes a session and prints its name", "new", _new),
    "open": Command("brings a session here from the store", "open", _open),
    "close": Command("flushes a session, marks it closed and drops its local files", "close", _close),
    "evict": Command("drops the local files that the store has", "evict", _session),
    "verify": Command("reads everything of a session again from the store and compares it", "verify", _session),
    "ls": Command("the artifacts under an address", "ls", _ls),
    "cat": Command("an artifact's bytes", "cat", _cat),
    "get": Command("copies an artifact, or all under an address, to a file or directory", "get", _get),
    "put": Command("stores a file, a directory or stdin under an address", "put", _put),
    "rm": Command("deletes artifacts, here and in the store", "rm", _rm),
    "url": Command("a link by which anybody can read an artifact for a while", "url", _url),
    "history": Command("every version of an artifact", "history", _history),
    "restore": Command("makes a past version of an artifact the newest again", "restore", _restore),
    "mcp": Command("the MCP server, for agents: on stdio, or with --http HOST:PORT", "mcp", _mcp),
    "migrate": Command("stores a sessions directory that exists already; run again, it goes on", "migrate", _migrate),
    "bucket": Command(
        "makes a bucket as it should be, compares it with that, prints who needs which rights", "bucket", _bucket
    ),
    "cost": Command("what the store costs a month, from given numbers or from what is in the bucket", "cost", _cost),
    "doctor": Command("looks at everything that is needed, and says what mends what it finds", "doctor", _doctor),
    "config": Command("every setting, its value and where it comes from", "config", _json),
    "version": Command("prints the version", "version", _json),
}
