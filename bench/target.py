"""One bucket of an S3 server, and the environment that leads there."""

from __future__ import annotations

import os
from dataclasses import dataclass

REGION = "us-east-1"


@dataclass(frozen=True)
class Target:
    """One bucket, and how to reach it."""

    endpoint: str
    key: str
    secret: str
    bucket: str

    @property
    def env(self) -> dict[str, str]:
        """The environment of a client of it: of ours, of any SDK's, and of the peers' own."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "CACHESYNC_"))}
        return inherited | {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
            "S3_ENDPOINT": self.endpoint,
            "S3_ENDPOINT_URL": self.endpoint,
            "CACHESYNC_STORE": f"s3://{self.bucket}",
        }
