"""What the text of a setting may be, and what it becomes. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from cachesync.model.record import record

_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}
_SWITCH = dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(("0", "false", "no", "off"), False)
_YEAR = 365 * 86400.0


class NotAllowed(ValueError):
    """Says what is allowed better than the kind does."""


class Kind(NamedTuple):
    """What a setting's text may be. ``parse`` raises ValueError, or NotAllowed to say more than ``allowed`` does."""

    parse: Callable[[str], Any]
    allowed: str


class Address(NamedTuple):
    """A TCP address to listen on."""

    host: str
    port: int


@record(frozen=True, slots=True)
class StoreAddress:
    """A store's URL, taken apart. ``bucket`` is None and ``prefix`` empty unless ``scheme`` is s3; for ``file``,
    ``place`` is the absolute folder. ``shown`` is the URL without a password, for people.
    """

    url: str = field(repr=False)
    shown: str
    scheme: str
    place: str = field(repr=False)
    bucket: str | None = None
    prefix: str = ""


def masked(text: str) -> str:
    """``text`` without the password of a URL in it."""
    return re.sub(r"(//[^/@:]*:).*@", r"\1***@", text)


def parse_store(text: str) -> StoreAddress:
    """Take a store's URL apart. Raises ValueError."""
    scheme, separator, place = text.partition("://")
    scheme = "s3" if scheme.lower() == "s3a" else scheme.lower()
    if not separator or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme) or "\0" in text:
        raise ValueError
    if scheme in ("http", "https"):
        raise NotAllowed("s3://BUCKET/PREFIX here, and this address as the endpoint")
    if scheme != "s3":
        if scheme == "file" and (not place.startswith("/") or not place.strip("/")):
            raise NotAllowed("file:// with an absolute folder, as file:///srv/store")
        return StoreAddress(f"{scheme}://{place}", masked(f"{scheme}://{place}"), scheme, place)
    bucket, _, prefix = place.partition("/")
    prefix = prefix.strip("/")
    # https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket) or ".." in bucket or _ip(bucket) is not None:
        raise NotAllowed("a bucket name: 3 to 63 of a-z, 0-9, '.', '-', no IP address")
    if prefix and any(part in ("", ".", "..") for part in prefix.split("/")):
        raise NotAllowed("a prefix without '//', '.' and '..'")
    url = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
    return StoreAddress(url, url, scheme, place, bucket, prefix)


def _ip(host: str) -> bool | None:
    """Whether an IP address is loopback; None if it is none."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return None


def _endpoint(text: str) -> str:
    parts = urlsplit(_word(text))
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.port == 0:
        raise ValueError
    if "@" in parts.netloc:
        raise NotAllowed("no user name or password in it; credentials come from the AWS chain")
    return text.rstrip("/")


def is_loopback(url: str) -> bool:
    """Whether a URL's host can only be this machine."""
    host = urlsplit(url).hostname or ""
    return host == "localhost" or host.endswith(".localhost") or _ip(host) is True


def _listen(text: str) -> Address | None:
    if text.lower() == "off":
        return None
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.port is None or parts.netloc != text or "@" in text:
        raise ValueError
    return Address(parts.hostname, parts.port)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.lower() for name in text.replace(",", " ").split())
    if not names or not all(re.fullmatch(r"[a-z0-9_]([a-z0-9_.-]{0,252}[a-z0-9_])?", name) for name in names):
        raise ValueError
    return names


def _addresses(text: str) -> tuple[str, ...]:
    """Of whole sessions, projects, folders or files, as a person names them."""
    from cachesync.model.address import parse_whole

    found = tuple(str(parse_whole(word)) for word in text.replace(",", " ").split())
    if not found or "" in found:
        raise ValueError
    return found


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError
    return Path(text)


def _word(text: str) -> str:
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError
    return text


def _switch(text: str) -> bool:
    return _SWITCH[text.lower()]


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgtp])(i?b)?|b)?(?:/s)?", text.strip().lower(), re.ASCII)
    if match is None:
        raise ValueError
    number, unit, tail = match.groups("")
    return int(float(number) * (1000 if tail == "b" else 1024) ** _UNITS[unit])


def _rate(text: str) -> int | None:
    if text.lower() in ("unlimited", "none", "off"):
        return None
    if not (rate := _size(text)):
        raise ValueError
    return rate


def duration(least: float) -> Kind:
    """Seconds, at least so many and at most a year."""

    def parse(text: str) -> float:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|[smhd]?)", text.strip().lower(), re.ASCII)
        if match is None or not least <= (seconds := float(match[1]) * _SECONDS[match[2]]) <= _YEAR:
            raise ValueError
        return seconds

    return Kind(parse, f"a time from {least:g}s to 365d, such as 10ms, 5s, 1m, 2h; a plain number is seconds")


def number(least: int, most: int) -> Kind:
    """A whole number between two bounds, both allowed."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,12}", text.strip(), re.ASCII) or not least <= (value := int(text)) <= most:
            raise ValueError
        return value

    return Kind(parse, f"a whole number from {least} to {most}")


def _mask(text: str) -> int:
    # TOML hands 0o27 over as 23: a number without the 0 of an octal one may be anything.
    if not re.fullmatch(r"0[0-7]{0,3}", text.strip(), re.ASCII):
        raise ValueError
    return int(text, 8)


def choice(*words: str) -> Kind:
    """One of ``words``, whatever its case."""
    known = {word.lower(): word for word in words}
    return Kind(lambda text: known[text.lower()], " or ".join(words))


PATH = Kind(_path, "a path")
STORE = Kind(parse_store, "s3://BUCKET/PREFIX, file:///FOLDER, memory:// or another fsspec URL")
URL = Kind(_endpoint, "http://HOST:PORT or https://HOST:PORT")
MASK = Kind(_mask, "an octal number that begins with 0, as text, such as 077, 027 or 022")
SWITCH = Kind(_switch, "true or false")
WORD = Kind(_word, "one word of visible ASCII")
SIZE = Kind(_size, "a size such as 500MB, 10GiB, 0")
RATE = Kind(_rate, "unlimited, or a size for each second such as 20MiB")
LISTEN = Kind(_listen, "HOST:PORT, as 127.0.0.1:8484, or off")
ADDRESSES = Kind(_addresses, "addresses such as projects/P, templates, SESSION/DIR, with commas between them")
NAMES = Kind(_names, "host names without a port, as agents.example.com, with commas between them")
