"""Process 1 of a container, without an init of its own: it passes signals on and buries orphans.

The kernel drops a signal that process 1 has no handler for, and gives it every orphan of the container: what a shell
that was executed beside the daemon has left. So process 1 is kept as small as this, and the command runs below it.
"""

from __future__ import annotations

import contextlib
import os
import signal

_PASSED_ON = frozenset({
    signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
})  # fmt: skip
_FROM_THE_TERMINAL = 0x80
"""The si_code of a signal that the kernel itself sends, to the whole foreground group: the child has it already."""


def stand_in() -> int | None:
    """Let a child run the command: None in the child, which goes on; in process 1 its exit code, once it has ended.

    A child that a signal ended counts as 128 + its number, as a shell says it. Call it before threads are started.
    """
    from cachesync.config.undumpable import hide_memory

    hide_memory()  # it has the command's environment
    watched = _PASSED_ON | {signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)  # from here on none is dropped: they wait
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return None
    while True:
        told = signal.sigwaitinfo(watched)
        if told.si_signo == signal.SIGCHLD:
            if (code := _bury(child)) is not None:
                return code
        elif told.si_code != _FROM_THE_TERMINAL:
            with contextlib.suppress(ProcessLookupError):  # it has just ended, as the next signal says
                os.kill(child, told.si_signo)


def _bury(child: int) -> int | None:
    """Reap all that have ended; the exit code of ``child`` if it is among them."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return None
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
