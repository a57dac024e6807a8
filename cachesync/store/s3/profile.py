"""Whether AWS's files say anything that only botocore understands. Reads them, and nothing else."""

from __future__ import annotations

import configparser
import os
from collections.abc import Iterator, Mapping

_FILES = (
    ("AWS_CONFIG_FILE", "~/.aws/config", ("default", "profile default")),
    ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials", ("default",)),
)
"""The variable that names a file, where it is else, and what the default profile is called in it."""

_KEYS = frozenset({"aws_access_key_id", "aws_secret_access_key", "aws_session_token"})
"""Not asked for, where a key is in the environment."""

_OF_THE_CLI = frozenset({
    "cli_auto_prompt", "cli_history", "cli_pager", "cli_timestamp_format", "output",
    "io_chunksize", "max_bandwidth", "max_concurrent_requests", "max_queue_size", "multipart_chunksize",
    "multipart_threshold", "preferred_transfer_client", "target_bandwidth",
})  # fmt: skip
"""Settings of ``aws`` itself; those of its "s3" are https://docs.aws.amazon.com/cli/latest/topic/s3-config.html"""


def region(environment: Mapping[str, str]) -> str | None:
    """The default profile's region, "" if it names none. None if the files say more, or cannot be understood: all of
    that is botocore's."""
    found = ""
    try:
        for name, value in _settings(environment):
            if name == "region":
                found = value
            elif name not in _KEYS | _OF_THE_CLI:
                return None
    except (OSError, ValueError, configparser.Error):
        return None
    return found


def _settings(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for variable, usual, sections in _FILES:
        parser = configparser.RawConfigParser(default_section="")
        parser.read(os.path.expanduser(environment.get(variable, usual)), encoding="utf-8")
        for section in filter(parser.has_section, sections):
            for name, value in parser.items(section):
                if not value.startswith("\n"):
                    yield name, value
                    continue
                for line in value.split("\n")[1:]:  # settings in a setting: "s3 ="
                    inner = line.partition("=")[0].strip()
                    yield inner if name == "s3" and inner in _OF_THE_CLI else name, ""
