"""``python -m cachesync``."""

import sys

from cachesync.cli import main

sys.exit(main())
