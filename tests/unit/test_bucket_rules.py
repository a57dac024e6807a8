"""What a bucket should be: comparison and change, on answers as S3 gives them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cachesync.model.errors import StorePermanent, UsageError
from cachesync.ops.bucket import lifecycle
from cachesync.ops.bucket.desired import Setting, State, Wanted, exit_code
from cachesync.ops.bucket.rules import TLS_SID, Aspect, aspects, tls_statement

PLAIN = Wanted("b")
OURS = Wanted("b", prefix="agents")
FOREIGN_RULE = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "x/"}, "Expiration": {"Days": 1}}
FOREIGN_STATEMENT = {"Sid": "Theirs", "Effect": "Deny", "Principal": "*", "Action": "s3:DeleteBucket", "Resource": "*"}


def aspect(name: str, wanted: Wanted = PLAIN) -> Aspect:
    (found,) = (aspect for aspect in aspects(wanted) if aspect.name == name)
    return found


@pytest.mark.parametrize("wanted", [PLAIN, OURS, Wanted("b", log_bucket="logs", sse="aws:kms", sse_kms_key_id="k")])
def test_what_is_set_is_what_is_wanted(wanted: Wanted):
    for one in aspects(wanted):
        if one.left_out:
            continue
        assert not one.is_right({}), one.name
        assert one.is_right(one.change({})), one.name
        assert one.change(one.change({})) == one.change({}), one.name
        assert one.show({}) != one.show(one.change({})), one.name
        method, args = one.request(one.change({}))
        assert method.startswith("put_")
        assert args


# -- where the bucket is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "aws", "safe"),
    [
        (None, True, True),
        ("https://s3.eu-central-1.amazonaws.com", True, True),
        ("https://s3.cn-north-1.amazonaws.com.cn", True, True),
        ("https://amazonaws.com.example.org", False, True),
        ("https://minio.example.org", False, True),
        ("http://127.0.0.1:9000", False, False),
    ],
)
def test_what_an_endpoint_says(endpoint: str | None, aws: bool, safe: bool):  # noqa: FBT001
    wanted = Wanted("b", endpoint=endpoint)
    assert (wanted.on_aws, wanted.encrypted_way) == (aws, safe)
    assert bool(aspect("archive", wanted).left_out) is not aws
    assert bool(aspect("TLS only", wanted).left_out) is not safe
    assert not aspect("archive", Wanted("b", endpoint=endpoint, archive_days=10)).left_out


@pytest.mark.parametrize(
    ("region", "arn"),
    [(None, "arn:aws:s3:::b"), ("eu-west-1", "arn:aws:s3:::b"), ("cn-north-1", "arn:aws-cn:s3:::b"),
     ("us-gov-west-1", "arn:aws-us-gov:s3:::b")],
)  # fmt: skip
def test_a_bucket_is_named_by_its_world(region: str | None, arn: str):
    assert Wanted("b", region=region).arn == arn


def test_a_bucket_does_not_log_into_itself():
    with pytest.raises(UsageError, match="for ever"):
        Wanted("b", log_bucket="b")


# -- single settings ---------------------------------------------------------------------------------------------------


def test_public_access_is_blocked_in_all_four_ways():
    one = aspect("public access")
    answer: dict[str, Any] = {
        "PublicAccessBlockConfiguration": dict.fromkeys(
            ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
        )
    }
    assert one.is_right(answer)
    assert one.show({}) == "not blocked"
    answer["PublicAccessBlockConfiguration"]["RestrictPublicBuckets"] = False
    assert not one.is_right(answer)
    assert one.show(answer) == "without RestrictPublicBuckets"


def encrypted(algorithm: str, key: str | None = None) -> dict[str, Any]:
    default = {"SSEAlgorithm": algorithm} | ({"KMSMasterKeyID": key} if key else {})
    return {"ServerSideEncryptionConfiguration": {"Rules": [{"ApplyServerSideEncryptionByDefault": default}]}}


def test_encryption_is_that_of_the_settings_or_any():
    assert aspect("encryption").is_right(encrypted("aws:kms", "k"))
    kms = aspect("encryption", Wanted("b", sse="aws:kms", sse_kms_key_id="k"))
    others = [encrypted("AES256"), encrypted("aws:kms"), encrypted("aws:kms", "j")]
    assert not any(kms.is_right(other) for other in others)
    assert kms.is_right(encrypted("aws:kms", "k"))
    assert kms.show(encrypted("aws:kms", "k")) == kms.wanted == "aws:kms with k"


def test_versioning_that_was_suspended_differs():
    assert not aspect("versioning").is_right({"Status": "Suspended"})
    assert aspect("versioning").show({"Status": "Suspended"}) == "Suspended"


def test_access_logs_that_go_elsewhere_differ():
    elsewhere = {"LoggingEnabled": {"TargetBucket": "other", "TargetPrefix": ""}}
    one = aspect("access logs", Wanted("b", log_bucket="logs"))
    assert not one.is_right(elsewhere)
    assert one.show(elsewhere) == "to other"
    assert one.change(elsewhere)["LoggingEnabled"] == {"TargetBucket": "logs", "TargetPrefix": "b/"}
    assert "--log-bucket" in aspect("access logs").left_out


# -- the policy --------------------------------------------------------------------------------------------------------


def policy(*statements: Any, **more: Any) -> dict[str, str]:
    return {"Policy": json.dumps({"Version": "2012-10-17", "Statement": list(statements)} | more)}


def test_statements_of_others_stay():
    one = aspect("TLS only")
    before = policy(FOREIGN_STATEMENT, Id="theirs")
    changed = json.loads(one.change(before)["Policy"])
    assert changed == {"Version": "2012-10-17", "Id": "theirs", "Statement": [FOREIGN_STATEMENT, tls_statement(PLAIN)]}
    assert one.show(before) == "1 statements"


def test_a_single_statement_need_not_be_a_list():
    one = aspect("TLS only")
    before = {"Policy": json.dumps({"Version": "2012-10-17", "Statement": FOREIGN_STATEMENT})}
    assert json.loads(one.change(before)["Policy"])["Statement"] == [FOREIGN_STATEMENT, tls_statement(PLAIN)]


def test_our_own_statement_is_mended_and_not_doubled():
    one = aspect("TLS only")
    weak = tls_statement(PLAIN) | {"Resource": ["arn:aws:s3:::b"]}
    assert not one.is_right(policy(weak))
    assert json.loads(one.change(policy(weak))["Policy"])["Statement"] == [tls_statement(PLAIN)]


@pytest.mark.parametrize(
    "other",
    [
        {"Principal": {"AWS": "*"}},
        {"Principal": {"AWS": ["*"]}},
        {"Resource": "*"},
        {"Action": ["s3:*", "s3:GetObject"]},
        {"Condition": {"Bool": {"aws:SecureTransport": ["false"]}}},
        {"Condition": {"Bool": {"aws:SecureTransport": False}}},
    ],
)
def test_the_same_in_other_words_counts(other: dict[str, Any]):
    assert aspect("TLS only").is_right(policy(tls_statement(PLAIN) | {"Sid": "ByHand"} | other))


@pytest.mark.parametrize(
    "other",
    [
        {"Effect": "Allow"},
        {"Principal": {"AWS": "arn:aws:iam::1:root"}},
        {"Principal": {"Service": "s3.amazonaws.com"}},
        {"Principal": "arn:aws:iam::1:root"},
        {"Principal": None},
        {"Resource": "arn:aws:s3:::b/*"},
        {"Action": "s3:GetObject"},
        {"Condition": {"Bool": {"aws:SecureTransport": "true"}}},
        {"Condition": {}},
        {"Condition": {"Bool": {"aws:SecureTransport": "false"}, "IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}},
    ],
)
def test_less_than_that_does_not(other: dict[str, Any]):
    assert not aspect("TLS only").is_right(policy(tls_statement(PLAIN) | other))


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_policy_that_cannot_be_read_is_not_replaced(text: str):
    with pytest.raises(StorePermanent, match="JSON"):
        aspect("TLS only").change({"Policy": text})


# -- the lifecycle -----------------------------------------------------------------------------------------------------


def test_without_a_prefix_only_our_own_spaces_are_ruled():
    everything = [
        *lifecycle.logs(PLAIN),
        *lifecycle.archive(PLAIN, 90),
        *lifecycle.versions(PLAIN),
        *lifecycle.uploads(PLAIN),
    ]
    scopes = {lifecycle.effect(rule)["prefix"] for rule in everything}
    assert scopes == {"sessions/", "projects/", "templates/"}
    assert len({rule["ID"] for rule in everything}) == len(everything) == 8


def test_with_a_prefix_nothing_beside_it_is_ruled():
    everything = [
        *lifecycle.logs(OURS),
        *lifecycle.archive(OURS, 90),
        *lifecycle.versions(OURS),
        *lifecycle.uploads(OURS),
    ]
    assert all(lifecycle.effect(rule)["prefix"].startswith("agents/") for rule in everything)
    assert not {rule["ID"] for rule in everything} & {rule["ID"] for rule in lifecycle.logs(PLAIN)}


def test_logs_are_found_by_the_tag_that_uploads_carry():
    (rule,) = lifecycle.logs(OURS)
    assert rule["Filter"] == {"And": {"Prefix": "agents/sessions/", "Tags": [{"Key": "kind", "Value": "log"}]}}
    assert rule["Expiration"] == {"Days": 30}


def test_rules_of_others_stay_in_their_place():
    one = aspect("logs")
    before = {"Rules": [FOREIGN_RULE], "TransitionDefaultMinimumObjectSize": "varies_by_storage_class"}
    changed = one.change(before)
    assert changed["Rules"] == [FOREIGN_RULE, *lifecycle.logs(PLAIN)]
    _, args = one.request(changed)
    assert args["TransitionDefaultMinimumObjectSize"] == "varies_by_storage_class"
    assert before["Rules"] == [FOREIGN_RULE]


def test_the_same_rule_by_another_hand_counts():
    (ours,) = lifecycle.logs(PLAIN)
    by_hand = ours | {"ID": "by hand"}
    one = aspect("logs")
    assert one.is_right({"Rules": [by_hand]})
    assert one.show({"Rules": [by_hand]}) == one.wanted
    assert not one.is_right({"Rules": [by_hand | {"Status": "Disabled"}]})


def test_a_rule_of_ours_with_other_days_is_replaced():
    (old,) = lifecycle.logs(Wanted("b", log_days=5))
    one = aspect("logs")
    assert not one.is_right({"Rules": [old]})
    assert one.show({"Rules": [old]}) == "expire after 5 days: sessions/ kind=log"
    assert one.change({"Rules": [old]})["Rules"] == lifecycle.logs(PLAIN)


def test_never_takes_our_rule_away():
    (old,) = lifecycle.logs(PLAIN)
    one = aspect("logs", Wanted("b", log_days=0))
    assert one.wanted == "no rule"
    assert one.is_right({})
    assert not one.is_right({"Rules": [old]})
    assert one.request(one.change({"Rules": [old]})) == ("delete_bucket_lifecycle", {})
    assert one.change({"Rules": [old, FOREIGN_RULE]})["Rules"] == [FOREIGN_RULE]


def test_never_for_all_of_them():
    never = Wanted("b", log_days=0, archive_days=0, version_days=0, upload_days=0)
    assert all(one.is_right({}) for one in aspects(never) if one.read == "get_bucket_lifecycle_configuration")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ({"Filter": {"And": {"Prefix": "a/"}}}, {"Filter": {"Prefix": "a/"}}),
        ({"Prefix": "a/"}, {"Filter": {"Prefix": "a/"}}),
        ({"Filter": {"And": {"Tags": [{"Key": "k", "Value": "v"}]}}}, {"Filter": {"Tag": {"Key": "k", "Value": "v"}}}),
        ({"Filter": {}, "Transitions": []}, {"Filter": {"Prefix": ""}}),
    ],
)
def test_a_filter_can_be_written_in_many_ways(written: dict[str, Any], meant: dict[str, Any]):
    assert lifecycle.effect(written) == lifecycle.effect(meant)


def test_rules_are_told_apart_in_words():
    assert lifecycle.describe([]) == "no rule"
    assert lifecycle.describe(lifecycle.archive(OURS, 90)) == "to GLACIER after 90 days: agents/sessions/"
    assert lifecycle.describe(lifecycle.versions(PLAIN)) == "removed after 30 days: sessions/, projects/, templates/"
    assert lifecycle.describe(lifecycle.uploads(OURS)) == "aborted after 7 days: agents/"
    assert lifecycle.describe(lifecycle.logs(OURS)) == "expire after 30 days: agents/sessions/ kind=log"
    two = [*lifecycle.versions(OURS), {"Expiration": {"Days": 3}}]
    assert lifecycle.describe(two) == "removed after 30 days: agents/; expire after 3 days: everything"


def test_an_id_is_no_longer_than_it_may_be():
    ids = {lifecycle.rule_id("logs", "p" * length) for length in (10, 230, 255, 900)}
    assert len(ids) == 4
    assert all(len(name) <= 255 for name in ids)


# -- what comes out ----------------------------------------------------------------------------------------------------


def test_the_exit_code_is_that_of_the_worst():
    rows = {state: Setting("s", state, "f", "w", "y") for state in State}
    fine = [rows[state] for state in (State.OK, State.SET, State.UNSUPPORTED, State.LEFT_OUT)]
    assert (exit_code(fine, strict=True), exit_code(fine, strict=False)) == (0, 0)
    differing = [*fine, rows[State.DIFFERS]]
    assert (exit_code(differing, strict=True), exit_code(differing, strict=False)) == (1, 0)
    assert exit_code([rows[State.REFUSED]], strict=False) == 1


def test_a_setting_as_json():
    assert Setting("s", State.SET, "f", "w", "y").json() == {
        "setting": "s", "state": "set", "found": "f", "wanted": "w", "why": "y", "note": None,
    }  # fmt: skip


def test_the_sid_names_whose_it_is():
    assert tls_statement(PLAIN)["Sid"] == TLS_SID


def test_the_rights_of_an_operator_are_told():
    text = (Path(__file__).resolve().parents[2] / "docs/bucket.md").read_text("utf-8")
    for one in aspects(PLAIN):
        assert all(f"`{right}`" in text for right in one.rights), one.name
