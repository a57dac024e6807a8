"""``cachesync bucket``: the bucket made as it should be, compared with that, and who needs which rights in it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from cachesync.cli.connect import Connect, load_config
from cachesync.cli.formatting import count, one_line
from cachesync.model.errors import ConfigError, ExitCode, UsageError
from cachesync.model.keys import check_session
from cachesync.store.devserver import DevServer

if TYPE_CHECKING:
    from cachesync.config import Config
    from cachesync.ops.bucket.desired import Setting, Wanted

_STATE_WIDTH = 11
_NAME_WIDTH = 18


def run(options: argparse.Namespace, _connect: Connect) -> int:
    """Print the settings as they are known, or a policy. JSON is one object; a policy is JSON anyway."""
    verb, *of = options.words
    if verb not in ("init", "check", "policy"):
        raise UsageError("bucket", verb, "is no such word", "bucket init, bucket check or bucket policy")
    if of and verb != "policy":
        raise UsageError(
            f"bucket {verb}", of[0], "is one word too many", f"see cachesync bucket --help; {verb} takes none"
        )
    if options.apply and verb != "init":
        raise UsageError(f"bucket {verb}", "--apply", "changes nothing", "bucket init --apply does")
    config = load_config(options)
    dev_server = None
    if options.dev_server is not None:
        dev_server = DevServer(options.dev_server)
        dev_server.attach()
    wanted = _wanted(config, dev_server, options)
    if verb == "policy":
        return _print_policy(wanted, of)
    return _settings(config, dev_server, wanted, options, check=verb == "check")


def _wanted(config: Config, dev_server: DevServer | None, options: argparse.Namespace) -> Wanted:
    from cachesync.ops.bucket.desired import Wanted

    bucket = config.store.bucket
    if bucket is None:
        hint = "--store s3://BUCKET, or --dev-server .dev-s3 after make run"
        raise ConfigError("find the bucket of", config.store.shown, "the store is no bucket", hint)
    return Wanted(
        bucket=bucket,
        prefix=config.prefix,
        endpoint=dev_server.endpoint if dev_server else config.endpoint,
        region=config.region,
        sse=config.sse,
        sse_kms_key_id=config.sse_kms_key_id,
        log_bucket=options.log_bucket,
        log_days=options.log_days,
        archive_days=options.archive_days,
        version_days=options.version_days,
        upload_days=options.upload_days,
    )


def _print_policy(wanted: Wanted, of: list[str]) -> int:
    from cachesync.ops.bucket import policies

    match of:
        case [] | ["daemon"]:
            policy = policies.daemon(wanted)
        case ["session", name]:
            policy = policies.session(wanted, check_session(name))
        case ["cloudwatch"]:
            policy = policies.cloudwatch()
        case _:
            cause = "there is no such policy"
            raise UsageError("bucket policy", " ".join(of), cause, "daemon, session SESSION, or cloudwatch")
    print(json.dumps(policy, indent=2))
    return ExitCode.DONE


def _settings(
    config: Config, dev_server: DevServer | None, wanted: Wanted, options: argparse.Namespace, *, check: bool
) -> int:
    from cachesync.daemon.store_factory import s3_settings
    from cachesync.ops.bucket.asking import Bucket
    from cachesync.ops.bucket.desired import exit_code
    from cachesync.store.s3.client import S3Client

    client = S3Client(s3_settings(config, wanted.bucket, dev_server))
    try:
        bucket = Bucket(client, wanted)
        rows = bucket.check() if check else bucket.init(apply=options.apply)
        found = _told(rows, quiet=options.json, mends=check)
    finally:
        client.close()
    if options.json:
        settings = [setting.json() for setting in found]
        print(json.dumps({"bucket": wanted.bucket, "applied": bool(options.apply), "settings": settings}))
    else:
        _sum_up(found, check=check, applied=options.apply)
    return exit_code(found, strict=check)


def _told(settings: Iterable[Setting], *, quiet: bool, mends: bool) -> list[Setting]:
    found = []
    for setting in settings:
        found.append(setting)
        if not quiet:
            _show(setting, mends=mends)
    return found


def _show(setting: Setting, *, mends: bool) -> None:
    from cachesync.ops.bucket.desired import State

    differs = setting.state in (State.DIFFERS, State.SET) and setting.found != setting.wanted
    what = f"{setting.found} -> {setting.wanted}" if differs else setting.found
    print(f"{setting.state.value:{_STATE_WIDTH}}  {setting.name:{_NAME_WIDTH}}  {one_line(what)}", flush=True)
    if setting.state in (State.DIFFERS, State.SET):
        print(f"{'':{_STATE_WIDTH}}  {'':{_NAME_WIDTH}}  why: {one_line(setting.why)}", flush=True)
    if setting.note and (mends or setting.state is not State.DIFFERS):
        word = "mend: " if setting.state is State.DIFFERS else ""
        print(f"{'':{_STATE_WIDTH}}  {'':{_NAME_WIDTH}}  {word}{one_line(setting.note)}", flush=True)


def _sum_up(found: list[Setting], *, check: bool, applied: bool) -> None:
    from cachesync.ops.bucket.desired import State

    states = [setting.state for setting in found]
    differ, changed, refused = (states.count(state) for state in (State.DIFFERS, State.SET, State.REFUSED))
    if applied:
        print(f"{count(changed, 'setting')} changed, {refused} refused")
    elif differ and not check:
        print(f"{count(differ, 'setting')} would be changed by --apply; nothing was")
    else:
        print(f"{count(differ, 'difference')}, {refused} refused")
