"""Each setting that a bucket should have: how to ask for it, whether an answer is right, and what to send. Pure.

Answers are botocore's, {} where nothing is configured. ``docs/bucket.md`` says at length why each is wanted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from cachesync.model.errors import StorePermanent
from cachesync.model.record import record
from cachesync.ops.bucket import lifecycle
from cachesync.ops.bucket.desired import ARCHIVE_DAYS, Wanted

Answer = Mapping[str, Any]

TLS_SID = "CachesyncTlsOnly"

_BLOCKS = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
_SIZE_HEADER = "TransitionDefaultMinimumObjectSize"


@record(frozen=True, slots=True)
class Aspect:
    """One setting. ``read`` is the S3 method that asks for it, ``rights`` what asking and setting need.

    ``is_right`` and ``show`` judge an answer. ``change`` makes the answer that is wanted out of it, and touches nothing
    that is of others; ``request`` is the method and parameters that set it. ``left_out`` says why it is not to be set.
    """

    name: str
    wanted: str
    why: str
    read: str
    rights: tuple[str, str]
    is_right: Callable[[Answer], bool]
    show: Callable[[Answer], str]
    change: Callable[[Answer], Answer]
    request: Callable[[Answer], tuple[str, dict[str, Any]]]
    left_out: str = ""


def aspects(wanted: Wanted) -> list[Aspect]:
    """All of them, in the order in which they are set: who may come in first, then what is kept."""
    return [
        _public_access(),
        _encryption(wanted),
        _versioning(),
        _tls(wanted),
        *_lifecycle(wanted),
        _logging(wanted),
    ]


def _public_access() -> Aspect:
    return Aspect(
        name="public access",
        wanted="blocked",
        why="nobody can make an artifact public by mistake; presigned links still work",
        read="get_public_access_block",
        rights=("s3:GetBucketPublicAccessBlock", "s3:PutBucketPublicAccessBlock"),
        is_right=lambda answer: all(_blocks(answer).get(name) for name in _BLOCKS),
        show=_show_blocks,
        change=lambda _: {"PublicAccessBlockConfiguration": dict.fromkeys(_BLOCKS, True)},
        request=lambda answer: ("put_public_access_block", dict(answer)),
    )


def _blocks(answer: Answer) -> Mapping[str, Any]:
    return answer.get("PublicAccessBlockConfiguration") or {}


def _show_blocks(answer: Answer) -> str:
    off = [name for name in _BLOCKS if not _blocks(answer).get(name)]
    return "blocked" if not off else "not blocked" if len(off) == len(_BLOCKS) else f"without {', '.join(off)}"


def _encryption(wanted: Wanted) -> Aspect:
    algorithm = wanted.sse or "AES256"
    default: dict[str, Any] = {"SSEAlgorithm": algorithm}
    if wanted.sse_kms_key_id:
        default["KMSMasterKeyID"] = wanted.sse_kms_key_id
    rule = {"ApplyServerSideEncryptionByDefault": default} | (
        {"BucketKeyEnabled": True} if algorithm == "aws:kms" else {}
    )
    key = wanted.sse_kms_key_id

    def right(answer: Answer) -> bool:
        found = _default_encryption(answer)
        same = found.get("SSEAlgorithm") == wanted.sse if wanted.sse else bool(found.get("SSEAlgorithm"))
        return same and (key is None or found.get("KMSMasterKeyID") == key)

    return Aspect(
        name="encryption",
        wanted=algorithm + (f" with {key}" if key else ""),
        why="what is at rest is encrypted, whoever puts it there and whatever their request says",
        read="get_bucket_encryption",
        rights=("s3:GetEncryptionConfiguration", "s3:PutEncryptionConfiguration"),
        is_right=right,
        show=_show_encryption,
        change=lambda _: {"ServerSideEncryptionConfiguration": {"Rules": [rule]}},
        request=lambda answer: ("put_bucket_encryption", dict(answer)),
    )


def _default_encryption(answer: Answer) -> Mapping[str, Any]:
    rules = (answer.get("ServerSideEncryptionConfiguration") or {}).get("Rules") or [{}]
    found: Mapping[str, Any] = rules[0].get("ApplyServerSideEncryptionByDefault") or {}
    return found


def _show_encryption(answer: Answer) -> str:
    found = _default_encryption(answer)
    key = found.get("KMSMasterKeyID")
    return str(found.get("SSEAlgorithm") or "none") + (f" with {key}" if key else "")


def _versioning() -> Aspect:
    return Aspect(
        name="versioning",
        wanted="Enabled",
        why="what is overwritten or deleted can be brought back: history and restore live on it",
        read="get_bucket_versioning",
        rights=("s3:GetBucketVersioning", "s3:PutBucketVersioning"),
        is_right=lambda answer: answer.get("Status") == "Enabled",
        show=lambda answer: str(answer.get("Status") or "off"),
        change=lambda _: {"Status": "Enabled"},
        request=lambda answer: ("put_bucket_versioning", {"VersioningConfiguration": dict(answer)}),
    )


def _tls(wanted: Wanted) -> Aspect:
    def change(answer: Answer) -> Answer:
        policy = _policy(answer)
        kept = [row for row in _statements(policy) if row.get("Sid") != TLS_SID]
        merged = {"Version": "2012-10-17"} | policy | {"Statement": [*kept, tls_statement(wanted)]}
        return {"Policy": json.dumps(merged)}

    left_out = ""
    if not wanted.encrypted_way:
        left_out = "the endpoint is plain http: with this policy nobody would get in any more, not even to remove it"
    return Aspect(
        name="TLS only",
        wanted="requests without TLS are denied",
        why="neither bytes nor signatures cross a network in the clear",
        read="get_bucket_policy",
        rights=("s3:GetBucketPolicy", "s3:PutBucketPolicy"),
        is_right=lambda answer: any(_denies_plain(row, wanted) for row in _statements(_policy(answer))),
        show=lambda answer: f"{len(_statements(_policy(answer)))} statements" if answer else "no policy",
        change=change,
        request=lambda answer: ("put_bucket_policy", dict(answer)),
        left_out=left_out,
    )


def tls_statement(wanted: Wanted) -> dict[str, Any]:
    """The statement that denies what does not come by TLS."""
    return {
        "Sid": TLS_SID,
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [wanted.arn, f"{wanted.arn}/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }


def _policy(answer: Answer) -> dict[str, Any]:
    """The policy's document. Raises StorePermanent for one that cannot be read, which must not be replaced."""
    try:
        policy = json.loads(answer.get("Policy") or "{}")
    except ValueError as error:
        raise StorePermanent("read", "the bucket's policy", "it is not JSON") from error
    if not isinstance(policy, dict):
        raise StorePermanent("read", "the bucket's policy", "it is not a JSON object")
    return policy


def _statements(policy: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [row for row in _listed(policy.get("Statement", [])) if isinstance(row, dict)]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _denies_plain(row: Mapping[str, Any], wanted: Wanted) -> bool:
    principal = row.get("Principal")
    everybody = _listed(principal.get("AWS") if isinstance(principal, dict) else principal) == ["*"]
    resources = _listed(row.get("Resource"))
    condition = row.get("Condition") or {}
    asked = _listed((condition.get("Bool") or {}).get("aws:SecureTransport"))
    return (
        row.get("Effect") == "Deny"
        and everybody
        and not {"s3:*", "*"}.isdisjoint(_listed(row.get("Action")))
        and ("*" in resources or {wanted.arn, f"{wanted.arn}/*"} <= set(resources))
        and len(condition) == 1
        and [str(value).lower() for value in asked] == ["false"]
    )


def _lifecycle(wanted: Wanted) -> list[Aspect]:
    archive_days = ARCHIVE_DAYS if wanted.archive_days is None else wanted.archive_days
    not_aws = "GLACIER is a storage class of AWS; --archive-days N asks this store for it all the same"
    foreign = not_aws if wanted.archive_days is None and not wanted.on_aws else ""
    sessions = (wanted.sessions,)
    return [
        _rules("unfinished uploads", "uploads", lifecycle.uploads(wanted), wanted.scopes,
               "the parts of an upload that was lost cost as much as objects, and no listing shows them"),
        _rules("past versions", "versions", lifecycle.versions(wanted), wanted.scopes,
               "a file that is rewritten all day keeps a version of each; they would grow for ever"),
        _rules("logs", "logs", lifecycle.logs(wanted), sessions,
               "logs are the bulk, and few read them after a month; found by their tag, whatever the session"),
        _rules("archive", "archive", lifecycle.archive(wanted, archive_days), sessions,
               "old sessions are kept at a sixth of the price; to be read they have to be restored", foreign),
    ]  # fmt: skip


def _rules(
    name: str, kind: str, ours: list[lifecycle.Rule], scopes: tuple[str, ...], why: str, left_out: str = ""
) -> Aspect:
    ids = lifecycle.own_ids(kind, scopes)

    def show(answer: Answer) -> str:
        rules = answer.get("Rules") or []
        effects = [lifecycle.effect(rule) for rule in ours]
        of_ours = [rule for rule in rules if rule.get("ID") in ids or lifecycle.effect(rule) in effects]
        return lifecycle.describe(of_ours)

    def request(answer: Answer) -> tuple[str, dict[str, Any]]:
        if not answer["Rules"]:
            return "delete_bucket_lifecycle", {}
        kept = {_SIZE_HEADER: answer[_SIZE_HEADER]} if answer.get(_SIZE_HEADER) else {}
        return "put_bucket_lifecycle_configuration", {"LifecycleConfiguration": {"Rules": answer["Rules"]}, **kept}

    return Aspect(
        name=name,
        wanted=lifecycle.describe(ours),
        why=why,
        read="get_bucket_lifecycle_configuration",
        rights=("s3:GetLifecycleConfiguration", "s3:PutLifecycleConfiguration"),
        is_right=lambda answer: lifecycle.is_right(answer.get("Rules") or [], ours, ids),
        show=show,
        change=lambda answer: {**answer, "Rules": lifecycle.merge(answer.get("Rules") or [], ours, ids)},
        request=request,
        left_out=left_out,
    )


def _logging(wanted: Wanted) -> Aspect:
    target = {"TargetBucket": wanted.log_bucket, "TargetPrefix": f"{wanted.bucket}/"}

    def found(answer: Answer) -> str | None:
        name = (answer.get("LoggingEnabled") or {}).get("TargetBucket")
        return None if name is None else str(name)

    return Aspect(
        name="access logs",
        wanted=f"to {wanted.log_bucket}" if wanted.log_bucket else "as they are",
        why="who read or changed which object, also past cachesync",
        read="get_bucket_logging",
        rights=("s3:GetBucketLogging", "s3:PutBucketLogging"),
        is_right=lambda answer: found(answer) == wanted.log_bucket,
        show=lambda answer: "off" if found(answer) is None else f"to {found(answer)}",
        change=lambda _: {"LoggingEnabled": target},
        request=lambda answer: ("put_bucket_logging", {"BucketLoggingStatus": dict(answer)}),
        left_out="" if wanted.log_bucket else "no log bucket is given; --log-bucket NAME turns them on",
    )
