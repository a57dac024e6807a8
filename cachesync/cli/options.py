"""The options of each command: one function a command, called as it is, that adds them to its parser.

The metavar of a name or path says what it is, and so what a shell completes there: see completion.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cachesync.cli import values
from cachesync.model.limits import DEFAULT_EXPIRES, DEFAULT_FLUSH_TIMEOUT


def as_json(parser: argparse.ArgumentParser) -> None:
    """``--json``, for nearly every command."""
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else")


def run(parser: argparse.ArgumentParser) -> None:
    """Of ``run``."""
    parser.add_argument(
        "--dev-server", metavar="DIR", type=Path, help="also run an S3 server on this machine, with its data in DIR"
    )


def mount(parser: argparse.ArgumentParser) -> None:
    """Of ``mount``."""
    parser.add_argument("directory", metavar="DIR", help="an empty directory beside the root")
    parser.add_argument(
        "--write-through",
        choices=("off", "fsync", "close"),
        default="off",
        help="when a program waits until its bytes are stored: never, at fsync, at close too (%(default)s)",
    )
    parser.add_argument("--read-only", action="store_true", help="nobody changes anything through it")
    parser.add_argument(
        "--allow-other",
        action="store_true",
        help="other users may come in too, each with the rights that files give; root's mounts let them in anyway",
    )
    parser.add_argument(
        "--timeout", metavar="S", type=values.seconds, default=DEFAULT_FLUSH_TIMEOUT,
        help="seconds that an fsync or close waits for the store (%(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--dev-server", metavar="DIR", type=Path, help="also run an S3 server on this machine, with its data in DIR"
    )


def umount(parser: argparse.ArgumentParser) -> None:
    """Of ``umount``."""
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("--lazy", action="store_true", help="even if programs use it: they finish, nobody new gets in")
    parser.add_argument(
        "--timeout",
        metavar="S",
        type=values.seconds,
        default=DEFAULT_FLUSH_TIMEOUT,
        help="seconds to wait (%(default)g)",
    )
    as_json(parser)


def _flush_timeout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        metavar="S",
        type=values.seconds,
        default=DEFAULT_FLUSH_TIMEOUT,
        help="seconds to wait (%(default)g)",
    )


def _confirm_deletes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--confirm-deletes", action="store_true", help="let through the deletes that the guard holds back"
    )


def flush(parser: argparse.ArgumentParser) -> None:
    """Of ``flush``."""
    parser.add_argument("sessions", nargs="*", metavar="SESSION")
    parser.add_argument("--all", action="store_true", help="every session; JSON is a list then")
    _flush_timeout(parser)
    parser.add_argument("--receipt", action="store_true", help="list every file with its checksum and version")
    _confirm_deletes(parser)
    as_json(parser)


def status(parser: argparse.ArgumentParser) -> None:
    """Of ``status``."""
    parser.add_argument("session", nargs="?", metavar="SESSION", help="exit code 0 if it is safe to kill, else 4")
    parser.add_argument(
        "--watch", action="store_true", help="again every second, until Ctrl-C; a live screen with the extra watch"
    )
    as_json(parser)


def explain(parser: argparse.ArgumentParser) -> None:
    """Of ``explain``."""
    parser.add_argument("artifact", metavar="SESSION/PATH")
    as_json(parser)


def retry(parser: argparse.ArgumentParser) -> None:
    """Of ``retry``."""
    parser.add_argument("session", nargs="?", metavar="SESSION")
    as_json(parser)


def new(parser: argparse.ArgumentParser) -> None:
    """Of ``new``."""
    parser.add_argument("session", nargs="?", metavar="SESSION", help="default: a name is made up")
    parser.add_argument("--project", metavar="P")
    parser.add_argument("--workspace", metavar="W")
    parser.add_argument("--template", metavar="T", action="append", default=[], help="copy templates/T in; several")
    as_json(parser)


def open_(parser: argparse.ArgumentParser) -> None:
    """Of ``open``."""
    parser.add_argument("session", metavar="SESSION")
    parser.add_argument("--lazy", action="store_true", help="only learn what there is; fetch nothing")
    parser.add_argument("--into", metavar="DIR", help="into another directory, which is not watched")
    parser.add_argument(
        "--timeout", metavar="S", type=values.seconds, help="seconds to wait (default: as long as the store answers)"
    )
    as_json(parser)


def close(parser: argparse.ArgumentParser) -> None:
    """Of ``close``."""
    parser.add_argument("session", metavar="SESSION")
    parser.add_argument("--keep", action="store_true", help="keep the local files")
    _flush_timeout(parser)
    _confirm_deletes(parser)
    _force(parser)
    as_json(parser)


def evict(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``evict``."""
    parser.add_argument("session", metavar="SESSION")
    _force(parser)
    as_json(parser)


def _force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--force",
        action="store_true",
        help="evict files even if the kernel cannot tell whether a program has them open for writing",
    )


def verify(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``verify``."""
    parser.add_argument("session", metavar="SESSION")
    parser.add_argument("--repair", action="store_true", help="store differing files again from this host")
    as_json(parser)


def rebind(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``rebind``."""
    parser.add_argument("--yes", action="store_true", help="rebind even if some files are only in the old store")
    as_json(parser)


def ls(parser: argparse.ArgumentParser) -> None:
    """Of ``ls``."""
    parser.add_argument("address", nargs="?", default="", metavar="ADDRESS", help="default: the sessions there are")
    parser.add_argument("-l", "--long", action="store_true", help="size, time (UTC) and state too")
    parser.add_argument("-R", "--recursive", action="store_true", help="also what lies in its directories")
    parser.add_argument("--tree", action="store_true", help="all of it, names below their directories")
    as_json(parser)


def version_id(parser: argparse.ArgumentParser) -> None:
    """``--version-id``."""
    parser.add_argument("--version-id", metavar="V", help="a past version, as cachesync history lists them")


def cat(parser: argparse.ArgumentParser) -> None:
    """Of ``cat``."""
    address(parser)
    version_id(parser)
    parser.add_argument("--json", action="store_true", help="print what it is, not its bytes")


def get(parser: argparse.ArgumentParser) -> None:
    """Of ``get``."""
    parser.add_argument("address", metavar="ADDRESS", help="a file, or a folder or session for all that is in it")
    parser.add_argument("target", nargs="?", metavar="FILE|DIR", help="default: the same name, here")
    version_id(parser)
    parser.add_argument("--force", action="store_true", help="overwrite what is there")
    as_json(parser)


def put(parser: argparse.ArgumentParser) -> None:
    """Of ``put``."""
    parser.add_argument("file", metavar="FILE", help="a file, a directory for all that is in it, or - for stdin")
    parser.add_argument("address", metavar="ADDRESS", help='one that ends in "/" takes the file\'s name')
    parser.add_argument("--type", metavar="ARTIFACTTYPE", help="terraform, dashboard, foundation, template...")
    parser.add_argument(
        "--meta", metavar="K=V", type=values.pair, action="append", default=[], help="metadata; several"
    )
    parser.add_argument("--content-type", metavar="T", help="default: by the name")
    parser.add_argument("--no-overwrite", action="store_true", help="only where there is nothing yet")
    as_json(parser)


def rm(parser: argparse.ArgumentParser) -> None:
    """Of ``rm``."""
    parser.add_argument("addresses", nargs="+", metavar="ADDRESS")
    as_json(parser)


def url(parser: argparse.ArgumentParser) -> None:
    """Of ``url``."""
    address(parser)
    parser.add_argument(
        "--expires",
        metavar="S",
        type=values.lifetime,
        default=DEFAULT_EXPIRES,
        help="seconds that it works (%(default)g)",
    )
    as_json(parser)


def history(parser: argparse.ArgumentParser) -> None:
    """Of ``history``."""
    address(parser)
    as_json(parser)


def restore(parser: argparse.ArgumentParser) -> None:
    """Of ``restore``."""
    address(parser)
    version_id(parser)
    as_json(parser)


def completion(parser: argparse.ArgumentParser) -> None:
    """Of ``completion``."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def address(parser: argparse.ArgumentParser) -> None:
    """An artifact's address."""
    parser.add_argument("address", metavar="ADDRESS", help="SESSION/PATH, projects/P/PATH or templates/PATH")


def mcp(parser: argparse.ArgumentParser) -> None:
    """Of ``mcp``."""
    parser.add_argument(
        "--session", metavar="SESSION", help="the only session that is served; default: CACHESYNC_SESSION"
    )
    parser.add_argument("--allow-projects", action="store_true", help="serve projects and templates too")


def migrate(parser: argparse.ArgumentParser) -> None:
    """Of ``migrate``."""
    parser.add_argument("source", metavar="DIR", type=Path, help="a sessions directory; it is only read")
    parser.add_argument("--dry-run", action="store_true", help="count what would be sent, and its cost; send nothing")
    as_json(parser)


def bucket(parser: argparse.ArgumentParser) -> None:
    """Of ``bucket``."""
    parser.add_argument(
        "words", nargs="+", metavar="VERB",
        help="init prints the plan, check compares, policy [daemon | session SESSION | cloudwatch] prints rights",
    )  # fmt: skip
    parser.add_argument("--apply", action="store_true", help="init: make the bucket and set what differs")
    parser.add_argument("--log-bucket", metavar="NAME", help="another bucket, for S3's access logs")
    parser.add_argument(
        "--log-days", metavar="N", type=values.days, default=30, help="logs expire (%(default)d; 0 never)"
    )
    parser.add_argument(
        "--archive-days", metavar="N", type=values.days, help="sessions go to GLACIER (90 on AWS, else not; 0 never)"
    )
    parser.add_argument(
        "--version-days", metavar="N", type=values.days, default=30, help="past versions go (%(default)d; 0 never)"
    )
    parser.add_argument(
        "--upload-days", metavar="N", type=values.days, default=7, help="unfinished uploads go (%(default)d; 0 never)"
    )
    parser.add_argument(
        "--dev-server", metavar="DIR", type=Path, help="the bucket of the S3 server with its data in DIR"
    )
    as_json(parser)


def cost(parser: argparse.ArgumentParser) -> None:
    """Of ``cost``."""
    parser.add_argument(
        "--sessions", metavar="N", type=values.amount, help="a month (1000); no number: what is in the bucket"
    )
    parser.add_argument("--artifacts", metavar="N", type=values.amount, help="of each session (10)")
    parser.add_argument("--size", metavar="BYTES", type=values.byte_count, help="of each artifact, as 50KB (50KB)")
    parser.add_argument("--writes", metavar="N", type=values.amount, help="times that each artifact is stored (1)")
    parser.add_argument("--reads", metavar="N", type=values.amount, help="times that each artifact is read (5)")
    parser.add_argument(
        "--dev-server", metavar="DIR", type=Path, help="the bucket of the S3 server with its data in DIR"
    )
    as_json(parser)


def doctor(parser: argparse.ArgumentParser) -> None:
    """Of ``doctor``."""
    parser.add_argument("--dev-server", metavar="DIR", type=Path, help="the one that the daemon was started with")
    as_json(parser)
