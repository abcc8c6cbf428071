"""How a job behaves beside the server on the same cores: it comes second, and ends with whoever started it."""

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

NICENESS = 10  # where the system has no class of its own for what may wait
AUTOGROUP = Path("/proc/self/autogroup")  # sched(7): each session counts as one; niceness is within it
PR_SET_PDEATHSIG = 1  # prctl(2)


def work_in_background() -> None:
    """Let every other process go first, and be asked to stop when the parent dies.

    To be called before torch starts its threads, which inherit it, in a session of its own. Threads of torch
    spin while they wait for each other: at mere niceness they take a chat on the same cores down with them.
    """
    if sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        with suppress(OSError):  # not every kernel groups, and not every container lets us
            AUTOGROUP.write_text("19")
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    else:
        os.nice(NICENESS)


def become(command: list[str]) -> None:
    """Go on as `command`, which keeps this: a launcher is asked to stop, too, when its round dies."""
    work_in_background()
    os.execvp(command[0], command)


if __name__ == "__main__":
    become(sys.argv[1:])
