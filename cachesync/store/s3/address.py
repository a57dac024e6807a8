"""Where the requests for a bucket go, and with which key: as settings and environment say, where they say all of it, or
as botocore finds it. Pure, but for what AWS's files may say (``s3_profile``)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cachesync.model.record import record
from cachesync.store.s3 import profile
from cachesync.store.s3.sign import SCOPE

if TYPE_CHECKING:
    from cachesync.store.s3.client import S3Settings

_DEFAULT_PORTS = {"http": 80, "https": 443}
_SAY_MORE = re.compile(
    r"(https?|all)_proxy|aws_(default_)?profile|aws_credential_expiration|aws_security_token"
    r"|aws_use_(fips|dualstack)_endpoint|aws_s3_us_east_1_regional_endpoint|aws_data_path|aws_sigv4a_.*"
    r"|aws_auth_scheme_preference",
    re.IGNORECASE,
)
"""Variables that botocore hears, and what they mean is its business."""

_BUCKET = re.compile(r"[a-z0-9](-?[a-z0-9]){2,62}")
"""A bucket whose name can be part of a host's, and has no meaning besides: S3 Express and others have "--" in it."""

_REGION = re.compile(r"(af|ap|ca|eu|il|me|mx|sa|us)-[a-z]+-[0-9]")
"""The regions at amazonaws.com; those of governments and of China have other names."""

_PROVIDERS = (_REGION, re.compile(r"us-gov-[a-z]+-[0-9]"), re.compile(r"cn-[a-z]+-[0-9]"))
"""The names of regions that one account can reach, and one key is for."""

_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
_DEFAULT_REGION = "us-east-1"


@record(frozen=True, slots=True)
class Address:
    """``base`` is the path before a key, ``scope`` what a signature is for."""

    scheme: str
    hostname: str
    port: int
    base: str
    scope: str

    @property
    def host(self) -> str:
        """As the header has it."""
        named = self.hostname if ":" not in self.hostname else f"[{self.hostname}]"
        return named if self.port == _DEFAULT_PORTS[self.scheme] else f"{named}:{self.port}"


@record(frozen=True, slots=True)
class Key:
    """What signs, by botocore's names."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


def from_environment(settings: S3Settings, environment: Mapping[str, str]) -> tuple[Address, Key] | None:
    """What botocore would find, where it would only look at these; None if it has to be asked."""
    if any(value and _SAY_MORE.fullmatch(name) for name, value in environment.items()):
        return None
    if (region := profile.region(environment)) is None or (key := _key(settings, environment)) is None:
        return None
    address = _address(settings, environment, region)
    return None if address is None else (address, key)


def _key(settings: S3Settings, environment: Mapping[str, str]) -> Key | None:
    if settings.key is not None:
        return Key(settings.key, settings.secret, settings.token) if settings.secret else None
    access, secret = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    return Key(access, secret, environment.get("AWS_SESSION_TOKEN")) if access and secret else None


def _address(settings: S3Settings, environment: Mapping[str, str], region: str) -> Address | None:
    bucket, region = settings.bucket, settings.region or environment.get("AWS_DEFAULT_REGION") or region
    if not _BUCKET.fullmatch(bucket):
        return None
    if settings.endpoint is None:
        if any(environment.get(name) for name in _ENDPOINTS) or not _REGION.fullmatch(region):
            return None
        host = "s3.amazonaws.com" if region == _DEFAULT_REGION else f"s3.{region}.amazonaws.com"
        host, base = (host, f"/{bucket}/") if settings.path_style else (f"{bucket}.{host}", "/")
        return Address("https", host, _DEFAULT_PORTS["https"], base, f"{region}/{SCOPE}")
    parts = urlsplit(settings.endpoint)
    host = parts.hostname or ""
    if not host or host.endswith(".amazonaws.com") or parts.path.strip("/") or parts.username:
        return None
    port = parts.port or _DEFAULT_PORTS[parts.scheme]
    # At an endpoint of one's own botocore has the bucket in the path, unless it is told not to.
    return Address(parts.scheme, host, port, f"/{bucket}/", f"{region or _DEFAULT_REGION}/{SCOPE}")


def from_endpoint(url: str, scheme: Mapping[str, str]) -> Address | None:
    """The address of a bucket whose URL is this, and of what botocore calls an authentication scheme; None if that is
    not a signature like any other."""
    parts = urlsplit(url)
    if (scheme.get("name"), scheme.get("signingName")) != ("sigv4", "s3") or not scheme.get("signingRegion"):
        return None
    port = parts.port or _DEFAULT_PORTS[parts.scheme]
    return Address(
        parts.scheme, parts.hostname or "", port, parts.path.rstrip("/") + "/", f"{scheme['signingRegion']}/{SCOPE}"
    )


def may_follow(settings: S3Settings, region: str) -> bool:
    """Whether requests may go to ``region``, which the store has named: one of the same provider at AWS, whose host is
    then made of it. At an endpoint of one's own they stay where they are, and are only signed for another region."""
    if settings.endpoint is not None:
        return bool(region)
    now = settings.region or _DEFAULT_REGION
    return any(names.fullmatch(now) and names.fullmatch(region) for names in _PROVIDERS)


def is_private(endpoint: str | None) -> bool:
    """Whether nobody between us and the endpoint can change bytes; then the body need not be in the signature."""
    if endpoint is None:
        return True
    parts = urlsplit(endpoint)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
