"""Which CPUs the workers run on: the same ones for head and base, never one each."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")


def usable_cpus(threads: int, *, neighbour: int = 0) -> frozenset[int]:
    """As many CPUs of this process's affinity mask as an inference has threads; all of them for 0.

    Different cores come before second hardware threads of one core, high numbers before low ones: CPU 0 takes
    most interrupts, and on two CPUs the parent and the system keep the other one.

    Args:
        neighbour: which of the runs that measure on this host side by side this one is; each has CPUs of its own, as long
            as there are enough.
    """
    mask = os.sched_getaffinity(0)
    if threads <= 0 or threads >= len(mask):
        return frozenset(mask)
    seen: Counter[str] = Counter()
    ranked: list[tuple[int, int]] = []  # (which hardware thread of its core, -CPU)
    for cpu in sorted(mask, reverse=True):
        core = _core(cpu)
        ranked.append((seen[core], -cpu))
        seen[core] += 1
    ordered = [-negative for _, negative in sorted(ranked)]
    first = neighbour * threads
    return frozenset(ordered[(first + i) % len(ordered)] for i in range(threads))


def _core(cpu: int) -> str:
    """Name of the physical core, shared by its hardware threads; the CPU's own number where the kernel hides it."""
    try:
        return (_TOPOLOGY / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)
