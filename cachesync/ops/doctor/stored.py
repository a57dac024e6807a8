"""What the store's answers mean: credentials, rights, conditions, checksums, versions, the clock. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from cachesync.model.errors import CacheSyncError, StoreDenied
from cachesync.model.record import record
from cachesync.ops.doctor.finding import Finding, failed, ok, problem, warning
from cachesync.store.s3.credentials import Found
from cachesync.store.s3.probe import PROBE_RIGHTS

_SOON = 3600.0
_SKEW_TOLD = 60.0
_SKEW_REFUSED = 900.0
"""Seconds by which a clock may be off before S3 refuses what it signs."""

_FIXED = {
    "env": "the environment",
    "shared-credentials-file": "the shared credentials file",
    "config-file": "the config file",
    "explicit": "the dev server's folder",
}
"""Where credentials come from that nobody renews; all other providers of the AWS chain do so by themselves."""


@record(frozen=True, slots=True)
class Conditions:
    """Whether a write that has to fail was refused: one that expects nothing, and one that expects another ETag."""

    none_match: bool
    match: bool


def credentials(found: Found | None, now: float) -> list[Finding]:
    """Where they come from and how long they last; ``now`` in seconds since the epoch."""
    check = "credentials"
    if found is None:
        mend = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or give the machine a role"
        return [problem(check, "the AWS chain has none", mend)]
    fixed = found.method in _FIXED
    seen = f"from {_FIXED.get(found.method, found.method)}"
    if found.expires is None:
        unknown = fixed and found.temporary
        return [ok(check, f"{seen}, temporary; when they expire is not told" if unknown else seen)]
    until = datetime.fromtimestamp(found.expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if found.expires <= now:
        return [problem(check, f"{seen}, expired at {until}", "renew them")]
    if fixed and found.expires - now < _SOON:
        return [warning(check, f"{seen}, until {until}", "renew them, or use a role, which renews itself")]
    return [ok(check, f"{seen}, until {until}" if fixed else f"{seen}, until {until}, renewed by itself")]


def rights(refused: Mapping[str, CacheSyncError], allowed: Sequence[str]) -> list[Finding]:
    """Which of the rights that cachesync uses were refused, by their IAM names, and which worked."""
    findings = []
    for right, error in refused.items():
        denied = isinstance(error, StoreDenied) and right.startswith("s3:")
        mend = f"give these credentials the right {right} on the store's prefix" if denied else error.hint
        findings.append(problem("rights", f"{right}: {error.reason}", mend))
    return findings or [ok("rights", ", ".join(allowed))]


def conditions(found: Conditions) -> list[Finding]:
    """Whether the store keeps to the conditions of writes (P9)."""
    broken = [name for name, kept in (("If-None-Match", found.none_match), ("If-Match", found.match)) if not kept]
    if broken:
        cause = f"the store ignores {' and '.join(broken)}: versions are compared before each write instead"
        return [
            warning("conditions", cause, "let one host at a time write a session, or use a store that keeps to them")
        ]
    return [ok("conditions", "If-None-Match and If-Match are kept to")]


def unknown_conditions(error: CacheSyncError) -> list[Finding]:
    """Report that the probe for conditional writes failed."""
    denied = "denied" if isinstance(error, StoreDenied) else "not tried"
    cause = f"unknown: {denied} ({error.reason}): versions are compared before each write"
    return [warning("conditions", cause, f"{PROBE_RIGHTS}, which saves one request for each write")]


def copies(refused: CacheSyncError | None) -> list[Finding]:
    """Report whether the store copies objects, which renamed files and conflict copies need."""
    if refused is not None:
        cause = f"the store does not copy: {refused.reason}; renamed files are sent again"
        return [warning("copies", cause, "use a store that supports CopyObject with conditions")]
    return [ok("copies", "renamed files are copied in the store")]


def checksums(*, confirmed: bool, wrong_refused: bool) -> list[Finding]:
    """Whether the store checks what it gets (P5)."""
    if not wrong_refused:
        cause = "the store took bytes with a wrong SHA-256: it does not notice what is damaged on the way"
        return [warning("checksums", cause, "use https, and a store that checks x-amz-checksum-sha256")]
    if not confirmed:
        cause = "the store checks SHA-256 and does not tell it: what it has is not compared without reading"
        return [warning("checksums", cause, "use a store that returns x-amz-checksum-sha256")]
    return [ok("checksums", "SHA-256 is checked and kept")]


def versioning(status: str | None, mend: str, fault: CacheSyncError | None = None) -> list[Finding]:
    """Whether deleted and overwritten files can be brought back (P8). ``status`` is S3's word, None for none."""
    if fault is not None:
        return [warning("versioning", f"could not be asked: {fault.reason}", "allow s3:GetBucketVersioning")]
    if status == "Enabled":
        return [ok("versioning", "on: history and restore bring back what was deleted or overwritten")]
    return [warning("versioning", "off: what is deleted or overwritten is gone for good", mend)]


def clock(date: str | None, now: float) -> list[Finding]:
    """How far this machine's clock is from the store's; ``date`` is the Date of an answer that came just now."""
    try:
        skew = now - parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return [ok("clock", "the store does not tell its time")]
    seen = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the store's"
    mend = "set this machine's clock, and keep it by NTP (timedatectl set-ntp true)"
    if abs(skew) >= _SKEW_REFUSED:
        return [problem("clock", f"{seen}; S3 refuses what is 15 minutes off", mend)]
    if abs(skew) >= _SKEW_TOLD:
        return [warning("clock", seen, mend)]
    return [ok("clock", "that of the store" if abs(skew) <= 1 else seen)]


def unreachable(error: CacheSyncError) -> list[Finding]:
    """The store gave no answer that would allow to ask for more."""
    row = failed("store", error)
    return [problem("store", f"{row.seen}; nothing else of it was checked", row.mend)]


def another(served: str, asked: str, *, chosen: bool) -> list[Finding]:
    """The daemon stores elsewhere than this command is set to; ``chosen`` is whether somebody set it so."""
    if chosen:
        cause = f"this command is set to {asked}, and the root's daemon stores in {served}"
        return [problem("store", cause, "set the store to the daemon's, or name another root")]
    cause = f"the daemon stores in {served}, whose address only it has: not checked"
    mend = "give doctor the daemon's settings, or the --dev-server DIR that it was started with"
    return [warning("store", cause, mend)]
