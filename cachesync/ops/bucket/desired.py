"""What an operator wants of a bucket, and how a setting of it stands. Pure."""

from __future__ import annotations

from enum import StrEnum
from urllib.parse import urlsplit

from cachesync.model.errors import ExitCode, UsageError
from cachesync.model.keys import printable
from cachesync.model.record import record
from cachesync.model.reports import Json

LOG_DAYS = 30
ARCHIVE_DAYS = 90
VERSION_DAYS = 30
UPLOAD_DAYS = 7

SPACES = ("sessions/", "projects/", "templates/")
"""Where cachesync keeps objects. A bucket without a prefix may hold those of others beside them."""

_AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn")


@record(frozen=True, slots=True)
class Wanted:
    """One bucket, how it is reached, and the choices that there are.

    Days of 0 mean never. ``archive_days`` None is ARCHIVE_DAYS on AWS and not asked of any other store. Raises
    UsageError for a log bucket that is the bucket itself.
    """

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    sse: str | None = None
    sse_kms_key_id: str | None = None
    log_bucket: str | None = None
    log_days: int = LOG_DAYS
    archive_days: int | None = None
    version_days: int = VERSION_DAYS
    upload_days: int = UPLOAD_DAYS

    def __post_init__(self) -> None:
        if self.log_bucket == self.bucket:
            cause = "a bucket that logs into itself logs its own logs for ever"
            raise UsageError("use the log bucket", self.bucket, cause, "name another one")

    @property
    def encrypted_way(self) -> bool:
        """Whether requests reach the store by TLS. If not, a policy that asks for TLS would lock everybody out."""
        return self.endpoint is None or urlsplit(self.endpoint).scheme == "https"

    @property
    def on_aws(self) -> bool:
        """Whether the store is AWS's own."""
        host = urlsplit(self.endpoint).hostname if self.endpoint else _AWS_HOSTS[0]
        return bool(host) and f".{host}".endswith(_AWS_HOSTS)

    @property
    def arn(self) -> str:
        """The bucket's name for policies; the region says which of AWS's worlds it is in."""
        region = self.region or ""
        world = "aws-cn" if region.startswith("cn-") else "aws-us-gov" if region.startswith("us-gov-") else "aws"
        return f"arn:{world}:s3:::{self.bucket}"

    @property
    def sessions(self) -> str:
        """The start of the keys of all sessions."""
        return f"{self.prefix}/{SPACES[0]}" if self.prefix else SPACES[0]

    @property
    def scopes(self) -> tuple[str, ...]:
        """The starts of all keys that are cachesync's."""
        return (f"{self.prefix}/",) if self.prefix else SPACES


class State(StrEnum):
    """How one setting of the bucket stands."""

    OK = "ok"
    DIFFERS = "differs"
    SET = "set"
    UNSUPPORTED = "unsupported"
    LEFT_OUT = "left out"
    REFUSED = "refused"


@record(frozen=True, slots=True)
class Setting:
    """One row of ``cachesync bucket``. ``note`` is the mend, or why it was left out, is unsupported or was refused."""

    name: str
    state: State
    found: str
    wanted: str
    why: str
    note: str = ""

    def json(self) -> Json:
        """One item of "settings" in the JSON of ``bucket init`` and ``check``."""
        return {
            "setting": self.name,
            "state": str(self.state),
            "found": printable(self.found),
            "wanted": printable(self.wanted),
            "why": self.why,
            "note": printable(self.note) or None,
        }


def exit_code(settings: list[Setting], *, strict: bool) -> ExitCode:
    """1 if something was refused, and with ``strict`` also if something differs."""
    bad = {State.REFUSED, State.DIFFERS} if strict else {State.REFUSED}
    return ExitCode.FAILED if any(row.state in bad for row in settings) else ExitCode.DONE
