"""What is read past botocore is what botocore reads, asked for in the same way."""

import contextlib
import os

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from cachesync.errors import ObjectNotFound, PreconditionFailed
from cachesync.model import Attributes, Version
from cachesync.store.s3 import S3Store
from cachesync.store.s3_shortcut import sign
from tests.bodies import Bytes
from tests.servers import MotoServer, SeaweedServer

KEYS = ["a", "a b/+é~(%)'!*.txt", "%2F%25/ü☃", "x=1&y=2?z#.json"]


@contextlib.contextmanager
def opened(server: SeaweedServer | MotoServer, bucket: str):
    server.make_bucket(bucket)
    with contextlib.closing(S3Store(server.settings(bucket))) as store:
        yield store


def past_botocore(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on botocore must not be asked."""
    live = store._client._live
    assert live is not None
    monkeypatch.setattr(live.fs, "_call_s3", None)


@pytest.mark.parametrize("kind", ["seaweed", "moto"])
@pytest.mark.parametrize("key", KEYS)
def test_both_ways_lead_to_the_same(request, bucket, monkeypatch, kind, key):
    server = request.getfixturevalue(kind)
    data = os.urandom(100_000)
    with opened(server, bucket) as store:
        attributes = Attributes("text/x-odd", {"mtime": "1.5", "artifact-type": "plan é ☃"})
        stored = store.put(key, Bytes(data), attributes, expect=None)
        first = store.get(key)
        assert b"".join(first.chunks) == data
        past_botocore(store, monkeypatch)
        again = store.get(key, version=stored.version)
        assert again.info == first.info
        assert b"".join(again.chunks) == data
        part = store.get(key, version=stored.version, start=10, length=99)
        assert part.info.version == first.info.version
        assert part.info.size == len(data)
        assert b"".join(part.chunks) == data[10:109]


def test_what_the_store_refuses_is_told_alike(seaweed, bucket, monkeypatch):
    with opened(seaweed, bucket) as store:
        store.put("k", Bytes(b"x"), Attributes("text/plain", {}), expect=None)
        list(store.get("k").chunks)
        past_botocore(store, monkeypatch)
        with pytest.raises(PreconditionFailed):
            store.get("k", version=Version("0" * 32))
        with pytest.raises(ObjectNotFound):
            store.get("no such thing")


@pytest.mark.parametrize("token", [None, "to/ken=="])
def test_it_is_signed_as_botocore_signs(token):
    url = "https://b.s3.eu-west-1.amazonaws.com/a%20b/%C3%A9~"
    credentials = Credentials("AKIDEXAMPLE", "secret/key+", token)
    request = AWSRequest("GET", url, {"If-Match": '"abc"', "Range": "bytes=1-2", "x-amz-checksum-mode": "ENABLED"})
    S3SigV4Auth(credentials, "s3", "eu-west-1").add_auth(request)
    headers = {name.lower(): value for name, value in request.headers.items()}
    expected = headers.pop("authorization")
    assert sign(url, headers, "eu-west-1/s3/aws4_request", credentials.access_key, credentials.secret_key) == expected
