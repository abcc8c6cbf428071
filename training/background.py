"""How a job behaves beside the server on the same cores: it comes second, and ends with whoever started it."""

import ctypes
import os
import signal
import sys

NICENESS = 10  # where the system has no class of its own for what may wait
PR_SET_PDEATHSIG = 1  # prctl(2)


def work_in_background() -> None:
    """Let every other process go first, and be asked to stop when the parent dies.

    To be called before torch starts its threads, which inherit it. Threads of torch spin while they wait for
    each other: at mere niceness they take a chat on the same cores down with them, as idle work they do not.
    """
    if sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    else:
        os.nice(NICENESS)
