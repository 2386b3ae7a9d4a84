"""A bursty neighbour on the measured CPU: `python benchmarks/neighbour.py CPU SEED`.

Busy for 150 ms on average, idle for 350 ms on average, both exponential: copies memory that does not fit into the
caches, and multiplies matrices. Ends when its parent ends.
"""

from __future__ import annotations

import os
import random
import sys
import time

import numpy as np

BUSY_SECONDS = 0.15
IDLE_SECONDS = 0.35


def main() -> None:
    cpu, seed = int(sys.argv[1]), int(sys.argv[2])
    os.sched_setaffinity(0, {cpu})
    parent = os.getppid()
    draw = random.Random(seed)
    source = np.ones(4 << 20, dtype=np.float32)  # 16 MB
    target = np.empty_like(source)
    square = np.ones((192, 192), dtype=np.float32)
    while os.getppid() == parent:
        end = time.monotonic() + draw.expovariate(1 / BUSY_SECONDS)
        while time.monotonic() < end:
            np.copyto(target, source)
            square @ square
        time.sleep(draw.expovariate(1 / IDLE_SECONDS))


if __name__ == "__main__":
    main()
