"""What this machine has left: memory, within the limits of a container."""

from __future__ import annotations

import os
from pathlib import Path

GIB = 2**30
GROUP = Path("/sys/fs/cgroup")


def available() -> float:
    """Bytes that may still be taken: what the system can give, and no more than its container's limit leaves."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = float(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        free = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    try:
        limit, used = (float((GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):
        return free  # no container, or one without a limit
    return max(0.0, min(free, limit - used))


def gib(size: float) -> str:
    """Bytes in words."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"
