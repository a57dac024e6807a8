"""From ``argv`` to an exit code: parse, do, and say what failed in one line."""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from collections.abc import Sequence
from functools import partial

from cachesync.cli.arguments import COMMANDS, build_parser
from cachesync.cli.first_process import stand_in
from cachesync.cli.formatting import one_line
from cachesync.config import misspelt
from cachesync.model.errors import CacheSyncError, UsageError

INTERRUPTED = 130
OUTPUT_CLOSED = 141
"""What a shell reports for a program that SIGPIPE ended: not 0, for nobody saw the answer."""

_GARBAGE = 50_000
"""New objects before the collector looks among them, instead of 700: what is imported stays, and it looked 53 times."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (SPEC section 6). Prints; raises nothing.

    Without ``argv`` it is the program itself, and as process 1 of a container lets a child be that.
    """
    if argv is None:
        gc.set_threshold(_GARBAGE, 20, 20)
    if argv is None and os.getpid() == 1 and (code := stand_in()) is not None:
        return code
    return _main(list(sys.argv[1:] if argv is None else argv))


def _main(words: Sequence[str]) -> int:
    try:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no failure
        code = _command(words)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes stdout once more at exit, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OUTPUT_CLOSED
    except CacheSyncError as error:
        return _failed(error, words)
    except OSError as error:
        return _failed(CacheSyncError("run", error.filename or "", error.strerror or error), words)
    except Exception as error:
        if os.environ.get("CACHESYNC_DEBUG"):
            raise
        cause = f"internal error: {type(error).__name__}: {error}"
        return _failed(CacheSyncError("run", "", cause, "CACHESYNC_DEBUG=1 shows where; please report it"), words)


def _command(words: Sequence[str]) -> int:
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what fits here
        from cachesync.cli.completion import answer

        answer(build_parser())
    parser = build_parser(words[0] if words else None)
    try:
        options = parser.parse_args(words)
    except SystemExit as done:  # --help and --version print and leave
        return int(done.code or 0)
    if options.command is None:
        raise UsageError("command", cause="none is given", hint=f"one of: {', '.join(COMMANDS)}; see cachesync --help")
    from cachesync.cli.connect import connect

    for name, near in misspelt(os.environ):
        meant = f"did you mean {near}?" if near else "cachesync config shows every setting"
        print(one_line(f"cachesync: the environment variable {name} is no setting ({meant})"), file=sys.stderr)
    import logging

    for library in ("aiobotocore", "botocore"):  # what they warn of comes back as an error, which says it in our words
        logging.getLogger(library).addHandler(logging.NullHandler())
    command = importlib.import_module(f"cachesync.cli.{COMMANDS[options.command].module}")
    return int(command.run(options, partial(connect, options)))


def _failed(error: CacheSyncError, words: Sequence[str]) -> int:
    try:
        print(f"cachesync: {one_line(str(error))}", file=sys.stderr)
        if "--json" in words:  # the words, not the options: they may be what is wrong
            from cachesync.api.wire import error_json

            print(json.dumps(error_json(error)), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(error.exit_code)
