"""Requests per second, latency and CPU of `trt-action serve` beside other servers, on the same engine in the same run.

python benchmarks/serve.py [--seconds 4] [--rounds 5] [--rivals mlserver kserve litserve] [--write docs/benchmarks.md]

Needs `wrk` on PATH. The server has one CPU and the load generator another. Servers take turns, round by round, so that a
busy host is unkind to all of them; each figure is the median over the rounds. The rivals are installed into environments
of their own under build/serve (1.2 GB); one that cannot be is named as skipped.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
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
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import sections, serve_rivals
from benchmarks.serve_rivals import Contender

ROOT = Path(__file__).parents[1]
CONCURRENCY = (1, 8, 32, 128)
GOALS = {1: 0.95, 32: 1.2}
"""Requests per second over those of the bare app, by concurrency (goals of the product, not limits of a test)."""

BUSY = 1.5
"""Load average (of a minute, so with what has just ended) from which somebody else's work disturbs ours on two CPUs."""

TIMEOUT = "10s"
"""Of one answer, for wrk."""

SHAPE = (1, 3, 32, 32)
LUA = """
wrk.method = "POST"
local file = io.open("{body}", "rb")
wrk.body = file:read("*all")
file:close()
wrk.headers["{header}"] = "{value}"
"""
OURS, BARE = "trt-action serve", "bare Starlette"


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


@dataclass(frozen=True)
class Bodies:
    """One request in both forms: the file of its body, its header, wrk's script, and the answer that is right."""

    folder: Path
    expected: np.ndarray[Any, Any]

    def headers(self, kind: str) -> tuple[str, str]:
        if kind == "json":
            return "Content-Type", "application/json"
        return "Inference-Header-Content-Length", (self.folder / "binary.length").read_text()

    def body(self, kind: str) -> bytes:
        return (self.folder / f"{kind}.body").read_bytes()

    def script(self, kind: str) -> Path:
        return self.folder / f"{kind}.lua"


def bodies(folder: Path, engine: Path) -> Bodies:
    """What is sent: one image, as a binary tensor and as JSON."""
    import onnxruntime

    image = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    tensor = {"name": "x", "datatype": "FP32", "shape": SHAPE}
    binary = {**tensor, "parameters": {"binary_data_size": image.nbytes}}
    head = json.dumps({"inputs": [binary], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}).encode()
    (folder / "binary.body").write_bytes(head + image.tobytes())
    (folder / "binary.length").write_text(str(len(head)))
    (folder / "json.body").write_text(json.dumps({"inputs": [{**tensor, "data": image.ravel().tolist()}]}))
    session = onnxruntime.InferenceSession(str(engine), providers=["CPUExecutionProvider"])
    found = Bodies(folder, session.run(None, {"x": image})[0].ravel())
    for kind in ("binary", "json"):
        header, value = found.headers(kind)
        found.script(kind).write_text(LUA.format(body=folder / f"{kind}.body", header=header, value=value))
    return found


@contextmanager
def server(contender: Contender, engine: Path, cpus: str) -> Iterator[tuple[int, psutil.Process]]:
    """One server, up and pinned until the block ends."""
    port = free_port()
    with tempfile.TemporaryDirectory() as name, (Path(name) / "stderr").open("w+b") as words:
        process = subprocess.Popen(
            ["taskset", "-c", cpus, *contender.command(engine, port, Path(name))],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=words, env={**os.environ, **contender.env(port)},
        )  # fmt: skip
        try:
            _wait(port, contender.ready, process, Path(words.name))
            yield port, psutil.Process(process.pid)
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Of the process and its workers."""
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(20)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def _wait(port: int, path: str, process: subprocess.Popen[bytes], words: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5):
                return
        except OSError:
            if process.poll() is not None:
                raise FailedError(f"it ended by itself: {words.read_text(errors='replace')[-500:]}") from None
            time.sleep(0.05)
    raise FailedError("it did not get ready in 90 s")


class FailedError(Exception):
    """A server cannot be measured; why."""


def check(contender: Contender, port: int, sent: Bodies) -> None:
    """The server answers, and answers right: else its speed says nothing.

    Raises:
        FailedError: it does not.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", contender.infer, sent.body(contender.kind), dict([sent.headers(contender.kind)]))
    answered = connection.getresponse()
    data = answered.read()
    connection.close()
    if answered.status != 200:
        raise FailedError(f"it answers {answered.status}: {data[:200]!r}")
    if contender.kind == "binary":
        got = np.frombuffer(data[int(answered.headers["Inference-Header-Content-Length"]) :], np.float32)
    else:
        got = np.array(json.loads(data)["outputs"][0]["data"], np.float32).ravel()
    if not np.allclose(got, sent.expected, rtol=1e-3, atol=1e-4):
        raise FailedError("its answer is not the model's")


def load(
    port: int, path: str, lua: Path, concurrency: int, seconds: float, cpus: str, process: psutil.Process
) -> Figure:
    """wrk's own figures, and the CPU time of the server with its worker processes."""
    before = _cpu(process)
    done = subprocess.run(
        ["taskset", "-c", cpus, "wrk", "--latency", "-t1", f"-c{concurrency}", f"-d{max(1, round(seconds))}s", "--timeout", TIMEOUT,
         "-s", str(lua), f"http://127.0.0.1:{port}{path}"],
        check=True, capture_output=True, text=True, timeout=seconds + 60,
    )  # fmt: skip
    used = _cpu(process) - before
    requests = int(re.findall(r"(\d+) requests in", done.stdout)[0])
    bad = sum(
        int(n) for n in re.findall(r"(?:Non-2xx or 3xx responses: |connect |read |write |timeout )(\d+)", done.stdout)
    )
    qps = float(re.findall(r"Requests/sec:\s+([\d.]+)", done.stdout)[0])
    return Figure(
        qps, _milliseconds(done.stdout, "50%"), _milliseconds(done.stdout, "99%"), used * 1e3 / max(requests, 1), bad
    )


def _cpu(process: psutil.Process) -> float:
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system
    return total


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
    parser.add_argument("--rivals", nargs="*", default=list(serve_rivals.PACKAGES), choices=list(serve_rivals.PACKAGES))
    parser.add_argument("--write", type=Path, help="put the table into this Markdown file")
    parser.add_argument("--flag", action="append", default=[], help="more flags of `trt-action serve`")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("`wrk` is not on PATH: apt-get install wrk")
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise SystemExit("two CPUs are needed: one for the server, one for wrk")
    arguments.cpus = str(cpus[0]), str(cpus[1])
    skipped: dict[str, str] = {}
    for name in arguments.rivals:
        if why := serve_rivals.install(name):
            skipped[name] = why
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name), arguments, skipped)
    text = report(found, arguments, skipped, load_before)
    print(text)
    if arguments.write:
        sections.write(arguments.write, "serve", text)


def contenders(arguments: argparse.Namespace) -> list[list[Contender]]:
    """Groups: within one, servers take turns at every concurrency."""

    def ours(engine: Path, port: int, folder: Path) -> list[str]:
        return [
            sys.executable, "-m", "trt_action", "serve", str(engine.parents[2]), "--host", "127.0.0.1",
            "--port", str(port), "--access-log", "off", *arguments.flag,
        ]  # fmt: skip

    def bare(engine: Path, port: int, folder: Path) -> list[str]:
        return [sys.executable, str(serve_rivals.APPS / "bare.py"), str(engine), str(port)]

    rivals = [one for one in serve_rivals.RIVALS if one.name in arguments.rivals]
    return [
        [Contender(OURS, ours, "binary"), Contender(BARE, bare, "binary")],
        [Contender(OURS, ours, "json"), Contender(BARE, bare, "json"), *rivals],
    ]


Found = dict[tuple[str, str, int], list[Figure]]


def measure(folder: Path, arguments: argparse.Namespace, skipped: dict[str, str]) -> Found:
    """Figures of every round by server, kind of request and concurrency."""
    engine = build(folder) / "engine.onnx"
    sent = bodies(folder, engine)
    found: Found = {}
    for turn in range(arguments.rounds):
        for pair, group in zip((True, False), contenders(arguments), strict=True):
            there = [one for one in group if one.name not in skipped]
            order = there if turn % 2 == 0 else there[::-1]
            # the pair of the goals alternates at every concurrency; the others are slow to start
            for levels in [[c] for c in arguments.concurrency] if pair else [list(arguments.concurrency)]:
                for one in order:
                    try:
                        measure_one(one, engine, sent, levels, arguments, found)
                    except FailedError as error:
                        skipped[one.name] = str(error)
    return found


def measure_one(
    one: Contender, engine: Path, sent: Bodies, levels: list[int], arguments: argparse.Namespace, found: Found
) -> None:
    """Start `one`, check it, and measure it at `levels`, each after a second of warming up.

    Raises:
        FailedError: it does not start, or its answers are wrong.
    """
    ours, theirs = arguments.cpus
    lua = sent.script(one.kind)
    with server(one, engine, ours) as (port, process):
        check(one, port, sent)
        for level in levels:
            load(port, one.infer, lua, level, 1, theirs, process)
            figure = load(port, one.infer, lua, level, arguments.seconds, theirs, process)
            found.setdefault((one.name, one.kind, level), []).append(figure)
            print(f"{one.name:<18} {one.kind:<6} c={level:<4} {figure}", file=sys.stderr)


def report(found: Found, arguments: argparse.Namespace, skipped: dict[str, str], load_before: float) -> str:
    """The table, and the ratios that the goals are about."""
    rows = []
    for (name, kind, concurrency), figures in sorted(found.items(), key=lambda one: (one[0][1], one[0][2])):
        medians = [
            f"{statistics.median(getattr(figure, key) for figure in figures):.{digits}f}"
            for key, digits in (("qps", 0), ("p50", 2), ("p99", 2), ("cpu", 3))
        ]
        rows.append([name, kind, str(concurrency), *medians, str(sum(figure.errors for figure in figures))])
    goals = []
    for concurrency in arguments.concurrency:
        pairs = list(zip(found[OURS, "binary", concurrency], found[BARE, "binary", concurrency], strict=True))
        qps = statistics.median(a.qps / b.qps for a, b in pairs)
        cpu = statistics.median(a.cpu / b.cpu for a, b in pairs)
        goal = f" (goal: {GOALS[concurrency]})" if concurrency in GOALS else ""
        goals.append(f"c={concurrency}: {qps:.2f}×{goal}, CPU {cpu:.2f}×")
    busy = (
        " The host did other work meanwhile: requests/s and quantiles are those of a server that waits for a CPU, and CPU per "
        "request is what can be compared."
        if load_before > BUSY
        else ""
    )
    left_out = "".join(f" Skipped: {name}: {why}." for name, why in skipped.items())
    return "\n\n".join([
        "## Serving",
        f"{sections.host()}. Small CNN (3×32×32), float32, ONNX Runtime with one thread; one CPU for the server, one for "
        f"wrk; median of {arguments.rounds} rounds of {arguments.seconds:g} s; load average before: {load_before:.1f}.{busy} "
        "The others have no batching here, and are set up as their documentation does: mlserver 1.7 without worker "
        "processes, the SDK of KServe 0.21, LitServe 0.2 (one worker process, JSON of its own). Their CPU includes their "
        f"workers'. Errors are answers but 200, and those that took {TIMEOUT}.{left_out} `make bench-serve`.",
        sections.table(
            ["server", "tensors", "c", "requests/s", "p50 ms", "p99 ms", "CPU ms/request", "errors"], rows
        ),
        "Over the bare app, binary tensors (requests/s and CPU per request; median of the rounds' ratios): "
        + "; ".join(goals) + ".",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
