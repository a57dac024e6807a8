"""Settings: flags over environment over ``cachesync.toml`` over defaults, as one frozen, checked object.

A setting is one line in ``Config``. Its flag is ``--name-with-hyphens``, its environment variable ``CACHESYNC_NAME``
or one of the others given there, and its key in the file ``name``. Nothing here opens anything but the three files: in
the working directory, in the user's home, in /etc.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from cachesync.config import files as settings_files
from cachesync.config import kinds
from cachesync.config.kinds import Address, Kind, NotAllowed, StoreAddress, is_loopback, masked
from cachesync.model.errors import ConfigError
from cachesync.model.keys import is_session_name

__all__ = ["SETTINGS", "SYSTEM_FILE", "Address", "Config", "Setting", "Source", "StoreAddress", "load", "misspelt"]

SYSTEM_FILE = Path("/etc/cachesync", settings_files.NAME)


class Setting(NamedTuple):
    """A setting as declared. ``environment`` is in order of preference; ``default`` is text, None for "not set"."""

    name: str
    kind: Kind
    default: str | None
    environment: tuple[str, ...]
    help: str
    secret: bool

    @property
    def flag(self) -> str:
        """The option that sets it."""
        return "--" + self.name.replace("_", "-")


class Source(NamedTuple):
    """Where a setting's value comes from. ``value`` is fit to be shown: secrets are masked."""

    name: str
    value: str
    source: str


_PREFIX = "CACHESYNC_"
_NO_SETTINGS = {"CACHESYNC_DEBUG", "CACHESYNC_MODEL_EXAMPLES", "CACHESYNC_SESSION"}
"""Variables that are read, and are no settings: for tracebacks, for the tests, for ``cachesync mcp``."""

_SHORTENED = 16
"""The length of an access key id of AWS; a shorter one would be shown nearly whole."""


def _setting(kind: Kind, default: str | None, *environment: str, say: str, secret: bool = False) -> Any:
    return field(repr=not secret, metadata={"setting": (kind, default, environment, say, secret)})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every setting, checked. Paths are absolute, times seconds, sizes bytes, rates bytes a second (None: no limit).

    ``endpoint``, ``region``, ``sse`` and the like are None where the AWS chain or the bucket decides.
    """

    root: Path = _setting(kinds.PATH, "./sessions", "LOCAL_ARTIFACT_PATH", say="the sessions directory")
    store: StoreAddress = _setting(kinds.STORE, None, "ARTIFACT_BUCKET", say="where the objects live")
    require_remote: bool = _setting(
        kinds.SWITCH, "false", say="refuse a store in a folder or in the memory of this machine"
    )
    endpoint: str | None = _setting(
        kinds.URL, None, "S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", say="S3 server"
    )
    path_style: bool = _setting(
        kinds.SWITCH, None, "S3_FORCE_PATH_STYLE", say="bucket in the path; default: with an endpoint"
    )
    region: str | None = _setting(kinds.WORD, None, "AWS_REGION", "AWS_DEFAULT_REGION", say="AWS region")
    allow_http: bool = _setting(kinds.SWITCH, "false", say="allow a plain-http endpoint elsewhere than on this machine")
    sse: str | None = _setting(kinds.choice("AES256", "aws:kms"), None, say="encryption; default: the bucket's")
    sse_kms_key_id: str | None = _setting(kinds.WORD, None, say="the KMS key, with sse = aws:kms")
    state: Path = _setting(kinds.PATH, None, say="journal, socket and cache; default: ROOT/.cachesync")
    cache_size: int = _setting(kinds.SIZE, "10GiB", say="most that the read cache may hold")
    revalidate: float = _setting(kinds.duration(0), "10s", say="how long a version is believed to be the newest")
    umask: int = _setting(kinds.MASK, "077", say="permission bits that a new session's directory does not get")
    settle: float = _setting(kinds.duration(0), "10ms", say="quiet time before an upload")
    max_dirty_age: float = _setting(kinds.duration(0.1), "5s", say="longest time that a changing file waits")
    scan_interval: float = _setting(kinds.duration(1), "60s", say="time between scans for what no event told of")
    transfers: int = _setting(kinds.number(1, 512), "32", say="transfers of one session at once")
    bandwidth: int | None = _setting(kinds.RATE, "unlimited", say="upload rate for each second")
    drain_timeout: float = _setting(kinds.duration(0), "25s", say="longest shutdown")
    delete_settle: float = _setting(
        kinds.duration(0), "2s", say="how long after a session's last delete it is believed"
    )
    delete_guard: int = _setting(kinds.number(0, 10**9), "100", say="more deletes at once wait for a confirmation")
    transfer_timeout: float = _setting(kinds.duration(1), "120s", say="longest time for a request that carries bytes")
    socket: Path = _setting(kinds.PATH, None, say="the control socket; default: STATE/control.sock")
    socket_group: str | None = _setting(kinds.WORD, None, say="a group that may use the control socket")
    agent_socket: Path | None = _setting(
        kinds.PATH, None, say="a second socket, for agents: flush, status, explain and events of what they may read"
    )
    agent_group: str | None = _setting(kinds.WORD, None, say="the group that may use the agents' socket")
    agent_read: tuple[str, ...] | None = _setting(
        kinds.ADDRESSES, None, say="what agents may read through their socket besides, as projects/P or templates"
    )
    daemon_user: str | None = _setting(
        kinds.WORD, None, say="the daemon's user, whom commands believe; default: the owner of the state folder"
    )
    http: Address | None = _setting(kinds.LISTEN, "off", say="serve the control API on TCP as well")
    http_token: str | None = _setting(kinds.WORD, None, say="the bearer token for TCP", secret=True)
    http_names: tuple[str, ...] | None = _setting(
        kinds.NAMES, None, say="other host names by which a browser may reach it on TCP"
    )
    cloudwatch: bool = _setting(kinds.SWITCH, "false", say="send metrics of uploads to Amazon CloudWatch")
    log_format: str = _setting(
        kinds.choice("auto", "json", "text"), "auto", say="auto is text on a terminal, else json"
    )
    log_level: str = _setting(
        kinds.choice("debug", "info", "warning", "error"), "info", say="least severity that is logged"
    )
    origins: tuple[Source, ...] = ()
    unchosen: tuple[str, ...] = ()
    """The URLs of the default stores of this root: its own folder, and the folder that all roots of a user shared in
    version 0.1.0."""

    @property
    def store_url(self) -> str:
        """The store's URL, password and all: for the adapter, never for people (``store.shown`` is)."""
        return self.store.url

    @property
    def prefix(self) -> str:
        """What every key starts with, without slashes at its ends; empty for none."""
        return self.store.prefix

    @property
    def embedded(self) -> bool:
        """Nobody configured a store, so it is a folder of this machine."""
        return any(row.name == "store" and row.source == "embedded" for row in self.origins)

    @property
    def local(self) -> bool:
        """Whether the store is a folder or the memory of this machine."""
        return self.store.scheme in ("file", "local", "memory")

    @property
    def scan_interval_chosen(self) -> bool:
        """Somebody said how often it is to be scanned."""
        return any(row.name == "scan_interval" and row.source != "default" for row in self.origins)

    @property
    def session_mode(self) -> int:
        """The permission bits of a new session's directory."""
        return 0o777 & ~self.umask

    def sources(self) -> list[Source]:
        """Every setting with the value to show and its origin, then the credentials that the environment has."""
        return list(self.origins)


SETTINGS: Mapping[str, Setting] = {
    row.name: Setting(row.name, kind, default, (_PREFIX + row.name.upper(), *environment), say, secret)
    for row in fields(Config)
    if (declared := row.metadata.get("setting"))
    for kind, default, environment, say, secret in [declared]
}
"""Every setting by its name, in the order of ``Config``: the command line makes its flags from this."""


def load(
    flags: Mapping[str, str | None], environ: Mapping[str, str], cwd: Path, *, system_file: Path = SYSTEM_FILE
) -> Config:
    """The configuration of a process started in ``cwd``, an absolute path.

    ``flags`` maps setting names to text, None for a flag that is not given. An empty environment variable counts as not
    set. Raises ConfigError, one line that names the setting, its source and what is allowed.
    """
    if unknown := flags.keys() - SETTINGS.keys():
        raise ConfigError("setting", min(unknown), "a flag that no setting has")
    files = _files(flags, environ, cwd, system_file)
    values: dict[str, Any] = {}
    origins: dict[str, Source] = {}
    for setting in SETTINGS.values():
        text, source = next(_candidates(setting, flags, environ, files), (setting.default, "default"))
        values[setting.name] = None if text is None else _parse(setting, text, source)
        shown = "" if text is None else "***" if setting.secret else masked(text)
        origins[setting.name] = Source(setting.name, shown, source)
    unchosen = _complete(values, origins, environ, cwd)
    _check(values, origins)
    return Config(**values, origins=(*origins.values(), *_credentials(environ)), unchosen=unchosen)


def misspelt(environ: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """The variables called ``CACHESYNC_...`` that nothing reads, each with the one it resembles most, if any."""
    known = {name for setting in SETTINGS.values() for name in setting.environment} | _NO_SETTINGS
    strange = sorted(name for name in environ if name.startswith(_PREFIX) and name not in known)
    words = [setting.name.upper() for setting in SETTINGS.values()]  # without the prefix, which all have in common
    near = [_nearest(name.removeprefix(_PREFIX), words) for name in strange]
    return [(name, _PREFIX + found if found else None) for name, found in zip(strange, near, strict=True)]


def _nearest(word: str, words: Iterable[str]) -> str | None:
    import difflib  # where nothing is misspelt, nobody needs it

    return next(iter(difflib.get_close_matches(word, words, n=1)), None)


Table = tuple[str, dict[str, str]]
"""The path of a file, and its settings as text."""


def _files(flags: Mapping[str, str | None], environ: Mapping[str, str], cwd: Path, system_file: Path) -> list[Table]:
    """The files that count, the strongest first. Raises ConfigError.

    Where a stronger one lies below the root that flags, environment and the weaker ones name, it does not count.
    """
    files = [(str(system_file), _table(system_file, settings_files.read_system(system_file)))]
    for path in (settings_files.user_file(environ), cwd / settings_files.NAME):
        if path is not None:
            root = next(_candidates(SETTINGS["root"], flags, environ, files), None)
            text = settings_files.read_own(path, [] if root is None else [cwd / root[0]])
            files.insert(0, (str(path), _table(path, text)))
    return files


def _table(path: Path, text: str) -> dict[str, str]:
    """A file's settings as text. Raises ConfigError."""
    if not text:
        return {}
    import tomllib  # most have no file

    try:
        table = tomllib.loads(text)
    except ValueError as error:
        raise ConfigError("read", str(path), error, "allowed: TOML") from None
    texts: dict[str, str] = {}
    for key, value in table.items():
        if key not in SETTINGS:
            near = _nearest(key, SETTINGS)
            hint = f"did you mean {near}?" if near else f"allowed: {', '.join(SETTINGS)}"
            raise ConfigError("setting", key, f"unknown key in {path}", hint)
        if not isinstance(value, str | int | float):
            raise ConfigError("setting", key, f"in {path} it is neither text nor number nor true or false")
        texts[key] = str(value)
    return texts


def _candidates(
    setting: Setting,
    flags: Mapping[str, str | None],
    environ: Mapping[str, str],
    files: Iterable[Table],
) -> Iterator[tuple[str, str]]:
    """The texts that a setting is given and their sources, the strongest first."""
    if (flag := flags.get(setting.name)) is not None:
        yield flag, f"flag {setting.flag}"
    for name in setting.environment:
        if text := environ.get(name):
            yield (f"s3://{text}" if name == "ARTIFACT_BUCKET" else text), f"environment {name}"
    for path, table in files:
        if setting.name in table:
            yield table[setting.name], path


def _parse(setting: Setting, text: str, source: str) -> Any:
    try:
        return setting.kind.parse(text)
    except (ValueError, KeyError, OverflowError) as error:
        allowed = str(error) if isinstance(error, NotAllowed) else setting.kind.allowed
        shown = "its value" if setting.secret else repr(masked(text))
        cause = f"{shown} from {source} is not allowed"
        raise ConfigError("setting", setting.name, cause, f"allowed: {allowed}") from None


def _complete(
    values: dict[str, Any], origins: dict[str, Source], environ: Mapping[str, str], cwd: Path
) -> tuple[str, ...]:
    """Fill in the defaults that depend on other settings, and make every path absolute. Returns ``unchosen``."""
    home = environ.get("HOME", "")

    def place(name: str, default: Path) -> None:
        path: Path = values[name] or default
        if path.parts[:1] == ("~",) and home:
            path = Path(home, *path.parts[1:])
        values[name] = cwd / path
        origins[name] = origins[name]._replace(value=str(values[name]))

    place("root", values["root"])
    place("state", values["root"] / ".cachesync")
    place("socket", values["state"] / "control.sock")
    if values["agent_socket"] is not None:
        place("agent_socket", values["agent_socket"])
    if values["path_style"] is None:
        values["path_style"] = values["endpoint"] is not None
        origins["path_style"] = origins["path_style"]._replace(value=str(values["path_style"]).lower())
    data = environ.get("XDG_DATA_HOME", "")
    if not data.startswith("/"):
        data = f"{home}/.local/share" if home.startswith("/") else ""
    # A service may have no home. It can always write to its state folder.
    folders = [f"{values['state']}/store"]
    if data:
        name = hashlib.sha256(os.fsencode(os.path.normpath(values["root"]))).hexdigest()[:16]
        folders = [f"{data}/cachesync/stores/{name}", f"{data}/cachesync/store"]
    stores = [kinds.parse_store(f"file://{folder}") for folder in folders]
    if values["store"] is None:
        values["store"] = stores[0]
        origins["store"] = Source("store", stores[0].shown, "embedded")
    return tuple(store.shown for store in stores)


def _check(values: Mapping[str, Any], origins: Mapping[str, Source]) -> None:
    """Refuse what is wrong only together."""

    def refuse(name: str, cause: str, hint: str) -> ConfigError:
        return ConfigError("setting", name, f"{origins[name].value!r} from {origins[name].source} {cause}", hint)

    endpoint, store = values["endpoint"], values["store"]
    if endpoint and urlsplit(endpoint).scheme == "http" and not values["allow_http"] and not is_loopback(endpoint):
        raise refuse("endpoint", "would send everything in the clear", "allowed: https, or set allow_http")
    if values["sse_kms_key_id"] and values["sse"] != "aws:kms":
        raise refuse("sse_kms_key_id", "has no use", "allowed: with sse = aws:kms")
    if values["settle"] > values["max_dirty_age"]:
        raise refuse("settle", "is longer than max_dirty_age", f"allowed: up to {values['max_dirty_age']:g}s")
    root, state = Path(os.path.normpath(values["root"])), Path(os.path.normpath(values["state"]))
    if state == root or (state.is_relative_to(root) and is_session_name(state.relative_to(root).parts[0])):
        raise refuse(
            "state", f"would be a session of the root '{root}'", "allowed: outside the root, or ROOT/.cachesync"
        )
    if values["agent_socket"] is not None:
        agents = Path(os.path.normpath(values["agent_socket"]))
        if agents.is_relative_to(state) or agents == Path(os.path.normpath(values["socket"])):
            raise refuse("agent_socket", "is where agents must not get", "allowed: outside the state folder")
    if store.scheme == "file":
        # A store in a session would store itself; sessions/S/PATH of one around the root is the agent's own file.
        folder = Path(os.path.normpath(store.place))
        inside = folder.is_relative_to(root) and origins["store"].source != "embedded"
        if inside or root.is_relative_to(folder):
            raise refuse("store", f"and the root '{root}' lie in each other", "allowed: a folder outside the root")


def _credentials(environ: Mapping[str, str]) -> Iterator[Source]:
    """What the environment gives to the AWS chain; the chain itself is botocore's."""
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ROLE_ARN"):
        if value := environ.get(name):
            if name == "AWS_ACCESS_KEY_ID":
                value = f"{value[:4]}...{value[-4:]}" if len(value) >= _SHORTENED else "***"
            elif name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
                value = "***"
            yield Source(name.lower(), value, f"environment {name}")
