"""Times of the demo: `make demo`'s command with an empty and with a warm engine cache, and of `trt-action --help`.

python benchmarks/demo.py --write docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import sections

ROOT = Path(__file__).parents[1]
GOALS = {"cold": 60.0, "warm": 15.0, "help": 0.2}
"""Seconds (goals of the product, not limits of a test: a busy host is slower)."""

HELP_RUNS = 9


def command() -> list[str]:
    """What `make demo` runs, without its output folder."""
    (line,) = (line for line in (ROOT / "Makefile").read_text().splitlines() if "trt-action run" in line)
    words = line.split()[1:]
    del words[words.index("--output") :]
    return [sys.executable, "-m", "trt_action", *words]


def demo(folder: Path) -> tuple[float, dict[str, float], str]:
    """Seconds of one demo with the cache in `folder`, seconds by stage, and what the verdict was."""
    environment = {**os.environ, "TRT_ACTION_CACHE": str(folder / "cache")}
    start = time.monotonic()
    done = subprocess.run(
        [*command(), "--output", str(folder / "report")],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    seconds = time.monotonic() - start
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr)
    record = json.loads((folder / "report" / "evidence.json").read_text())
    stages = {stage["name"]: stage["seconds"] for stage in record["stages"]}
    comparison = record["comparison"]
    return seconds, stages, f"{record['outcome']}; {comparison['verdict']} after {comparison['pairs']} pairs"


def help_seconds() -> float:
    """Median of `trt-action --help` as the installed script, seconds."""
    script = shutil.which("trt-action", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if script is None:
        raise SystemExit("`trt-action` is not installed in this environment: `make demo` installs it.")
    times = []
    for _ in range(HELP_RUNS):
        start = time.monotonic()
        subprocess.run([script, "--help"], stdout=subprocess.DEVNULL, check=True, timeout=60)
        times.append(time.monotonic() - start)
    return statistics.median(times)


def report(cold: tuple[float, dict[str, float], str], warm: tuple[float, dict[str, float], str], shown: float) -> str:
    rows = [
        ["`make demo`, engines built", f"{cold[0]:.1f} s", f"≤ {GOALS['cold']:g} s", cold[2]],
        ["`make demo`, engines cached", f"{warm[0]:.1f} s", f"≤ {GOALS['warm']:g} s", warm[2]],
        [f"`trt-action --help`, median of {HELP_RUNS}", f"{shown * 1000:.0f} ms", f"≤ {GOALS['help']:g} s", ""],
    ]
    inside = [[name, f"{seconds:.2f} s", f"{warm[1].get(name, 0):.2f} s"] for name, seconds in cold[1].items()]
    outside = ["start, reports, exit", *(f"{total - sum(stages.values()):.2f} s" for total, stages, _ in (cold, warm))]
    return "\n\n".join(
        [
            "## Demo",
            f"Host: {sections.host()}, load {os.getloadavg()[0]:.1f}.",
            sections.table(["command", "time", "goal", "verdict"], rows),
            sections.table(["stage", "engines built", "engines cached"], [*inside, outside]),
            "Made by `python benchmarks/demo.py --write docs/benchmarks.md`.",
        ]
    )


def main() -> None:
    """Measure, print, and write the section `demo` of the given file."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--write", type=Path, metavar="FILE")
    target = arguments.parse_args().write
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = report(demo(folder), demo(folder), help_seconds())
    print(text)
    if target:
        sections.write(target, "demo", text)


if __name__ == "__main__":
    main()
