"""``python -m tests.tenants.attacker``: the process of one attacker, with its plan on stdin; a line for each attack."""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import time
import traceback
from pathlib import Path

from tests.tenants.agent import Agent, Plan
from tests.tenants.attacks import ATTACKS, order

_ROUNDS = 1000


def main() -> int:
    """Attack until stdin is closed or the process is killed."""
    plan = Plan.told()
    os.nice(10)  # the kernel shares the processors; what the daemon shares is what is tried
    for number, name in enumerate(order(plan.seed, plan.attacks, _ROUNDS)):
        chance = random.Random(f"{plan.seed}/{number}")
        top = chance.choice([top for top in (plan.root, plan.mount) if top])
        session = chance.choice(plan.sessions)
        begun = time.monotonic()
        agent = Agent(plan, chance, Path(top, session), session, begun + plan.limit * chance.uniform(0.5, 1.5))
        said = ""
        with contextlib.suppress(OSError):
            agent.top.chmod(0o700)
        try:
            ATTACKS[name](agent)
        except OSError:
            agent.refused += 1
        except Exception:  # noqa: BLE001 -- a fault of the attack is told, and the next one begins
            said = traceback.format_exc()
        if chance.random() < 0.6:
            with contextlib.suppress(OSError):
                agent.clear()
        told = {
            "attack": name, "tries": agent.tries, "refused": agent.refused, "breaches": agent.breaches[:20],
            "seconds": time.monotonic() - begun, "fault": said,
        }  # fmt: skip
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
