"""From settings to a store: S3, or any fsspec URL, behind the bandwidth limit if there is one."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import unquote

from cachesync.config.kinds import parse_store
from cachesync.model.errors import ConfigError

if TYPE_CHECKING:
    from cachesync.config import Config
    from cachesync.store.base import ObjectStore
    from cachesync.store.devserver import DevServer
    from cachesync.store.s3.client import S3Settings
    from cachesync.store.s3.credentials import Found


def settled(config: Config) -> Config:
    """Return ``config``, with the store changed for some roots of version 0.1.0.

    Without a configured store, that version stored all roots of a user in one shared folder. Such a root keeps it.
    """
    shared = parse_store(config.unchosen[-1]) if config.unchosen else config.store
    if not config.embedded or shared == config.store or not os.path.isdir(unquote(shared.place)):
        return config
    from cachesync.journal.database import store_of  # imported only if needed: SQLite costs a tenth of a flush

    if store_of(config.state / "journal.db") != shared.shown:
        return config
    origins = (row._replace(value=shared.shown) if row.name == "store" else row for row in config.origins)
    return replace(config, store=shared, origins=tuple(origins))


def check_remote(config: Config, *, dev_server: bool = False) -> None:
    """Raise ConfigError if the store is on this machine although ``require_remote`` is set."""
    if config.require_remote and (config.local or dev_server):
        where = "the S3 server of --dev-server" if dev_server else config.store.shown
        source = next(row.source for row in config.origins if row.name == "require_remote")
        cause = f"it is on this machine, and require_remote is set ({source})"
        raise ConfigError("store in", where, cause, "set the store to a bucket, such as CACHESYNC_STORE=s3://BUCKET")


def open_store(config: Config, dev_server: DevServer | None = None) -> ObjectStore:
    """Open the store of the settings, or that of ``dev_server``. Raises ConfigError."""
    check_remote(config, dev_server=dev_server is not None)
    store = _open(config, dev_server)
    if config.bandwidth is None:
        return store
    from cachesync.store.throttled import ThrottledStore

    return ThrottledStore(store, config.bandwidth)


def _open(config: Config, dev_server: DevServer | None) -> ObjectStore:
    if config.store.bucket is None:
        from cachesync.store.fsspec_store import FsspecStore

        try:
            return FsspecStore(config.store_url)
        except (ValueError, ImportError) as error:
            raise ConfigError("use the store", config.store.shown, error, "s3://, file:// or an fsspec URL") from error
    from cachesync.store.s3.store import S3Store

    return S3Store(s3_settings(config, config.store.bucket, dev_server), prefix=config.prefix)


def s3_settings(config: Config, bucket: str, dev_server: DevServer | None = None) -> S3Settings:
    """How to reach a bucket under these settings, or on ``dev_server``."""
    from cachesync.store.s3.client import S3Settings

    return S3Settings(
        bucket=bucket,
        endpoint=dev_server.endpoint if dev_server else config.endpoint,
        region=config.region,
        path_style=True if dev_server else config.path_style,
        sse=config.sse,
        sse_kms_key_id=config.sse_kms_key_id,
        connections=config.transfers + 8,
        timeout=config.transfer_timeout,
        key=dev_server.key if dev_server else None,
        secret=dev_server.secret if dev_server else None,
    )


def credentials_of(config: Config, store: ObjectStore) -> Callable[[bool], Found | None] | None:
    """What tells which credentials a store signs with, letting them renew themselves first if called with true; None
    where it signs with none. It raises StoreCredentials and the like."""
    if config.store.bucket is None:
        return None
    from cachesync.store.s3.credentials import client_of, find

    client = client_of(store)
    return None if client is None else lambda renew: find(client, renew=renew)
