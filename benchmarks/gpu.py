"""What the product costs and finds on an NVIDIA GPU, with ONNX Runtime's CUDA provider.

    python benchmarks/gpu.py overhead --output build/gpu-overhead.jsonl [--seconds 2] [--cases resnet50-b1-fp16 …]
    python benchmarks/gpu.py verdict --output build/gpu-verdict.jsonl [--minutes 7] [--effects 0 2 5]
    python benchmarks/gpu.py report build/gpu-*.jsonl [--write docs/benchmarks.md]

`overhead`: for ResNet-50 (batch 1, 8, 64) and BERT-base (128 tokens), in fp32, TF32, fp16 and fp16 with a CUDA graph:
our p50 beside a bare `run_with_iobinding` loop over the same ONNX Runtime session and the same device memory,
interleaved in one process that is pinned to one CPU; then the product's own passes (worker processes): latency with
copies, trtexec's parts, device memory. One process per case: a case that fails is recorded and the next one goes on.
About 16 × 20 s.

`verdict`: trials of the product's own `compare`, pinned and watched as in a run: chains of 100 convolutions, and the same
with 2 or 5 more. A trial takes 20 to 180 s and is written when it is over: the run may be killed at any time, goes on where it
was with the same --output, and pieces from several machines (`--first 100`, `--first 200`, …) are reported together.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import os
import random
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import gpu_report, nets
from trt_action import arrays, engine
from trt_action.engine import devices, nvml
from trt_action.engine.backend import Array, Loadable, RuntimeOptions
from trt_action.measure import FREE_LOADING, Plan, compare, first_load, latencies, open_unit, usable_cpus, worker
from trt_action.measure.baseline import ratio_estimate

ROOT = Path(__file__).resolve().parents[1]
BLOCK_SECONDS = 0.02
DEVICE = "cuda:0"
CASE_TIMEOUT = 180.0


@dataclass(frozen=True)
class Case:
    """One engine at one shape."""

    model: str
    batch: int
    precision: str
    cuda_graph: bool = False

    @property
    def name(self) -> str:
        return f"{self.model}-b{self.batch}-{self.precision}{'-graph' if self.cuda_graph else ''}"

    def options(self, *, transfers: bool) -> RuntimeOptions:
        return RuntimeOptions(
            threads=1,
            device=DEVICE,
            tf32=self.precision == "tf32",
            cuda_graph=self.cuda_graph,
            transfers=transfers,
        )


WAYS = (("fp32", False), ("tf32", False), ("fp16", False), ("fp16", True))
CASES = tuple(
    Case(model, batch, precision, graph)
    for model, batches in (("resnet50", (1, 8, 64)), ("bert", (1,)))
    for batch in batches
    for precision, graph in WAYS
)


def make_models(folder: Path, names: Iterable[str]) -> None:
    """ONNX files and engines of these models, in fp32 and fp16, through the product's own build."""
    import trt_action.model as models
    from trt_action.precision import Recipe

    for model in names:
        path = folder / f"{model}.onnx"
        onnx.save(runpy.run_path(str(ROOT / "examples" / model / "make.py"))["build"](seed=0), path)
        found = models.load(path, label=model, name=None, shapes=None, batch_size=1)
        for precision in ("fp32", "fp16"):
            begin = time.monotonic()
            with engine.Cache(None, 0) as cache:
                built = engine.obtain(
                    found,
                    Recipe(precision=precision),
                    None,
                    backend="onnxruntime",
                    options=RuntimeOptions(threads=1, device=DEVICE),
                    cache=cache,
                    work_dir=folder / f"{model}-{precision}",
                    timeout=600,
                )
            (folder / f"{model}-{precision}.path").write_text(str(built.loadable.path))
            print(f"built {model} {precision} in {time.monotonic() - begin:.1f} s", flush=True)


def feeds_of(case: Case) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    if case.model == "bert":
        return {"ids": rng.integers(0, 30_000, (case.batch, 128), dtype=np.int64)}
    return {"image": rng.standard_normal((case.batch, 3, 224, 224), dtype=np.float32)}


def measure_case(case: Case, folder: Path, seconds: float) -> dict[str, Any]:
    """The record of one case; runs in a process of its own."""
    os.sched_setaffinity(0, usable_cpus(1))  # as the product's workers are
    watch, _ = nvml.watch(devices.facts(0).uuid)
    source = "fp16" if case.precision == "fp16" else "fp32"
    path = Path((folder / f"{case.model}-{source}.path").read_text())
    feeds = feeds_of(case)
    record: dict[str, Any] = {"part": "overhead", "case": case.name, **asdict(case)}
    record |= overhead(Loadable("onnxruntime", path, case.options(transfers=False)), feeds, seconds)
    saved = folder / f"{case.name}.npz"
    arrays.save_npz(saved, feeds)
    shipped = Loadable("onnxruntime", path, case.options(transfers=True))
    bare = replace(shipped, options=case.options(transfers=False))
    found = latencies(
        {"with": shipped, "without": bare}, {"with": saved, "without": saved}, seconds=seconds, windows=watch
    )
    memory, cold_start = first_load(shipped, saved)
    return record | {
        "latency": {name: one.model_dump(exclude={"series"}, mode="json") for name, one in found.items()},
        "memory": memory.model_dump(),
        "cold_start": cold_start.model_dump(),
    }


def overhead(loadable: Loadable, feeds: dict[str, Array], seconds: float) -> dict[str, Any]:
    """Our loops beside a bare one, in blocks of about 20 ms in random order, over one session."""
    session: Any = engine.backend(loadable.backend).load(loadable)
    session.bind(feeds)
    iterations, stable = worker.warm_up(session.run, 500_000_000, 5_000_000_000)
    begin = time.perf_counter()
    for _ in range(5):
        session.run()
    per_block = max(4, int(BLOCK_SECONDS / ((time.perf_counter() - begin) / 5)))
    bare = bare_run(session)
    walls: dict[str, list[float]] = {"bare": [], "block": [], "latency": [], "events": []}
    everything: dict[str, list[int]] = {kind: [] for kind in walls}
    order, kinds = random.Random(0), list(walls)
    gc.collect()
    gc.freeze()
    gc.disable()
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(walls["bare"]) < 12:
        order.shuffle(kinds)
        for kind in kinds:
            wall = [0] * per_block
            if kind == "bare":
                worker.timed_loop(bare, wall, 0, per_block)
            elif kind == "block":
                worker.timed_loop(session.run, wall, 0, per_block)
            elif kind == "latency":
                wall = worker.timed_for(session.run, 0, per_block)
            else:
                wall = session.device_times(per_block).wall_ns
            walls[kind].append(statistics.median(wall[1:]))
            everything[kind] += wall[1:]
    gc.enable()
    notes = list(session.notes)
    outputs = session.fetch()
    session.close()
    return {
        "warmup": [iterations, stable],
        "blocks": len(walls["bare"]),
        "bare_p50_ms": statistics.median(everything["bare"]) / 1e6,
        "bare_p99_ms": float(np.percentile(everything["bare"], 99)) / 1e6,
        "ratios": {
            kind: ratio_estimate(np.log(np.array(walls[kind]) / np.array(walls["bare"]))).model_dump()
            for kind in ("block", "latency", "events")
        },
        "notes": notes,
        "finite": all(bool(np.isfinite(output).all()) for output in outputs.values()),
    }


def bare_run(session: Any) -> Any:
    """The least that a program does: `run_with_iobinding`, which waits for the GPU itself."""
    import onnxruntime as ort

    call, binding = session._session.run_with_iobinding, session._binding
    if not session._options.cuda_graph:
        return lambda: call(binding)
    chosen = ort.RunOptions()
    chosen.add_run_config_entry("gpu_graph_id", str(session._graphs))
    return lambda: call(binding, chosen)


def run_overhead(arguments: argparse.Namespace) -> None:
    """Every case in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chosen = [case for case in CASES if not arguments.cases or case.name in arguments.cases]
        make_models(folder, dict.fromkeys(case.model for case in chosen))
        for case in chosen:
            begin = time.monotonic()
            command = [sys.executable, __file__, "case", case.name, str(folder), "--seconds", str(arguments.seconds)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=CASE_TIMEOUT, check=False)
                text = done.stdout.strip().splitlines()[-1] if done.returncode == 0 else ""
                record = json.loads(text) if text else failure(case, done.stderr)
            except subprocess.TimeoutExpired:
                record = failure(case, f"no end within {CASE_TIMEOUT:g} s")
            record["host"] = host()
            keep(arguments.output, record)
            print(f"{case.name}: {gpu_report.one_line(record)} ({time.monotonic() - begin:.0f} s)", flush=True)


def failure(case: Case, words: str) -> dict[str, Any]:
    return {"part": "overhead", "case": case.name, **asdict(case), "error": words[-2_000:]}


@functools.cache
def host() -> dict[str, Any]:
    import onnxruntime

    gpu = devices.facts(0)
    return {"gpu": gpu.name, "cuda": gpu.driver_cuda, "onnxruntime": onnxruntime.__version__, "binding": gpu.binding}


def run_verdict(arguments: argparse.Namespace) -> None:
    """Round after round over the conditions until the time is over."""
    done = gpu_report.read([arguments.output]) if arguments.output.exists() else []
    number = max((record["number"] for record in done if record["part"] == "verdict"), default=-1) + 1
    number = max(number, arguments.first)
    deadline = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as name:
        while time.monotonic() < deadline:
            for effect in arguments.effects:
                for net in arguments.nets:
                    if time.monotonic() < deadline:
                        print(f"{number} {net} +{effect} begins", flush=True)
                        options = RuntimeOptions(threads=1, device=DEVICE, cuda_graph=arguments.cuda_graph)
                        record = trial(net, effect, number, Path(name), arguments.max_seconds, options)
                        keep(arguments.output, record | {"host": host()})
                        print(f"{number} {net} +{effect}: {gpu_report.one_line(record)}", flush=True)
            number += 1


made = functools.cache(nets.make)


def trial(
    net: str, effect: int, number: int, folder: Path, max_seconds: float, options: RuntimeOptions
) -> dict[str, Any]:
    """One comparison of a chain of 100 layers with one that has `effect` more."""
    base, head = (Loadable("onnxruntime", made(folder, net, extra), options, prepared=False) for extra in (0, effect))
    feeds = folder / f"{net}.npz"
    arrays.save_npz(feeds, nets.feeds(net))
    watch, _ = nvml.watch(devices.facts(0).uuid)
    begin = time.monotonic()
    found = compare(
        functools.partial(open_unit, head, base, feeds, feeds, cpus=usable_cpus(options.threads)),
        Plan(seed=1_000 * number + effect, max_seconds=max_seconds, free_loading=FREE_LOADING * max_seconds),
        windows=watch,
    )
    record: dict[str, Any] = {"part": "verdict", "net": net, "effect": effect, "number": number}
    record["cuda_graph"] = options.cuda_graph
    record |= {"seconds": time.monotonic() - begin, "margin": found.margin}
    if watch is not None:
        record["telemetry"] = watch.finish().model_dump(mode="json", exclude={"gpu": {"uuid"}})
    for field in ("verdict", "reason", "pairs", "stopped", "warnings"):
        record[field] = getattr(found, field)
    record["units"] = [unit.model_dump() for unit in found.units]
    for field in ("p50_ratio", "noise_floor"):
        estimate = getattr(found, field)
        record[field] = estimate.model_dump() if estimate else None
    record["witnesses"] = {witness: estimate.model_dump() for witness, estimate in found.witnesses.items()}
    if found.series is not None:
        record["series"] = found.series.model_dump(mode="json")  # another rule can be judged by the same pairs
    return record


def keep(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    part = parts.add_parser("overhead")
    part.add_argument("--output", type=Path, default=Path("build/gpu-overhead.jsonl"))
    part.add_argument("--seconds", type=float, default=2.0, help="of every timed part of a case")
    part.add_argument("--cases", nargs="+", choices=[case.name for case in CASES])
    part = parts.add_parser("case")
    part.add_argument("name", choices=[case.name for case in CASES])
    part.add_argument("folder", type=Path)
    part.add_argument("--seconds", type=float, default=2.0)
    part = parts.add_parser("verdict")
    part.add_argument("--output", type=Path, default=Path("build/gpu-verdict.jsonl"))
    part.add_argument("--minutes", type=float, default=7.0)
    part.add_argument("--effects", nargs="+", type=int, default=[0, 2, 5], help="layers of 100")
    part.add_argument("--nets", nargs="+", choices=sorted(nets.GPU_SIZES | nets.MATMULS), default=["gpu", "gpu-matmul"])
    part.add_argument("--max-seconds", type=float, default=60.0)
    part.add_argument("--cuda-graph", action="store_true", help="as with the setting `cuda-graph`")
    part.add_argument("--first", type=int, default=0, help="number of the first trial: pieces need other seeds")
    part = parts.add_parser("report")
    part.add_argument("files", type=Path, nargs="+")
    part.add_argument(
        "--write", type=Path, help="Markdown file whose sections `gpu-overhead`, `gpu-verdict` are replaced"
    )
    arguments = parser.parse_args()
    if arguments.part == "overhead":
        run_overhead(arguments)
    elif arguments.part == "verdict":
        run_verdict(arguments)
    elif arguments.part == "report":
        print(gpu_report.report(gpu_report.read(arguments.files), arguments.write))
    else:
        case = next(case for case in CASES if case.name == arguments.name)
        try:
            print(json.dumps(measure_case(case, arguments.folder, arguments.seconds)))
        except Exception:  # noqa: BLE001 - the process's boundary: the parent records it and goes on
            traceback.print_exc()
            raise SystemExit(1) from None


if __name__ == "__main__":
    main()
