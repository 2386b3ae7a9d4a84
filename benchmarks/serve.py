"""Requests per second, latency and CPU of `trt-action serve` beside other servers, on the same engine in the same run.

python benchmarks/serve.py [--seconds 4] [--rounds 5] [--write docs/benchmarks.md]

Needs `wrk` on PATH. The server has one CPU and the load generator another. Servers take turns, round by round, so that a
busy host is unkind to all of them; each figure is the median over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import sections

ROOT = Path(__file__).parents[1]
CONCURRENCY = (1, 8, 32, 128)
GOALS = {1: 0.95, 32: 1.2}
"""Requests per second over those of the bare app, by concurrency (goals of the product, not limits of a test)."""

SHAPE = (1, 3, 32, 32)
LUA = """
wrk.method = "POST"
local file = io.open("{body}", "rb")
wrk.body = file:read("*all")
file:close()
wrk.headers["Inference-Header-Content-Length"] = "{json}"
"""


@dataclass(frozen=True)
class Figure:
    """One server at one concurrency for one round; latency in ms, CPU in ms per request."""

    qps: float
    p50: float
    p99: float
    cpu: float
    errors: int


def model(path: Path) -> None:
    """A small CNN: 3 x 32 x 32 to 10 classes, open batch axis."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((random.normal(size=shape) * 0.1).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("Gemm", ["f", "w3"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "cnn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *SHAPE[1:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])],
        [weights("w1", 16, 3, 3, 3), weights("w2", 32, 16, 3, 3), weights("w3", 32, 10)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def build(folder: Path) -> Path:
    """The version folder of the model, made by `trt-action build`."""
    model(folder / "cnn.onnx")
    version = folder / "repository" / "cnn" / "1"
    shapes = {"x": {"min": SHAPE, "opt": SHAPE, "max": (32, *SHAPE[1:])}}
    subprocess.run(
        [sys.executable, "-m", "trt_action", "build", str(folder / "cnn.onnx"), "--shapes", json.dumps(shapes),
         "--threads", "1", "--output", str(version)],
        cwd=ROOT, check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    return version


def script(folder: Path) -> Path:
    """What wrk sends: one binary tensor."""
    image = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    tensor = {"name": "x", "datatype": "FP32", "shape": SHAPE, "parameters": {"binary_data_size": image.nbytes}}
    document = {"inputs": [tensor], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}
    head = json.dumps(document).encode()
    (folder / "body").write_bytes(head + image.tobytes())
    path = folder / "post.lua"
    path.write_text(LUA.format(body=folder / "body", json=len(head)))
    return path


@contextmanager
def server(command: list[str], port: int, cpus: str) -> Iterator[psutil.Process]:
    """One server, up and pinned until the block ends."""
    process = subprocess.Popen(
        ["taskset", "-c", cpus, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        _wait(port, process)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.communicate(timeout=60)


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5):
                return
        except OSError:
            if process.poll() is not None:
                raise SystemExit((process.stderr.read() if process.stderr else b"").decode()) from None
            time.sleep(0.05)
    raise SystemExit(f"the server on port {port} did not get ready")


def load(port: int, lua: Path, concurrency: int, seconds: float, cpus: str, process: psutil.Process) -> Figure:
    """wrk's own figures, and the CPU time of the server."""
    address = f"http://127.0.0.1:{port}/v2/models/cnn/infer"
    before = process.cpu_times()
    done = subprocess.run(
        ["taskset", "-c", cpus, "wrk", "--latency", "-t1", f"-c{concurrency}", f"-d{max(1, round(seconds))}s",
         "-s", str(lua), address],
        check=True, capture_output=True, text=True, timeout=seconds + 60,
    )  # fmt: skip
    after = process.cpu_times()
    requests = int(re.findall(r"(\d+) requests in", done.stdout)[0])
    bad = sum(
        int(n) for n in re.findall(r"(?:Non-2xx or 3xx responses: |connect |read |write |timeout )(\d+)", done.stdout)
    )
    cpu = (after.user + after.system - before.user - before.system) * 1e3 / max(requests, 1)
    qps = float(re.findall(r"Requests/sec:\s+([\d.]+)", done.stdout)[0])
    return Figure(qps, _milliseconds(done.stdout, "50%"), _milliseconds(done.stdout, "99%"), cpu, bad)


def _milliseconds(text: str, percentile: str) -> float:
    (number, unit) = re.findall(rf"{percentile}\s+([\d.]+)(us|ms|s)", text)[0]
    return float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each server at each concurrency, per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--concurrency", type=int, nargs="+", default=CONCURRENCY)
    parser.add_argument("--write", type=Path, help="put the table into this Markdown file")
    parser.add_argument("--flag", action="append", default=[], help="more flags of `trt-action serve`")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("`wrk` is not on PATH: apt-get install wrk")
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise SystemExit("two CPUs are needed: one for the server, one for wrk")
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name), arguments, str(cpus[0]), str(cpus[1]))
    text = report(found, arguments)
    print(text)
    if arguments.write:
        sections.write(arguments.write, "serve", text)


def measure(folder: Path, arguments: argparse.Namespace, ours: str, theirs: str) -> dict[tuple[str, int], list[Figure]]:
    """Figures of every round by server and concurrency."""
    version, lua = build(folder), script(folder)
    ports = {"trt-action serve": free_port(), "bare Starlette": free_port()}
    commands = {
        "trt-action serve": [
            sys.executable, "-m", "trt_action", "serve", str(version.parents[1]), "--host", "127.0.0.1",
            "--port", str(ports["trt-action serve"]), "--access-log", "off", *arguments.flag,
        ],
        "bare Starlette": [
            sys.executable, "benchmarks/serve_bare.py", str(version / "engine.onnx"), str(ports["bare Starlette"]),
        ],
    }  # fmt: skip
    found: dict[tuple[str, int], list[Figure]] = {}
    for turn in range(arguments.rounds):
        for concurrency in arguments.concurrency:
            names = list(commands) if turn % 2 == 0 else list(commands)[::-1]
            for one in names:
                with server(commands[one], ports[one], ours) as process:
                    load(ports[one], lua, concurrency, 1, theirs, process)
                    figure = load(ports[one], lua, concurrency, arguments.seconds, theirs, process)
                found.setdefault((one, concurrency), []).append(figure)
                print(f"{turn} {one:<18} c={concurrency:<4} {figure}", file=sys.stderr)
    return found


def report(found: dict[tuple[str, int], list[Figure]], arguments: argparse.Namespace) -> str:
    """The table, and the ratios that the goals are about."""
    rows, goals = [], []
    for concurrency in arguments.concurrency:
        ratios = [
            a.qps / b.qps
            for a, b in zip(found["trt-action serve", concurrency], found["bare Starlette", concurrency], strict=True)
        ]
        for one in ("trt-action serve", "bare Starlette"):
            figures = found[one, concurrency]
            rows.append([
                one, str(concurrency), *(f"{statistics.median(getattr(f, key) for f in figures):.{digits}f}"
                for key, digits in (("qps", 0), ("p50", 2), ("p99", 2), ("cpu", 3))), str(sum(f.errors for f in figures)),
            ])  # fmt: skip
        goal = f" (goal: {GOALS[concurrency]})" if concurrency in GOALS else ""
        goals.append(f"c={concurrency}: {statistics.median(ratios):.2f}×{goal}")
    return "\n\n".join([
        "## Serving",
        f"{sections.host()}. Small CNN (3×32×32), float32, binary tensors, ONNX Runtime with one thread; one CPU for the "
        f"server, one for wrk; median of {arguments.rounds} rounds of {arguments.seconds:g} s. `make bench-serve`.",
        sections.table(["server", "c", "requests/s", "p50 ms", "p99 ms", "CPU ms/request", "errors"], rows),
        "Requests/s over the bare app (median of the rounds' ratios): " + "; ".join(goals) + ".",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
