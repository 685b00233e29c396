"""How large networks may be; importing it does not load JAX."""

import os
import resource
from contextlib import suppress
from pathlib import Path

MOST_WITH_MATRICES = 46_340
"""Most units of a layer with a weight matrix, which then has 2³¹ numbers."""
MOST_UNITS = 10_000_000
"""Most units of any layer."""
MOST_LAYERS = 1_000_000


def memory_limit() -> int:
    """The bytes that this process may use.

    The least of the memory of the machine and of the limits that are set: by its control group (a
    container), by Slurm for the job on this node, and by `ulimit -v`.
    """
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    found += _of_control_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    slurm = os.environ.get("SLURM_MEM_PER_NODE", "")
    if slurm.isdigit() and int(slurm) > 0:  # in megabytes; 0 is all of the node
        found.append(int(slurm) * 2**20)
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        found.append(soft)
    return min(found)


def _of_control_groups(groups: Path, root: Path) -> list[int]:
    """The limits of the control groups of this process, and of those around them."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = root / controllers
        file = "memory.max" if controllers == "" else "memory.limit_in_bytes"
        here = top / name.lstrip("/")
        for folder in (here, *here.parents):
            with suppress(OSError, ValueError):  # no such file, or "max"
                found.append(int((folder / file).read_text()))
            if folder == top:
                break
    return found
