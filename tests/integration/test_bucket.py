"""Buckets of real servers: compared, set up, tampered with, denied."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from botocore import xform_name

from cachesync.model.errors import NoSuchBucket, ObjectNotFound, PreconditionFailed, StoreDenied, StoreUnreachable
from cachesync.model.values import Attributes
from cachesync.ops.bucket import policies
from cachesync.ops.bucket.asking import Bucket
from cachesync.ops.bucket.desired import Setting, State, Wanted
from cachesync.ops.bucket.policies import RIGHTS
from cachesync.store.s3.client import S3Client, S3Settings
from cachesync.store.s3.store import S3Store
from tests.bodies import MIB, Bytes
from tests.faults.proxy import ACCESS_DENIED, NO_SUCH_BUCKET, Record, answer, proxied
from tests.servers import MotoServer, SeaweedServer, Server, closed_port

EXACTLY = {"log_days": 30, "archive_days": 90, "version_days": 30, "upload_days": 7}


class Bench:
    """A bucket, and how it is reached. ``wanted`` says https: moto lets its bucket be asked all the same."""

    def __init__(self, server: Server, bucket: str, endpoint: str = "") -> None:
        self.s3 = server.client()
        self.settings: S3Settings = server.settings(bucket, **({"endpoint": endpoint} if endpoint else {}))
        self.wanted = Wanted(bucket, endpoint="https://store.example.org", archive_days=90)
        self.bucket = bucket

    def ask(self, *, init: bool, apply: bool = False, **changes: Any) -> dict[str, Setting]:
        client = S3Client(self.settings)
        try:
            asked = Bucket(client, replace(self.wanted, **changes))
            return {row.name: row for row in (asked.init(apply=apply) if init else asked.check())}
        finally:
            client.close()

    def init(self, **changes: Any) -> dict[str, State]:
        return {name: row.state for name, row in self.ask(init=True, apply=True, **changes).items()}

    def check(self, **changes: Any) -> dict[str, State]:
        return {name: row.state for name, row in self.ask(init=False, **changes).items()}


@pytest.fixture
def moto_bench(moto: MotoServer, bucket: str) -> Iterator[Bench]:
    bench = Bench(moto, bucket)
    yield bench
    bench.s3.close()


@pytest.fixture
def seaweed_bench(seaweed: SeaweedServer, bucket: str) -> Iterator[Bench]:
    bench = Bench(seaweed, bucket)
    bench.wanted = replace(bench.wanted, endpoint=seaweed.endpoint, archive_days=None)
    yield bench
    bench.s3.close()


def states(found: dict[str, State], state: State) -> set[str]:
    return {name for name, is_state in found.items() if is_state is state}


SETTINGS = {
    "public access",
    "encryption",
    "versioning",
    "TLS only",
    "unfinished uploads",
    "past versions",
    "logs",
    "archive",
}


def test_a_plan_changes_nothing(moto_bench: Bench):
    plan = moto_bench.ask(init=True)
    assert {name for name, row in plan.items() if row.state is State.DIFFERS} == SETTINGS | {"bucket"}
    assert plan["access logs"].state is State.LEFT_OUT
    with pytest.raises(moto_bench.s3.exceptions.ClientError):
        moto_bench.s3.head_bucket(Bucket=moto_bench.bucket)
    moto_bench.s3.create_bucket(Bucket=moto_bench.bucket)
    assert {name for name, row in moto_bench.ask(init=True).items() if row.state is State.DIFFERS} == SETTINGS
    assert "Status" not in moto_bench.s3.get_bucket_versioning(Bucket=moto_bench.bucket)


def test_set_up_once_and_then_nothing_is_left_to_do(moto_bench: Bench):
    assert states(moto_bench.init(), State.SET) == SETTINGS | {"bucket"}
    assert states(moto_bench.check(), State.OK) == SETTINGS
    again = moto_bench.init()
    assert states(again, State.OK) == SETTINGS | {"bucket"}
    rules = moto_bench.s3.get_bucket_lifecycle_configuration(Bucket=moto_bench.bucket)["Rules"]
    assert len(rules) == 8
    statements = json.loads(moto_bench.s3.get_bucket_policy(Bucket=moto_bench.bucket)["Policy"])["Statement"]
    assert [row["Sid"] for row in statements] == ["CachesyncTlsOnly"]


def test_a_real_server_gets_what_it_can_have(seaweed_bench: Bench):
    first = seaweed_bench.ask(init=True, apply=True)
    found = {name: row.state for name, row in first.items()}
    assert states(found, State.SET) == SETTINGS - {"public access", "TLS only", "archive"} | {"bucket"}
    assert states(found, State.UNSUPPORTED) == {"public access"}
    assert "does not support" in first["public access"].note
    assert "plain http" in first["TLS only"].note
    assert "GLACIER" in first["archive"].note
    # It still works: what was set locks nobody out.
    seaweed_bench.s3.put_object(Bucket=seaweed_bench.bucket, Key="sessions/s/a", Body=b"1")
    checked = seaweed_bench.check()
    assert not states(checked, State.DIFFERS)
    assert not states(seaweed_bench.init(), State.SET)


def test_what_a_real_server_refuses_is_told_and_the_rest_is_done(seaweed_bench: Bench):
    found = seaweed_bench.ask(init=True, apply=True, archive_days=90, log_bucket="elsewhere")
    for name in ("archive", "access logs"):
        assert found[name].state is State.UNSUPPORTED
        assert "does not support" in found[name].note
    assert found["logs"].state is State.SET
    rules = seaweed_bench.s3.get_bucket_lifecycle_configuration(Bucket=seaweed_bench.bucket)["Rules"]
    assert not any("Transitions" in rule for rule in rules)
    assert len(rules) == 7


def test_each_setting_that_somebody_changes_is_named(moto_bench: Bench):
    moto_bench.init()
    s3, name = moto_bench.s3, {"Bucket": moto_bench.bucket}
    rules = s3.get_bucket_lifecycle_configuration(**name)["Rules"]
    s3.put_bucket_versioning(**name, VersioningConfiguration={"Status": "Suspended"})
    assert states(moto_bench.check(), State.DIFFERS) == {"versioning"}
    s3.delete_public_access_block(**name)
    s3.delete_bucket_encryption(**name)
    s3.delete_bucket_policy(**name)
    kept = [rule for rule in rules if "logs" not in rule["ID"]]
    s3.put_bucket_lifecycle_configuration(**name, LifecycleConfiguration={"Rules": kept})
    rows = moto_bench.ask(init=False)
    differing = {setting: row for setting, row in rows.items() if row.state is State.DIFFERS}
    assert differing.keys() == {"versioning", "public access", "encryption", "TLS only", "logs"}
    assert all("bucket init --apply" in row.note for row in differing.values())
    assert states(moto_bench.init(), State.SET) == set(differing)
    assert not states(moto_bench.check(), State.DIFFERS)


def test_what_is_of_others_stays(moto_bench: Bench):
    s3, name = moto_bench.s3, {"Bucket": moto_bench.bucket}
    s3.create_bucket(**name)
    rule = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "x/"}, "Expiration": {"Days": 1}}
    statement = {
        "Sid": "Theirs", "Effect": "Deny", "Principal": "*", "Action": "s3:DeleteBucket",
        "Resource": f"arn:aws:s3:::{moto_bench.bucket}",
    }  # fmt: skip
    s3.put_bucket_lifecycle_configuration(**name, LifecycleConfiguration={"Rules": [rule]})
    s3.put_bucket_policy(**name, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    moto_bench.init()
    moto_bench.init(log_days=10)
    rules = s3.get_bucket_lifecycle_configuration(**name)["Rules"]
    assert rules[0] == rule
    assert [row["Expiration"] for row in rules if "logs" in row["ID"]] == [{"Days": 10}]
    statements = json.loads(s3.get_bucket_policy(**name)["Policy"])["Statement"]
    assert statements[0] == statement
    assert [row["Sid"] for row in statements] == ["Theirs", "CachesyncTlsOnly"]


def test_two_stores_in_one_bucket_keep_apart(moto_bench: Bench):
    moto_bench.init(prefix="a")
    moto_bench.init(prefix="b", log_days=5)
    for changes in ({"prefix": "a"}, {"prefix": "b", "log_days": 5}):
        assert not states(moto_bench.check(**changes), State.DIFFERS)


def test_never_takes_a_rule_of_ours_away(moto_bench: Bench):
    moto_bench.init()
    never = dict.fromkeys(("log_days", "archive_days", "version_days", "upload_days"), 0)
    assert states(moto_bench.init(**never), State.SET) == {"logs", "archive", "past versions", "unfinished uploads"}
    with pytest.raises(moto_bench.s3.exceptions.ClientError, match="NoSuchLifecycle"):
        moto_bench.s3.get_bucket_lifecycle_configuration(Bucket=moto_bench.bucket)


def test_access_logs_go_to_a_bucket_that_takes_them(moto_bench: Bench):
    s3, target = moto_bench.s3, f"{moto_bench.bucket}-log"
    refused = moto_bench.ask(init=True, apply=True, log_bucket=target)["access logs"]
    assert refused.state is State.REFUSED
    s3.create_bucket(Bucket=target)
    refused = moto_bench.ask(init=True, apply=True, log_bucket=target)["access logs"]
    assert refused.state is State.REFUSED
    assert "logging.s3.amazonaws.com" in refused.note
    delivery = {
        "Effect": "Allow", "Principal": {"Service": "logging.s3.amazonaws.com"}, "Action": "s3:PutObject",
        "Resource": f"arn:aws:s3:::{target}/*",
    }  # fmt: skip
    s3.put_bucket_policy(Bucket=target, Policy=json.dumps({"Version": "2012-10-17", "Statement": [delivery]}))
    assert states(moto_bench.init(log_bucket=target), State.SET) == {"access logs"}
    assert moto_bench.check(log_bucket=target)["access logs"] is State.OK


def test_a_bucket_is_made_in_its_region(moto_bench: Bench):
    moto_bench.settings = replace(moto_bench.settings, region="eu-central-1")
    moto_bench.init()
    found = moto_bench.s3.get_bucket_location(Bucket=moto_bench.bucket)
    assert found["LocationConstraint"] == "eu-central-1"


# -- what can go wrong -------------------------------------------------------------------------------------------------


def test_without_a_bucket_there_is_nothing_to_compare(moto_bench: Bench):
    with pytest.raises(NoSuchBucket, match="init --apply makes it"):
        moto_bench.check()


def test_nobody_there(moto_bench: Bench):
    moto_bench.settings = replace(moto_bench.settings, endpoint=closed_port())
    with pytest.raises(StoreUnreachable):
        moto_bench.check()


def test_a_bucket_of_somebody_else(moto: MotoServer, moto_bench: Bench, bucket: str):
    with proxied(moto.endpoint) as proxy:
        proxy.add(ACCESS_DENIED, "HeadBucket")
        with pytest.raises(StoreDenied, match="somebody else's"):
            Bench(moto, bucket, proxy.endpoint).init()


def test_what_may_not_be_read_is_not_replaced(moto: MotoServer, moto_bench: Bench, bucket: str):
    moto_bench.s3.create_bucket(Bucket=bucket)
    with proxied(moto.endpoint) as proxy:
        proxy.add(ACCESS_DENIED, "GetBucketLifecycle")
        bench = Bench(moto, bucket, proxy.endpoint)
        found = bench.ask(init=True, apply=True)
        assert proxy.count("PutBucketLifecycle") == 0
    for name in ("logs", "archive", "past versions", "unfinished uploads"):
        assert found[name].state is State.REFUSED
        assert "s3:GetLifecycleConfiguration" in found[name].note
    assert found["versioning"].state is State.SET


def test_what_may_not_be_set_is_told_and_the_rest_is_done(moto: MotoServer, moto_bench: Bench, bucket: str):
    moto_bench.s3.create_bucket(Bucket=bucket)
    with proxied(moto.endpoint) as proxy:
        proxy.add(ACCESS_DENIED, "PutBucket", times=1)
        found = Bench(moto, bucket, proxy.endpoint).ask(init=True, apply=True)
    assert found["public access"].state is State.REFUSED
    assert "s3:PutBucketPublicAccessBlock" in found["public access"].note
    assert {name for name, row in found.items() if row.state is State.SET} == SETTINGS - {"public access"}


def test_a_policy_that_is_no_json_is_left_alone(moto: MotoServer, moto_bench: Bench, bucket: str):
    moto_bench.init()
    with proxied(moto.endpoint) as proxy:
        proxy.add(answer(200, "x"), "GetBucketPolicy")
        found = Bench(moto, bucket, proxy.endpoint).ask(init=True, apply=True)["TLS only"]
        assert proxy.count("PutBucket") == 0
    assert found.state is State.REFUSED
    assert "not JSON" in found.note


def test_a_bucket_that_goes_meanwhile_ends_it(moto: MotoServer, moto_bench: Bench, bucket: str):
    moto_bench.init()
    with proxied(moto.endpoint) as proxy:
        proxy.add(NO_SUCH_BUCKET, "GetBucketVersioning")
        with pytest.raises(NoSuchBucket):
            Bench(moto, bucket, proxy.endpoint).check()


# -- the policies, against what is really asked ------------------------------------------------------------------------

LISTINGS = {"ListObjects": "list_objects_v2", "GetBucketVersions": "list_object_versions"}
"""What the proxy calls otherwise than S3."""


def method(record: Record) -> str:
    if record.target.endswith("?tagging"):
        return "get_object_tagging"
    return LISTINGS.get(record.operation) or xform_name(record.operation)


def test_a_store_at_work_asks_nothing_that_its_policy_does_not_allow(seaweed: SeaweedServer, bucket: str):
    seaweed.make_bucket(bucket, versioned=True)
    session, daemon = policies.session(Wanted(bucket), "s"), policies.daemon(Wanted(bucket))
    with proxied(seaweed.endpoint) as proxy:
        store = S3Store(seaweed.settings(bucket, endpoint=proxy.endpoint, copy_limit=5 * MIB))
        with contextlib.closing(store):
            _every_verb(store)
        records = list(proxy.records)
    asked = {method(record) for record in records}
    assert asked == RIGHTS.keys()
    for record in records:
        assert allowed(daemon, bucket, record), record
        assert allowed(session, bucket, record), record
    assert any(record.key.startswith("sessions/s/.cachesync/probe-") for record in records)


def allowed(policy: policies.Policy, bucket: str, record: Record) -> bool:
    """Whether a policy has all the rights that one request needs, on what it is about."""
    arn = f"arn:aws:s3:::{bucket}"
    for right in RIGHTS[method(record)]:
        (row,) = (row for row in policy["Statement"] if right in row["Action"])
        if record.operation in LISTINGS:
            patterns, about = row["Condition"]["StringLike"]["s3:prefix"], record.key
        else:
            patterns, about = row["Resource"], f"{arn}/{record.key}" if record.key else arn
        if not any(fnmatch.fnmatchcase(about, pattern) for pattern in patterns):
            return False
    return True


def _every_verb(store: S3Store) -> None:
    small, big = Bytes(b"one"), Bytes(os.urandom(6 * MIB), 5 * MIB)
    plain, tagged = Attributes("a/b", {}, {}), Attributes("a/b", {}, {"kind": "log"})
    with pytest.raises(ObjectNotFound):
        store.head("sessions/s/none")  # which also asks whether there is a bucket at all
    assert store.traits.versioned
    first = store.put("sessions/s/a", small, tagged, expect=None)
    second = store.put("sessions/s/a", Bytes(b"two"), plain, expect=first.version)
    assert b"".join(store.get("sessions/s/a").chunks) == b"two"
    large = store.put("sessions/s/big", big, tagged, expect=None)
    with pytest.raises(PreconditionFailed):
        store.put("sessions/s/big", big, plain, expect=first.version)
    store.copy("sessions/s/a", "sessions/s/copied", source_version=second.version, expect=None)
    store.copy("sessions/s/big", "sessions/s/copied-big", source_version=large.version, expect=None)
    assert len(list(store.list("sessions/s/"))) == 4
    assert len([past for past in store.archive.history("sessions/s/a") if past.key == "sessions/s/a"]) == 2
    assert first.version.version_id
    store.archive.revive("sessions/s/a", first.version.version_id, expect=second.version)
    now = store.head("sessions/s/a")
    store.delete("sessions/s/a", expect=now.version)
