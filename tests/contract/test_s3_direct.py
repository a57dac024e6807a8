"""What is read past botocore is what botocore reads, asked for in the same way."""

import contextlib
import os
import time
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.utils import parse_timestamp

from cachesync.errors import CacheSyncError, ObjectNotFound, PreconditionFailed, StoreCredentials
from cachesync.model import Attributes, Version
from cachesync.store import s3_sign
from cachesync.store.s3 import S3Store
from cachesync.store.s3_client import _time
from cachesync.store.s3_wire import Wire
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
    # Whatever the client needed for its first request, it has.
    live = store._client._live
    assert live is not None
    monkeypatch.setattr(live.fs, "_call_s3", None)


def watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The verbs of what goes the short way from here on."""
    asked: list[str] = []
    real = Wire.ask

    def ask(wire, verb, *rest):
        asked.append(verb)
        return real(wire, verb, *rest)

    monkeypatch.setattr(Wire, "ask", ask)
    return asked


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-28T14:29:58.123Z",
        "2026-11-28T14:29:58Z",
        "2026-11-28T14:29:58",
        "2026-11-28T14:29:58+02:00",
        "Wed, 12 Oct 2009 17:50:00 GMT",
        "1700000000",
    ],
)
def test_times_of_a_listing_are_what_botocore_reads(text):
    assert _time(text) == parse_timestamp(text)


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
        assert store.head(key) == first.info
        again = store.get(key, version=stored.version)
        assert again.info == first.info
        assert b"".join(again.chunks) == data
        part = store.get(key, version=stored.version, start=10, length=99)
        assert part.info.version == first.info.version
        assert part.info.size == len(data)
        assert b"".join(part.chunks) == data[10:109]
        attributes = Attributes("text/x-odd", {"mtime": "2.5", "two-spaces": "a  b", "artifact-type": "plan é ☃"})
        written = store.put(key, Bytes(data[1:]), attributes, expect=stored.version)
        found = store.head(key)
        assert (found.version, found.metadata, found.sha256) == (written.version, attributes.metadata, written.sha256)
        store.delete(key, expect=written.version)
        with pytest.raises(ObjectNotFound):
            store.head(key)


@pytest.mark.parametrize("kind", ["seaweed", "moto"])
def test_tags_are_kept(request, bucket, monkeypatch, kind):
    server = request.getfixturevalue(kind)
    with opened(server, bucket) as store:
        store.check_conditional()
        past_botocore(store, monkeypatch)
        store.put("k", Bytes(b"x"), Attributes("text/plain", {}, {"kind": "log", "a +b=": "c/d +"}), expect=None)
        monkeypatch.undo()
        assert store._uploads.attributes(store.head("k")).tags == {"kind": "log", "a +b=": "c/d +"}


def test_what_the_store_refuses_is_told_alike(seaweed, bucket, monkeypatch):
    with opened(seaweed, bucket) as store:
        store.put("k", Bytes(b"x"), Attributes("text/plain", {}), expect=None)
        list(store.get("k").chunks)
        past_botocore(store, monkeypatch)
        with pytest.raises(PreconditionFailed):
            store.get("k", version=Version("0" * 32))
        with pytest.raises(ObjectNotFound):
            store.get("no such thing")
        with pytest.raises(PreconditionFailed):
            store.put("k", Bytes(b"y"), Attributes("text/plain", {}), expect=None)
        with pytest.raises(PreconditionFailed):
            store.put("k", Bytes(b"y"), Attributes("text/plain", {}), expect=Version("0" * 32))


@pytest.mark.parametrize("token", [None, "to/ken=="])
@pytest.mark.parametrize(
    ("method", "args", "query"),
    [
        ("get_object", {"IfMatch": '"abc"', "Range": "bytes=1-2"}, ""),
        ("head_object", {"VersionId": "a/b+c=~"}, "versionId=a%2Fb%2Bc%3D~"),
        ("put_object", {"Metadata": {"a": " b   c ", "B": "=?UTF-8?B?w6k=?="}, "Body": b"x", "IfNoneMatch": "*"}, ""),
        ("upload_part", {"UploadId": "u/1", "PartNumber": 10, "Body": b"x"}, "partNumber=10&uploadId=u%2F1"),
    ],
)
@pytest.mark.parametrize("signed", [True, False])
def test_it_is_signed_as_botocore_signs(method, args, query, token, signed):
    path = "/a%20b/%C3%A9~"
    verb = s3_sign.VERBS[method]
    credentials = Credentials("AKIDEXAMPLE", "secret/key+", token)
    lines = s3_sign.headers(
        method, args, date=time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()), token=token, signed=signed
    )
    sent = {name: value for name, value in lines.items() if name not in {"x-amz-date", "x-amz-security-token"}}
    url = "https://b.s3.eu-west-1.amazonaws.com" + path + (f"?{query}" if query else "")
    request = AWSRequest(verb, url, sent, args.get("Body", b""))
    request.context["client_config"] = Config(s3={"payload_signing_enabled": signed or "Body" not in args})
    S3SigV4Auth(credentials, "s3", "eu-west-1").add_auth(request)
    lines |= {"host": "b.s3.eu-west-1.amazonaws.com", "x-amz-date": request.headers["X-Amz-Date"]}
    assert s3_sign.query(args) == query
    said = s3_sign.authorization(
        verb, path, query, lines, "eu-west-1/s3/aws4_request", credentials.access_key, credentials.secret_key
    )
    assert said == request.headers["Authorization"]


def test_what_is_not_plain_is_left_to_botocore():
    assert not s3_sign.is_plain("copy_object", {"Key": "k"})
    assert not s3_sign.is_plain("get_object", {"Key": "k", "ExpectedBucketOwner": "1"})


def test_bodies_are_in_the_signature_where_others_may_change_them(seaweed, bucket, monkeypatch):
    with opened(seaweed, bucket) as store:
        store.check_conditional()
        assert not store._client.direct._signed  # loopback
        monkeypatch.setattr(store._client.direct, "_signed", True)
        past_botocore(store, monkeypatch)
        store.put("k", Bytes(b"x" * 1000), Attributes("text/plain", {}), expect=None)
        assert b"".join(store.get("k").chunks) == b"x" * 1000


def test_a_redirect_is_left_to_botocore(seaweed, bucket, monkeypatch):
    with opened(seaweed, bucket) as store:
        store.put("k", Bytes(b"x"), Attributes("text/plain", {}), expect=None)
        asked = []

        def moved(wire, verb, *rest):
            asked.append(verb)
            reply = real(wire, verb, *rest)
            reply.status = 301
            return reply

        real = Wire.ask
        monkeypatch.setattr(Wire, "ask", moved)
        assert store.head("k").size == 1
        assert store.head("k").size == 1
        assert asked == ["HEAD"]  # and botocore from then on


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY"])
def test_a_proxy_is_left_to_botocore(seaweed, bucket, monkeypatch, name):
    where = urlsplit(seaweed.endpoint)
    monkeypatch.setenv(name, f"http://{where.netloc}")  # a server takes what is meant for a proxy as well
    monkeypatch.setenv("no_proxy", "")
    asked = watched(monkeypatch)
    seaweed.make_bucket(bucket)
    with contextlib.closing(S3Store(seaweed.settings(bucket))) as store, contextlib.suppress(CacheSyncError):
        store.put("k", Bytes(b"x"), Attributes("text/plain", {}), expect=None)
    assert not asked


def test_without_credentials_botocore_is_asked(seaweed, bucket, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    asked = watched(monkeypatch)
    settings = replace(seaweed.settings(bucket), key=None, secret=None)
    with contextlib.closing(S3Store(settings)) as store, pytest.raises(CacheSyncError):
        store.head("k")
    assert not asked


def test_refused_credentials_are_asked_for_again(seaweed, bucket):
    with opened(seaweed, bucket) as store:
        store.put("k", Bytes(b"x"), Attributes("text/plain", {}), expect=None)
        direct = store._client.direct
        route = direct._route
        assert route is not None
        wrong = type(route.credentials)(access_key="AKIDWRONG", secret_key="x", token=None)
        direct._route = replace(route, credentials=wrong)
        with pytest.raises(StoreCredentials):
            store.put("l", Bytes(b"x"), Attributes("text/plain", {}), expect=None)
        assert store.head("k").size == 1
        assert direct._route.fs is not route.fs
