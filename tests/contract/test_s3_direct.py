"""What is read past botocore is what botocore reads, asked for in the same way."""

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.utils import parse_timestamp

from cachesync.model.errors import CacheSyncError, ObjectNotFound, PreconditionFailed, StoreCredentials
from cachesync.model.values import Attributes, Version
from cachesync.store.s3 import calls, sign
from cachesync.store.s3 import credentials as s3_credentials
from cachesync.store.s3 import direct as s3_direct
from cachesync.store.s3.address import Key, from_environment
from cachesync.store.s3.client import S3Client, S3Settings
from cachesync.store.s3.library import Library
from cachesync.store.s3.store import S3Store
from cachesync.store.s3.wire import Wire
from cachesync.store.s3.xml import moment
from tests.bodies import Bytes
from tests.servers import MotoServer, SeaweedServer, by_botocore

KEYS = ["a", "a b/+é~(%)'!*.txt", "%2F%25/ü☃", "x=1&y=2?z#.json"]


@contextlib.contextmanager
def opened(server: SeaweedServer | MotoServer, bucket: str):
    server.make_bucket(bucket)
    with contextlib.closing(S3Store(server.settings(bucket))) as store:
        yield store


def past_botocore(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on botocore must not be asked for anything but its credentials."""
    monkeypatch.setattr(Library, "request", None)


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
    assert moment(text) == parse_timestamp(text)


@pytest.mark.parametrize("kind", ["seaweed", "moto"])
@pytest.mark.parametrize("key", KEYS)
def test_both_ways_lead_to_the_same(request, bucket, monkeypatch, kind, key):
    server = request.getfixturevalue(kind)
    data = os.urandom(100_000)
    with opened(server, bucket) as store:
        attributes = Attributes("text/x-odd", {"mtime": "1.5", "artifact-type": "plan é ☃"})
        with monkeypatch.context() as patch:
            by_botocore(patch)
            stored = store.put(key, Bytes(data), attributes, expect=None)
            first = store.get(key)
            assert b"".join(first.chunks) == data
            listed = list(store.list(""))
        past_botocore(store, monkeypatch)
        assert list(store.list("")) == listed
        assert [info.key for info in listed] == [key]
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


PARTS = {"Parts": [{"PartNumber": 1, "ETag": '"e"', "ChecksumSHA256": "a+/="}]}


@pytest.mark.parametrize("token", [None, "to/ken=="])
@pytest.mark.parametrize(
    ("method", "args", "query"),
    [
        ("get_object", {"IfMatch": '"abc"', "Range": "bytes=1-2"}, ""),
        ("head_object", {"VersionId": "a/b+c=~"}, "versionId=a%2Fb%2Bc%3D~"),
        ("put_object", {"Metadata": {"a": " b   c ", "B": "=?UTF-8?B?w6k=?="}, "Body": b"x", "IfNoneMatch": "*"}, ""),
        ("upload_part", {"UploadId": "u/1", "PartNumber": 10, "Body": b"x"}, "partNumber=10&uploadId=u%2F1"),
        ("create_multipart_upload", {"ChecksumAlgorithm": "SHA256", "ContentType": "a/b"}, "uploads="),
        (
            "complete_multipart_upload",
            {"UploadId": "u", "MultipartUpload": {"Parts": [{"PartNumber": 1}]}},
            "uploadId=u",
        ),
        (
            "list_objects_v2",
            {"Prefix": "a/é b", "MaxKeys": 1000, "Delimiter": "/", "ContinuationToken": "x/y=="},
            "continuation-token=x%2Fy%3D%3D&delimiter=%2F&encoding-type=url&list-type=2&max-keys=1000&prefix=a%2F%C3%A9%20b",
        ),
    ],
)
@pytest.mark.parametrize("signed", [True, False])
def test_it_is_signed_as_botocore_signs(method, args, query, token, signed):
    path = "/a%20b/%C3%A9~"
    verb, _, asked, body = calls.request(method, "/", {"Key": "k"} | args)
    credentials = Credentials("AKIDEXAMPLE", "secret/key+", token)
    lines = calls.headers(
        method, args, body, date=time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()), token=token, signed=signed
    )
    sent = {name: value for name, value in lines.items() if name not in {"x-amz-date", "x-amz-security-token"}}
    url = "https://b.s3.eu-west-1.amazonaws.com" + path + (f"?{query}" if query else "")
    request = AWSRequest(verb, url, sent, body)
    request.context["client_config"] = Config(s3={"payload_signing_enabled": signed or not body})
    S3SigV4Auth(credentials, "s3", "eu-west-1").add_auth(request)
    lines |= {"host": "b.s3.eu-west-1.amazonaws.com", "x-amz-date": request.headers["X-Amz-Date"]}
    assert asked == query
    said = sign.authorization(
        verb, path, query, lines, "eu-west-1/s3/aws4_request", credentials.access_key, credentials.secret_key
    )
    assert said == request.headers["Authorization"]


def test_what_is_not_plain_is_left_to_botocore():
    assert not calls.is_known("get_object_tagging", {"Key": "k"})
    assert not calls.is_known("get_object", {"Key": "k", "ExpectedBucketOwner": "1"})


def test_bodies_are_in_the_signature_where_others_may_change_them(seaweed, bucket, monkeypatch):
    with opened(seaweed, bucket) as store:
        store.check_conditional()
        assert not store._client.direct._signed  # loopback
        monkeypatch.setattr(store._client.direct, "_signed", True)
        past_botocore(store, monkeypatch)
        store.put("k", Bytes(b"x" * 1000), Attributes("text/plain", {}), expect=None)
        assert b"".join(store.get("k").chunks) == b"x" * 1000


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


@pytest.mark.parametrize("found", [True, False])
def test_refused_credentials_are_asked_for_again(seaweed, bucket, monkeypatch, found):
    if not found:
        monkeypatch.setattr(s3_direct, "from_environment", lambda *_: None)
    with opened(seaweed, bucket) as store:
        store.put("k", Bytes(b"x"), Attributes("text/plain", {}), expect=None)
        direct = store._client.direct
        route = direct._route
        assert route is not None
        assert (route.fs is None) is found
        wrong = Key("AKIDWRONG", "x")
        direct._route = replace(route, credentials=wrong)
        with pytest.raises(StoreCredentials):
            store.put("l", Bytes(b"x"), Attributes("text/plain", {}), expect=None)
        assert store.head("k").size == 1
        now = direct._route
        assert now is not None
        assert now.fs not in (None, route.fs)


@pytest.fixture
def nothing_said(no_aws: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Neither files nor variables say anything."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        no_aws.delenv(name, raising=False)
    return no_aws


AWS = S3Settings("buck-et", region="eu-west-1", key="k", secret="s", token="t")
OWN = S3Settings("buck-et", "http://127.0.0.1:9000", key="k", secret="s")


@pytest.mark.parametrize(
    "settings",
    [
        AWS,
        replace(AWS, region="us-east-1"),
        replace(AWS, region="ap-southeast-5"),
        replace(AWS, path_style=True),
        replace(AWS, region="us-east-1", path_style=True),
        OWN,
        replace(OWN, region="x", path_style=True),
        replace(OWN, endpoint="https://minio.example:443/"),
        replace(OWN, endpoint="http://[::1]:80"),
        replace(OWN, endpoint="http://LOCALHOST:9000"),
    ],
    ids=str,
)
def test_it_leads_where_botocore_leads(nothing_said, settings):
    found = from_environment(settings, os.environ)
    assert found is not None
    client = S3Client(settings)
    way = client.library.run(client.library.way("find", "the bucket"))
    client.close()
    address, key = found
    assert (address, way.credentials[:3]) == (way.address, (key.access_key, key.secret_key, key.token))


def test_the_key_is_what_botocore_finds(nothing_said):
    settings = replace(AWS, key=None, secret=None, token=None)
    assert from_environment(settings, os.environ) is None
    nothing_said.setenv("AWS_ACCESS_KEY_ID", "ours")
    assert from_environment(settings, os.environ) is None
    nothing_said.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    nothing_said.setenv("AWS_SESSION_TOKEN", "token")
    client = S3Client(settings)
    told = s3_credentials.find(client)
    assert told == client.library.run(s3_credentials._ask_chain(client, renew=False))
    way = client.library.run(client.library.way("find", "the bucket"))
    client.close()
    found = from_environment(settings, os.environ)
    assert found == (way.address, Key("ours", "secret", "token"))
    assert way.credentials[:3] == ("ours", "secret", "token")
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("https_proxy", "http://127.0.0.1:1"),
        ("HTTP_PROXY", "http://127.0.0.1:1"),
        ("AWS_PROFILE", "other"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
        ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1"),
        ("AWS_USE_FIPS_ENDPOINT", "true"),
        ("AWS_USE_DUALSTACK_ENDPOINT", "true"),
        ("AWS_S3_US_EAST_1_REGIONAL_ENDPOINT", "regional"),
        ("AWS_CREDENTIAL_EXPIRATION", "2026-11-28T00:00:00Z"),
        ("AWS_SECURITY_TOKEN", "old"),
    ],
)
def test_what_else_botocore_hears_is_left_to_it(nothing_said, name, value):
    nothing_said.setenv(name, "")
    assert from_environment(AWS, os.environ) is not None
    nothing_said.setenv(name, value)
    assert from_environment(AWS, os.environ) is None


def test_an_endpoint_of_ours_is_not_the_environments(nothing_said):
    nothing_said.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    found = from_environment(OWN, os.environ)
    assert found is not None
    assert found[0].port == 9000


FILES = ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "says",
    [
        "endpoint_url = http://127.0.0.1:1",
        "s3 =\n  addressing_style = virtual",
        "s3 =\n  max_concurrent_requests = 10\n  use_dualstack_endpoint = true",
        "s3 = nothing",
        "s3 =\n  region = nowhere",
        "services = mine",
        "services =\n  region = nowhere",
        "role_arn = arn:aws:iam::1:role/r",
        "no setting",
        "[default]",
        "\udcff = 1",
    ],
)
def test_files_that_say_more_are_left_to_botocore(nothing_said, tmp_path, name, says):
    (tmp_path / "said").write_text(f"[default]\nregion = eu-west-3\n{says}\n", errors="surrogateescape")
    nothing_said.setenv(name, str(tmp_path / "said"))
    assert from_environment(AWS, os.environ) is None


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("section", ["default", "profile default", "profile other", "other"])
@pytest.mark.parametrize("variable", [None, "AWS_DEFAULT_REGION"])
def test_files_that_say_no_more_than_a_region_are_read(nothing_said, tmp_path, name, section, variable):
    if variable is not None:
        nothing_said.setenv(variable, "eu-north-1")
    said = "output = json\nregion = eu-west-3\naws_access_key_id = a\naws_secret_access_key = b\n"
    said += "s3 =\n  max_queue_size = 1\n"
    (tmp_path / "said").write_text(f"[{section}]\n{said}[third]\nrole_arn = r\n")
    nothing_said.setenv(name, str(tmp_path / "said"))
    settings = replace(AWS, region=None)
    found = from_environment(settings, os.environ)
    client = S3Client(settings)
    way = client.library.run(client.library.way("find", "the bucket"))
    client.close()
    if found is None:  # nobody names a region: what is taken then is botocore's
        assert section not in ("default", "profile default") or (section, name) == ("profile default", FILES[1])
        assert variable is None
    else:
        assert (found[0], way.credentials[:3]) == (way.address, ("k", "s", "t"))


@pytest.mark.parametrize(
    "settings",
    [
        replace(AWS, region=None),
        replace(AWS, region="cn-north-1"),
        replace(AWS, region="us-gov-west-1"),
        replace(AWS, bucket="with.dots"),
        replace(AWS, bucket="fast--use1-az4--x-s3"),
        replace(AWS, bucket="arn:aws:s3:eu-west-1:1:accesspoint/a"),
        replace(AWS, secret=None),
        replace(OWN, endpoint="https://s3.eu-west-1.amazonaws.com"),
        replace(OWN, endpoint="http://127.0.0.1:9000/under/this"),
        replace(OWN, endpoint="http://user:word@127.0.0.1:9000"),
    ],
    ids=str,
)
def test_addresses_of_another_kind_are_left_to_botocore(nothing_said, settings):
    assert from_environment(settings, os.environ) is None


EVERY_VERB = """
import os, sys
from cachesync.model.values import Attributes
from cachesync.store.s3.store import S3Store
from cachesync.store.s3.client import S3Settings
from tests.bodies import Bytes
bucket, endpoint = sys.argv[1:]
store = S3Store(S3Settings(bucket, endpoint, "us-east-1"))
plain = Attributes("text/plain", {"note": "é ☃"})
big = Bytes(os.urandom(11 << 20), 5 << 20)
assert store.traits.versioned is False
small = store.put("a+b ☃/k", Bytes(b"x"), plain, expect=None)
large = store.put("big", big, plain, expect=None)
copied = store.copy("big", "copy", source_version=large.version, expect=None)
assert b"".join(store.get("copy").chunks) == big.data
assert [(found.key, found.size) for found in store.list("")] == [("a+b ☃/k", 1), ("big", 11 << 20), ("copy", 11 << 20)]
assert [found.key for found in store.list("", shallow=True)] == ["a+b ☃/", "big", "copy"]
store.delete("copy", expect=copied.version)
store.close()
slow = {"botocore", "s3fs", "fsspec", "aiohttp", "asyncio"} & sys.modules.keys()
assert not slow, slow
"""


def test_botocore_is_imported_by_who_needs_it(seaweed, bucket, nothing_said):
    seaweed.make_bucket(bucket)
    done = subprocess.run(
        [sys.executable, "-c", EVERY_VERB, bucket, seaweed.endpoint],
        env=os.environ | {"AWS_ACCESS_KEY_ID": seaweed.key, "AWS_SECRET_ACCESS_KEY": seaweed.secret},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


FLUSH = """
import sys
from cachesync.cli import main
assert main(["flush", "s"]) == 0
slow = {"botocore", "s3fs", "fsspec", "aiohttp", "asyncio", "watchdog", "tenacity", "tomllib"}
slow = (slow | {"http.client", "ssl", "email"}) & sys.modules.keys()
assert not slow, slow
"""


def test_a_flush_without_a_daemon_imports_what_it_needs(seaweed, bucket, nothing_said, tmp_path):
    seaweed.make_bucket(bucket)
    (tmp_path / "root" / "s").mkdir(parents=True)
    (tmp_path / "root" / "s" / "a.txt").write_text("text")
    env = os.environ | {
        "AWS_ACCESS_KEY_ID": seaweed.key, "AWS_SECRET_ACCESS_KEY": seaweed.secret,
        "CACHESYNC_ROOT": str(tmp_path / "root"), "CACHESYNC_STORE": f"s3://{bucket}",
        "CACHESYNC_ENDPOINT": seaweed.endpoint, "CACHESYNC_REGION": "us-east-1",
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", FLUSH], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
