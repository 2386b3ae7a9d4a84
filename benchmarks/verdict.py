"""Can the verdict be trusted? False alarms, power and time of `compare`, beside the usual rules on the same machine.

    python benchmarks/verdict.py [--trials 15] [--write docs/benchmarks.md]             60 trials per effect, about an hour
    python benchmarks/verdict.py --trials 60 --output a.jsonl --core 0 --nets small     the long form, in pieces:
    python benchmarks/verdict.py --trials 60 --output b.jsonl --core 1 --nets medium    two at a time, one CPU each
    python benchmarks/verdict.py --report a.jsonl b.jsonl --write docs/benchmarks.md

One trial = the product's own `compare` (fresh processes, its own stop rule), and before it 1 s of base and 1 s of
head one after the other in fresh processes, for the rules that work that way. The slowdown is real: 1, 2 or 5 more
layers on a chain of 100. A noisy trial has a bursty neighbour on the same CPU. A run that is stopped goes on where
it was when it is started again with the same --output.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import nets, rivals, verdict_report
from trt_action import arrays
from trt_action.engine.backend import Loadable, RuntimeOptions
from trt_action.evidence import Comparison
from trt_action.measure import Plan, compare, open_unit, usable_cpus
from trt_action.measure.pairs import block_median, block_minimum, from_series
from trt_action.measure.sides import Worker, ready

SEQUENTIAL_SECONDS = 1.0
MARGINS = {1: 0.003}
"""An effect of 1 % is looked for with a margin that asks for it."""


@dataclass(frozen=True)
class Condition:
    """`effect` in layers of 100, so in percent; `margin` of the plan as a fraction."""

    net: str
    effect: int
    noisy: bool
    margin: float

    def trials(self, done: list[dict[str, Any]]) -> int:
        """How many of the recorded trials are of this condition."""
        return sum(Condition(*(trial[key] for key in ("net", "effect", "noisy", "margin"))) == self for trial in done)


def run_trial(condition: Condition, number: int, folder: Path, cpu: int, max_seconds: float) -> dict[str, Any]:
    options = RuntimeOptions(threads=1)
    base = Loadable("onnxruntime", nets.make(folder, condition.net, 0), options, prepared=False)
    head = Loadable("onnxruntime", nets.make(folder, condition.net, condition.effect), options, prepared=False)
    feeds = folder / f"{condition.net}.npz"
    arrays.save_npz(feeds, nets.feeds(condition.net))
    cpus = frozenset({cpu})
    seed = 1_000 * number + 100 * condition.effect + 10 * condition.noisy + sorted(nets.SIZES).index(condition.net)
    with neighbour(cpu, seed) if condition.noisy else contextlib.nullcontext():
        sequential = rivals.summarize(samples(base, feeds, cpus), samples(head, feeds, cpus))
        begin = time.monotonic()
        comparison = compare(
            functools.partial(open_unit, head, base, feeds, feeds, cpus=cpus),
            Plan(seed=seed, margin=condition.margin, max_seconds=max_seconds),
        )
        seconds = time.monotonic() - begin
    return {
        "net": condition.net,
        "effect": condition.effect,
        "noisy": condition.noisy,
        "margin": condition.margin,
        "number": number,
        "seed": seed,
        "verdict": comparison.verdict,
        "seconds": seconds,
        "pairs": comparison.pairs,
        "p50_ratio": comparison.p50_ratio.model_dump() if comparison.p50_ratio else None,
        "noise_floor": comparison.noise_floor.model_dump() if comparison.noise_floor else None,
        "log_ratios": log_ratios(comparison),
        "sequential": sequential,
    }


def log_ratios(comparison: Comparison) -> dict[str, list[float]]:
    """What another rule would be judged by on the same pairs: ln(head / base) of block medians, and base / base."""
    if comparison.series is None:
        return {}
    recording = from_series(comparison.series)
    return {
        "unit": [int(unit) for unit in recording.main.unit],
        "median": [round(float(d), 6) for d in recording.main.differences(block_median)],
        "minimum": [round(float(d), 6) for d in recording.main.differences(block_minimum)],
        "floor_unit": [int(unit) for unit in recording.floor.unit],
        "floor": [round(float(d), 6) for d in recording.floor.differences(block_median)],
    }


def samples(loadable: Loadable, feeds: Path, cpus: frozenset[int]) -> list[int]:
    """Durations (ns) of one second in a fresh process, warmed up."""
    with Worker("rival", loadable, feeds, cpus=cpus) as worker:
        ready([worker], min_warmup=0.2)
        wall: list[int] = worker.ask("loop", seconds=SEQUENTIAL_SECONDS, min_iterations=10, rewarm_ns=0)["wall_ns"]
    return wall


@contextlib.contextmanager
def neighbour(cpu: int, seed: int) -> Iterator[None]:
    script = Path(__file__).with_name("neighbour.py")
    process = subprocess.Popen([sys.executable, str(script), str(cpu), str(seed)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def conditions(arguments: argparse.Namespace) -> list[Condition]:
    return [
        Condition(net, effect, noisy, margin)
        for effect in arguments.effects
        for margin in arguments.margins or [MARGINS.get(effect, Plan().margin)]
        for net in arguments.nets
        for noisy in [{"quiet": False, "noisy": True}[host] for host in arguments.hosts]
    ]


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Round after round over the conditions, so that an early end leaves equal numbers of each."""
    done = verdict_report.read([arguments.output]) if arguments.output and arguments.output.exists() else []
    cpu = arguments.core if arguments.core is not None else min(usable_cpus(1))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        if arguments.output:
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context(arguments.output.open("a")) if arguments.output else None
        for number in range(arguments.first, arguments.first + arguments.trials):
            for condition in conditions(arguments):
                if condition.trials(done) > number - arguments.first:
                    continue
                trial = run_trial(condition, number, Path(folder), cpu, arguments.max_seconds)
                done.append(trial)
                print(
                    f"{number + 1 - arguments.first}/{arguments.trials} {condition}: {trial['verdict']} in {trial['seconds']:.1f} s"
                )
                if file:
                    file.write(json.dumps(trial) + "\n")
                    file.flush()
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=15, help="per condition: effect, net, and host quiet or noisy")
    parser.add_argument("--first", type=int, default=0, help="number of the first trial: pieces need other seeds")
    parser.add_argument("--output", type=Path, help="JSON lines, one per trial; read first, then appended to")
    parser.add_argument("--core", type=int, help="CPU of all workers and of the neighbour")
    parser.add_argument("--nets", nargs="+", choices=sorted(nets.SIZES), default=["small", "medium"])
    parser.add_argument("--effects", nargs="+", type=int, default=[0, 1, 2, 5], help="layers of 100")
    parser.add_argument("--hosts", nargs="+", choices=["quiet", "noisy"], default=["quiet", "noisy"])
    parser.add_argument("--margins", nargs="+", type=float, help="default: 0.5 %%, and 0.3 %% for +1 %%")
    parser.add_argument("--max-seconds", type=float, default=60.0)
    parser.add_argument("--report", type=Path, nargs="+", help="run nothing; report these files")
    parser.add_argument(
        "--write", type=Path, help="Markdown file whose section `verdict` is replaced, with a plot beside"
    )
    arguments = parser.parse_args()
    trials = verdict_report.read(arguments.report) if arguments.report else run(arguments)
    command = f"python benchmarks/verdict.py {' '.join(sys.argv[1:])}".strip()
    print(verdict_report.report(trials, command, arguments.write))


if __name__ == "__main__":
    main()
