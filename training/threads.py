"""How many CPU threads this process may really use."""

import math
import os
from pathlib import Path

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # "<quota> <period>" or "max <period>" (cgroup v2)


def usable_threads() -> int:
    """OMP_NUM_THREADS where a person set it; else the cores this process may run on, within a container's
    quota, shared among the processes of a launcher.
    """
    shared_by = os.environ.get("LOCAL_WORLD_SIZE")
    wished = os.environ.get("OMP_NUM_THREADS", "")
    if wished.isdecimal() and shared_by is None:  # torchrun sets it to 1 by itself
        return max(1, int(wished))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if CGROUP_QUOTA.exists():
        quota, period = CGROUP_QUOTA.read_text().split()
        cores = cores if quota == "max" else min(cores, math.ceil(int(quota) / int(period)))
    return max(1, cores // int(shared_by or "1"))
