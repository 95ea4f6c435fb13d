"""How much memory can be taken: on a device, on this machine, and by this process."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

import torch

MACHINE = Path("/")


def free_memory(device: str, root: Path = MACHINE) -> int:
    """Bytes that can be taken on a device without pushing others out, or being ended for it.

    Args:
        device: as torch calls it.
        root: the folder that holds ``proc`` and ``sys``.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min([_left_on_machine(root), *_left_in_groups(root)])


def _left_on_machine(root: Path) -> int:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):  # Not Linux: a quarter of all there is.
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


def _left_in_groups(root: Path) -> Iterator[int]:
    """What each control group that this process is in still allows: a container's, a batch job's, a service's."""
    text = ""
    with suppress(OSError, ValueError):  # Not Linux.
        text = (root / "proc/self/cgroup").read_text()
    for controllers, path in re.findall(r"^\d+:([^:\n]*):(.*)$", text, re.MULTILINE):
        if not controllers:  # Version 2.
            folder, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):  # Version 1.
            folder = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        for one in (group, *group.parents):  # In a container the path may be the host's, and the root its own group.
            left = _left_in_group(folder / one, *names)
            if left is not None:
                yield left


def _left_in_group(folder: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    """What a group may take beside what it has; None where it has no limit, or is not there."""
    try:
        most, taken = (int((folder / name).read_text()) for name in (limit, usage))
    except (OSError, ValueError):  # The second for "max".
        return None
    with suppress(OSError, ValueError, KeyError):  # Files that were read and are kept while nobody needs the space.
        counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        taken -= int(counts[reclaimable])
    return max(0, most - taken)
