"""Signing a request: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html. Pure."""

from __future__ import annotations

import functools
import hashlib
import hmac
import re
from collections.abc import Mapping

ALGORITHM = "AWS4-HMAC-SHA256"
SCOPE = "s3/aws4_request"
"""What follows the region."""

_SPACES = re.compile(r"\s+")


def authorization(verb: str, path: str, asked: str, lines: Mapping[str, str], scope: str, key: str, secret: str) -> str:
    """The ``authorization`` of a request for ``path`` and query ``asked`` with these headers, ``host`` among them,
    all of which are signed. ``scope`` is region, service and ``aws4_request``."""
    order = sorted(lines)
    names = ";".join(order)
    told = "".join([f"{name}:{_SPACES.sub(' ', lines[name].strip())}\n" for name in order])
    canonical = f"{verb}\n{path}\n{asked}\n{told}\n{names}\n{lines['x-amz-content-sha256']}"
    date = lines["x-amz-date"]
    scope = f"{date[:8]}/{scope}"
    text = f"{ALGORITHM}\n{date}\n{scope}\n{hashlib.sha256(canonical.encode('utf-8', 'surrogateescape')).hexdigest()}"
    seal = hmac.digest(_signing_key(secret, scope), text.encode(), "sha256")
    return f"{ALGORITHM} Credential={key}/{scope}, SignedHeaders={names}, Signature={seal.hex()}"


@functools.lru_cache(maxsize=2)
def _signing_key(secret: str, scope: str) -> bytes:
    """The key of one day."""
    seal = f"AWS4{secret}".encode()
    for word in scope.split("/"):
        seal = hmac.digest(seal, word.encode(), "sha256")
    return seal
