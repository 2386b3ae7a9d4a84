"""A stop is heard wherever it meets the program."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import os, signal, time
from trt_action import interruption

class Finalised:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass  # the handler runs in here, and what it raises goes nowhere

interruption.on_signals(lambda number: f"stopped by {number}")
try:
    Finalised()
    for _ in range(200):
        time.sleep(0.1)
    print("went on")
except KeyboardInterrupt as stop:
    print(stop)
"""


def test_a_signal_that_meets_a_finaliser_stops_the_run_all_the_same() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("stopped by 15\n", "")
