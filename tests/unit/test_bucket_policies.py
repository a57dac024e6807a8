"""IAM policies: no right more and none less than the code's own requests need."""

from __future__ import annotations

import ast
import fnmatch
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from cachesync.ops.bucket import policies
from cachesync.ops.bucket.desired import Wanted
from cachesync.ops.bucket.policies import RIGHTS

TOP = Path(__file__).resolve().parents[2]
CALLERS = [*(TOP / "cachesync/store/s3").glob("*.py"), *(TOP / "cachesync/ops/doctor").glob("*.py")]
WANTED = Wanted("b", prefix="agents")

METHODS = {botocore.xform_name(name) for name in botocore.session.get_session().get_service_model("s3").operation_names}


def test_every_request_of_the_code_has_its_rights_and_no_other_has():
    words = {
        node.value
        for path in CALLERS
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert words & METHODS == RIGHTS.keys()


def allows(policy: policies.Policy, action: str, resource: str, **context: str) -> bool:
    """IAM's own judgement, as far as these policies need it."""
    return any(
        action in statement["Action"]
        and any(fnmatch.fnmatchcase(resource, pattern) for pattern in statement["Resource"])
        and all(
            any(fnmatch.fnmatchcase(context.get(key.replace("s3:", ""), ""), pattern) for pattern in patterns)
            for condition in statement.get("Condition", {}).values()
            for key, patterns in condition.items()
        )
        for statement in policy["Statement"]
    )


def actions(policy: policies.Policy) -> set[str]:
    return {action for statement in policy["Statement"] for action in statement["Action"]}


def test_the_daemon_has_each_right_that_the_code_uses_and_removes_only_its_own_versions():
    policy = policies.daemon(WANTED)
    assert actions(policy) == policies.all_rights() | {"s3:DeleteObjectVersion"}
    own = "arn:aws:s3:::b/agents/sessions/.cachesync/doctor-1"
    assert allows(policy, "s3:DeleteObjectVersion", own)
    assert not allows(policy, "s3:DeleteObjectVersion", "arn:aws:s3:::b/agents/sessions/s/a.txt")
    assert not any("*" in action for action in actions(policy))


@pytest.mark.parametrize(
    ("wanted", "inside", "outside"),
    [
        (
            WANTED,
            ["agents/sessions/s/a", "agents/projects/p/a", "agents/templates/t"],
            ["sessions/s/a", "agents2/a", "a"],
        ),
        (Wanted("b"), ["sessions/s/a", "projects/p/a", "templates/t"], ["a", "backup/sessions/s/a"]),
    ],
)
def test_the_daemon_reaches_its_store_and_nothing_beside_it(wanted: Wanted, inside: list[str], outside: list[str]):
    policy = policies.daemon(wanted)
    for keys, expected in ((inside, True), (outside, False)):
        for key in keys:
            assert allows(policy, "s3:PutObject", f"arn:aws:s3:::b/{key}") is expected, key
            assert allows(policy, "s3:ListBucket", "arn:aws:s3:::b", prefix=key) is expected, key
    assert not allows(policy, "s3:ListBucket", "arn:aws:s3:::b")
    assert not allows(policy, "s3:GetObject", "arn:aws:s3:::other/agents/sessions/s/a")


def test_a_session_reaches_itself_alone():
    policy = policies.session(WANTED, "s1")
    assert actions(policy) == policies.all_rights()
    for action in ("s3:GetObject", "s3:PutObject", "s3:DeleteObject"):
        assert allows(policy, action, "arn:aws:s3:::b/agents/sessions/s1/a/b.txt")
        assert not allows(policy, action, "arn:aws:s3:::b/agents/sessions/s10/a.txt")
        assert not allows(policy, action, "arn:aws:s3:::b/agents/sessions/s2/a.txt")
    assert allows(policy, "s3:ListBucket", "arn:aws:s3:::b", prefix="agents/sessions/s1/")
    assert not allows(policy, "s3:ListBucket", "arn:aws:s3:::b", prefix="agents/sessions/")
    assert not allows(policy, "s3:ListBucketVersions", "arn:aws:s3:::b", prefix="agents/sessions/s10/")


def test_metrics_go_into_one_namespace():
    (statement,) = policies.cloudwatch()["Statement"]
    assert statement["Action"] == ["cloudwatch:PutMetricData"]
    assert statement["Condition"] == {"StringEquals": {"cloudwatch:namespace": "LLMChain/Artifacts"}}


KEY = "0a1b2c3d-0000-0000-0000-000000000000"


@pytest.mark.parametrize(
    ("key", "resource"),
    [
        (KEY, f"arn:aws:kms:*:*:key/{KEY}"),
        (f"arn:aws:kms:eu-west-1:1:key/{KEY}", f"arn:aws:kms:eu-west-1:1:key/{KEY}"),
        ("alias/agents", "arn:aws:kms:*:*:key/*"),
        ("arn:aws:kms:eu-west-1:1:alias/agents", "arn:aws:kms:*:*:key/*"),
    ],
)
def test_a_key_of_ones_own_may_be_used(key: str, resource: str):
    for policy in (
        policies.daemon(Wanted("b", sse="aws:kms", sse_kms_key_id=key)),
        policies.session(Wanted("b", sse="aws:kms", sse_kms_key_id=key), "s"),
    ):
        statement: dict[str, Any] = policy["Statement"][-1]
        assert statement["Action"] == ["kms:Decrypt", "kms:GenerateDataKey"]
        assert statement["Resource"] == [resource]
        named = statement.get("Condition", {}).get("ForAnyValue:StringEquals", {}).get("kms:ResourceAliases")
        assert named == ("alias/agents" if "alias" in key else None)


@pytest.mark.parametrize("wanted", [Wanted("b"), Wanted("b", sse="AES256"), Wanted("b", sse="aws:kms")])
def test_without_a_key_there_is_no_right_to_one(wanted: Wanted):
    assert not [action for action in actions(policies.daemon(wanted)) if action.startswith("kms:")]
