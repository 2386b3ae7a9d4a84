"""What the measuring loop costs: our p50 ÷ the p50 of a bare `session.run_with_iobinding` loop.

    python benchmarks/overhead.py [--seconds 20] [--write docs/benchmarks.md]

Both loops run the same ONNX Runtime session on the same binding in the same process, pinned to one CPU, garbage
collector off, in blocks of about 20 ms whose order is drawn by a seeded coin: the ratio is about the loop and not
about the host. The bare loop does the least that gives a time per inference: two stamps around the call and a store
into a list that is there already.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import random
import runpy
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import sections
from trt_action import engine
from trt_action.engine.backend import Array, Loadable, RuntimeOptions
from trt_action.evidence import Estimate
from trt_action.measure import usable_cpus, worker
from trt_action.measure.baseline import ratio_estimate

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
GOAL = 1.01
BLOCK_SECONDS = 0.02


@dataclass(frozen=True)
class Row:
    name: str
    pairs: int
    bare_p50_us: float
    block: Estimate
    latency: Estimate


def bare_loop(session: Any, binding: Any, wall: list[int]) -> None:
    clock = time.perf_counter_ns
    for i in range(len(wall)):
        begin = clock()
        session.run_with_iobinding(binding)
        wall[i] = clock() - begin


def measure(name: str, path: Path, feeds: dict[str, Array], seconds: float, seed: int) -> Row:
    """Blocks of the three loops in random order until `seconds` are over."""
    loadable = Loadable("onnxruntime", path, RuntimeOptions(threads=1), prepared=False)
    session: Any = engine.backend(loadable.backend).load(loadable)
    session.bind(feeds)
    worker.warm_up(session.run, 200_000_000, 3_000_000_000)
    ort_session, binding = session._session, session._binding
    walls: dict[str, list[list[int]]] = {"bare": [], "block": [], "latency": []}
    begin = time.perf_counter()
    session.run()
    once = time.perf_counter() - begin
    iterations = max(3, int(BLOCK_SECONDS / once))

    def block(kind: str) -> list[int]:
        wall = [0] * iterations
        if kind == "bare":
            bare_loop(ort_session, binding, wall)
        elif kind == "block":
            worker.timed_loop(session.run, wall, 0, iterations)
        else:
            wall = worker.timed_for(session.run, 0, iterations)
        return wall

    order = random.Random(seed)
    kinds = list(walls)
    gc.collect()
    gc.freeze()
    gc.disable()
    while time.perf_counter() - begin < seconds or len(walls["bare"]) < 12:
        order.shuffle(kinds)
        for kind in kinds:
            walls[kind].append(block(kind))
    gc.enable()
    return Row(
        name,
        len(walls["bare"]),
        statistics.median(itertools.chain(*walls["bare"])) / 1e3,
        ratio(walls["block"], walls["bare"]),
        ratio(walls["latency"], walls["bare"]),
    )


def ratio(ours: list[list[int]], bare: list[list[int]]) -> Estimate:
    """Ratio of p50 from paired block medians, 95 %."""
    logs = [np.log(statistics.median(a) / statistics.median(b)) for a, b in zip(ours, bare, strict=True)]
    return ratio_estimate(np.array(logs))


def models(folder: Path) -> list[tuple[str, Path, dict[str, Array]]]:
    rng = np.random.default_rng(0)
    found = [("one convolution", tiny(folder / "tiny.onnx"))]
    found.append(("digits CNN", EXAMPLES / "digits" / "base.onnx"))
    resnet = folder / "resnet50.onnx"
    onnx.save(runpy.run_path(str(EXAMPLES / "resnet50" / "make.py"))["build"](seed=0), resnet)
    found.append(("ResNet-50, 224 × 224", resnet))
    rows = []
    for name, path in found:
        inputs = onnx.load(str(path), load_external_data=False).graph.input
        feeds = {
            value.name: rng.standard_normal(
                [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim], dtype=np.float32
            )
            for value in inputs
        }
        rows.append((name, path, feeds))
    return rows


def tiny(path: Path) -> Path:
    """About 20 µs: the size at which a loop's own cost shows most."""
    weight = np.random.default_rng(0).standard_normal((8, 8, 3, 3), dtype=np.float32)
    shape = [1, 8, 16, 16]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def cell(estimate: Estimate) -> str:
    return f"{estimate.estimate:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="per model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, help="Markdown file whose section `overhead` is replaced")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, usable_cpus(1))
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measure(name, path, feeds, arguments.seconds, arguments.seed) for name, path, feeds in models(Path(folder))
        ]
    worst = max(estimate.estimate for row in rows for estimate in (row.block, row.latency))
    body = "\n\n".join(
        [
            "## What the measuring loop costs",
            f"`python benchmarks/overhead.py --seconds {arguments.seconds:g} --seed {arguments.seed}` on {sections.host()}, "
            "one thread. Our p50 ÷ the p50 of a bare `run_with_iobinding` loop, interleaved in one process; "
            "Hodges–Lehmann of paired block medians with its 95 % interval. "
            f"Goal ≤ {GOAL}; worst {worst:.4f}: {'reached' if worst <= GOAL else 'missed'}.",
            sections.table(
                ["model", "blocks", "bare p50, µs", "loop of the comparison", "loop of the latency pass"],
                [
                    [row.name, str(row.pairs), f"{row.bare_p50_us:,.1f}", cell(row.block), cell(row.latency)]
                    for row in rows
                ],
            ),
        ]
    )
    print(body)
    if arguments.write:
        sections.write(arguments.write, "overhead", body)


if __name__ == "__main__":
    main()
