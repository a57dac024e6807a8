"""IAM policies with no more rights than the code uses. Pure.

``RIGHTS`` has every S3 method that the store and the doctor call; a test compares it with their code.
What a right allows: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cachesync.model.keys import RESERVED, session_prefix
from cachesync.ops.bucket.desired import Wanted

Policy = dict[str, Any]

METRICS_NAMESPACE = "LLMChain/Artifacts"
"""The design note's own."""

_READ = ("s3:GetObject", "s3:GetObjectVersion")
_TAGS = ("s3:GetObjectTagging", "s3:GetObjectVersionTagging")
_WRITE = ("s3:PutObject", "s3:PutObjectTagging")

RIGHTS: dict[str, tuple[str, ...]] = {
    "abort_multipart_upload": ("s3:AbortMultipartUpload",),
    "complete_multipart_upload": ("s3:PutObject",),
    "copy_object": (*_READ, *_TAGS, *_WRITE),
    "create_multipart_upload": _WRITE,
    "delete_object": ("s3:DeleteObject",),
    "get_bucket_versioning": ("s3:GetBucketVersioning",),
    "get_object": _READ,
    "get_object_tagging": _TAGS,
    "head_bucket": ("s3:ListBucket",),
    "head_object": _READ,
    "list_object_versions": ("s3:ListBucketVersions",),
    "list_objects_v2": ("s3:ListBucket",),
    "put_object": _WRITE,
    "upload_part": ("s3:PutObject",),
    "upload_part_copy": (*_READ, "s3:PutObject"),
}
"""By the method's name in botocore."""

_LISTING = frozenset({"s3:ListBucket", "s3:ListBucketVersions"})
"""Rights on the bucket that know the condition s3:prefix."""

_OF_BUCKET = _LISTING | {"s3:GetBucketVersioning"}


def all_rights() -> set[str]:
    """Every S3 action that the code uses."""
    return {right for rights in RIGHTS.values() for right in rights}


def daemon(wanted: Wanted) -> Policy:
    """For the daemon and its commands: every session, project and template of this store, and nothing else.

    ``doctor`` also removes the versions of its own object if it may: the only version that is ever deleted.
    """
    own = session_prefix(wanted.prefix, RESERVED)
    probes = {
        "Sid": "RemoveOwnProbes",
        "Effect": "Allow",
        "Action": ["s3:DeleteObjectVersion"],
        "Resource": [f"{wanted.arn}/{own}*"],
    }
    return _policy([*_store(wanted, wanted.scopes), probes, *_key(wanted)])


def session(wanted: Wanted, name: str) -> Policy:
    """For whoever works on one session alone."""
    return _policy([*_store(wanted, [session_prefix(wanted.prefix, name)]), *_key(wanted)])


def cloudwatch() -> Policy:
    """For the metrics: PutMetricData knows no resource, so the namespace is the condition."""
    statement = {
        "Sid": "PutMetrics",
        "Effect": "Allow",
        "Action": ["cloudwatch:PutMetricData"],
        "Resource": ["*"],
        "Condition": {"StringEquals": {"cloudwatch:namespace": METRICS_NAMESPACE}},
    }
    return _policy([statement])


def _store(wanted: Wanted, scopes: Iterable[str]) -> list[Policy]:
    patterns = [f"{scope}*" for scope in scopes]
    rights = all_rights()
    return [
        {
            "Sid": "ListObjects",
            "Effect": "Allow",
            "Action": sorted(rights & _LISTING),
            "Resource": [wanted.arn],
            "Condition": {"StringLike": {"s3:prefix": patterns}},
        },
        {
            "Sid": "AskTheBucket",
            "Effect": "Allow",
            "Action": sorted(rights & (_OF_BUCKET - _LISTING)),
            "Resource": [wanted.arn],
        },
        {
            "Sid": "ReadAndWriteObjects",
            "Effect": "Allow",
            "Action": sorted(rights - _OF_BUCKET),
            "Resource": [f"{wanted.arn}/{pattern}" for pattern in patterns],
        },
    ]


def _key(wanted: Wanted) -> list[Policy]:
    """What encrypting with a key of one's own needs: to write, and in parts also to read."""
    key = wanted.sse_kms_key_id
    if wanted.sse != "aws:kms" or key is None:
        return []
    world = wanted.arn.partition(":s3:")[0]
    statement: Policy = {"Sid": "UseTheKey", "Effect": "Allow", "Action": ["kms:Decrypt", "kms:GenerateDataKey"]}
    alias = key.rpartition(":")[2]
    if alias.startswith("alias/"):
        named = {"ForAnyValue:StringEquals": {"kms:ResourceAliases": alias}}
        return [statement | {"Resource": [f"{world}:kms:*:*:key/*"], "Condition": named}]
    return [statement | {"Resource": [key if key.startswith("arn:") else f"{world}:kms:*:*:key/{key}"]}]


def _policy(statements: list[Policy]) -> Policy:
    return {"Version": "2012-10-17", "Statement": statements}
