"""Lifecycle rules: ours, beside those of others. Pure.

A configuration is always replaced as a whole, so every change here starts from what is there. Ours are known by their
IDs. A rule of another ID that does the same counts as ours: somebody wrote it by hand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from cachesync.ops.bucket.desired import Wanted

Rule = dict[str, Any]

_MAX_ID = 255
"""Characters, https://docs.aws.amazon.com/AmazonS3/latest/API/API_LifecycleRule.html"""


def logs(wanted: Wanted) -> list[Rule]:
    """Session logs, which carry the tag kind=log, expire."""
    scope = {"And": {"Prefix": wanted.sessions, "Tags": [{"Key": "kind", "Value": "log"}]}}
    return [_rule("logs", wanted.sessions, scope, {"Expiration": {"Days": wanted.log_days}})] if wanted.log_days else []


def archive(wanted: Wanted, days: int) -> list[Rule]:
    """Old sessions go to GLACIER."""
    moved = {"Transitions": [{"Days": days, "StorageClass": "GLACIER"}]}
    return [_rule("archive", wanted.sessions, {"Prefix": wanted.sessions}, moved)] if days else []


def versions(wanted: Wanted) -> list[Rule]:
    """What was overwritten or deleted goes after a time, and then the mark of the deletion."""
    gone = {
        "NoncurrentVersionExpiration": {"NoncurrentDays": wanted.version_days},
        "Expiration": {"ExpiredObjectDeleteMarker": True},
    }
    return [_rule("versions", scope, {"Prefix": scope}, gone) for scope in wanted.scopes if wanted.version_days]


def uploads(wanted: Wanted) -> list[Rule]:
    """The parts of an upload that nobody completes go."""
    gone = {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": wanted.upload_days}}
    return [_rule("uploads", scope, {"Prefix": scope}, gone) for scope in wanted.scopes if wanted.upload_days]


def own_ids(kind: str, scopes: Sequence[str]) -> set[str]:
    """The IDs that rules of this kind have."""
    return {rule_id(kind, scope) for scope in scopes}


def rule_id(kind: str, scope: str) -> str:
    """One ID for each kind and key prefix, so that two stores in one bucket keep apart."""
    name = f"cachesync-{kind}:{scope}"
    return name if len(name) <= _MAX_ID else f"cachesync-{kind}:{hashlib.sha256(scope.encode()).hexdigest()}"


def missing(rules: Sequence[Rule], ours: Sequence[Rule]) -> list[Rule]:
    """Which of ours have no rule with the same effect."""
    there = [effect(rule) for rule in rules]
    return [rule for rule in ours if effect(rule) not in there]


def is_right(rules: Sequence[Rule], ours: Sequence[Rule], ids: set[str]) -> bool:
    """Whether ours are in force, and no others under our IDs."""
    wanted = [effect(rule) for rule in ours]
    stale = [rule for rule in rules if rule.get("ID") in ids and effect(rule) not in wanted]
    return not stale and not missing(rules, ours)


def merge(rules: Sequence[Rule], ours: Sequence[Rule], ids: set[str]) -> list[Rule]:
    """The rules with ours in force; what has not one of our IDs stays, in its order and as it is."""
    others = [rule for rule in rules if rule.get("ID") not in ids]
    return [*others, *missing(others, ours)]


def effect(rule: Mapping[str, Any]) -> Rule:
    """What a rule does, without its ID and however its filter is written."""
    written = rule.get("Filter") or {}
    parts = written.get("And", written)
    tags = [*parts.get("Tags", ()), *([parts["Tag"]] if parts.get("Tag") else [])]
    scope = {
        "prefix": parts.get("Prefix", rule.get("Prefix", "")) or "",
        "tags": sorted((tag["Key"], tag["Value"]) for tag in tags),
        "sizes": (parts.get("ObjectSizeGreaterThan"), parts.get("ObjectSizeLessThan")),
    }
    return {name: value for name, value in rule.items() if value and name not in ("ID", "Filter", "Prefix")} | scope


def describe(rules: Sequence[Mapping[str, Any]]) -> str:
    """What rules of our kinds do, in a few words; those that do the same together."""
    scopes: dict[str, list[str]] = {}
    for rule in rules:
        scope = effect(rule)
        tags = [f" {key}={value}" for key, value in scope["tags"]]
        scopes.setdefault(_does(rule), []).append((scope["prefix"] or "everything") + "".join(tags))
    return "; ".join(f"{does}: {', '.join(where)}" for does, where in scopes.items()) or "no rule"


def _does(rule: Mapping[str, Any]) -> str:
    if "AbortIncompleteMultipartUpload" in rule:
        what, days = "aborted", rule["AbortIncompleteMultipartUpload"].get("DaysAfterInitiation")
    elif "NoncurrentVersionExpiration" in rule:
        what, days = "removed", rule["NoncurrentVersionExpiration"].get("NoncurrentDays")
    elif rule.get("Transitions"):
        first = rule["Transitions"][0]
        what, days = f"to {first.get('StorageClass')}", first.get("Days")
    else:
        what, days = "expire", (rule.get("Expiration") or {}).get("Days")
    return f"{what} after {days} days"


def _rule(kind: str, scope: str, found_by: dict[str, Any], does: dict[str, Any]) -> Rule:
    return {"ID": rule_id(kind, scope), "Status": "Enabled", "Filter": found_by} | does
