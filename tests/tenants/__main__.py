"""``python -m tests.tenants --minutes M``: agents who attack other agents. Needs root; mounts if there is /dev/fuse.

``--seed`` plays the same attacks again. Prints a table; 0 if everything held, 1 if not.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.servers import SeaweedServer
from tests.tenants.attacks import ATTACKS
from tests.tenants.campaign import BUCKET, Campaign, Result


def main() -> int:
    """Play one campaign, and print its table."""
    parser = argparse.ArgumentParser(prog="python -m tests.tenants", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="of the attacks (default: the time)")
    parser.add_argument("--no-mount", action="store_true", help="the root only")
    parser.add_argument("--only", nargs="+", choices=list(ATTACKS), default=(), help="these classes of attack (all)")
    args = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("only root can be several users")
    seed = int(time.time()) if args.seed is None else args.seed
    result = play(60 * args.minutes, seed, mounted=os.path.exists("/dev/fuse") and not args.no_mount, only=args.only)
    sys.stdout.writelines(f"{line}\n" for line in result.table())
    return 1 if result.wrong else 0


def play(seconds: float, seed: int, *, mounted: bool, only: Sequence[str] = ()) -> Result:
    """One campaign with a server and a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="tenants"))
    folder.chmod(0o755)  # agents of other users go through it
    (folder / "s3").mkdir(mode=0o700)
    server = SeaweedServer(folder / "s3")
    try:
        server.start()
        server.make_bucket(BUCKET)
        campaign = Campaign(folder, server, seed, mounted=mounted, only=only)
        try:
            return campaign.run(seconds)
        finally:
            campaign.close()
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
