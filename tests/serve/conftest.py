"""Real servers in processes of their own, on version folders with small real models."""

from __future__ import annotations

import hashlib
import http.client
import itertools
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trt_action.arrays import save_npz

SECONDS = 30.0
F32 = TensorProto.FLOAT
WIDTH = 512
"""Of the rows of `slow_rows`."""

Shape = Sequence[int | str]


def identity(kind: int, shape: Shape = ("N", 3)) -> onnx.ModelProto:
    """`x` -> `y`, the same values."""
    node = helper.make_node("Identity", ["x"], ["y"])
    return model([node], [("x", kind, shape)], [("y", kind, shape)])


def scale(factor: float, shape: Shape = ("N", 3)) -> onnx.ModelProto:
    """`y = factor * x` in float32."""
    weight = numpy_helper.from_array(np.array([factor], np.float32), "w")
    return model([helper.make_node("Mul", ["x", "w"], ["y"])], [("x", F32, shape)], [("y", F32, shape)], [weight])


def slow(size: int = 256, layers: int = 200) -> onnx.ModelProto:
    """`y = x`, computed by products that take some tenths of a second."""
    eye = numpy_helper.from_array(np.eye(size, dtype=np.float32), "w")
    names = ["x", *(f"h{n}" for n in range(layers - 1)), "y"]
    nodes = [helper.make_node("MatMul", ["w", a], [b]) for a, b in itertools.pairwise(names)]
    shape = (size, size)
    return model(nodes, [("x", F32, shape)], [("y", F32, shape)], [eye])


def slow_rows(turns: int) -> onnx.ModelProto:
    """`y = x` row by row, by a loop of `turns` products that takes some tenths of a second."""
    eye = numpy_helper.from_array(np.eye(WIDTH, dtype=np.float32), "w")
    tensor = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("MatMul", ["h", "w"], ["h_next"])],
        "body",
        [tensor("turn", TensorProto.INT64, []), tensor("go", TensorProto.BOOL, []), tensor("h", F32, None)],
        [tensor("go_on", TensorProto.BOOL, []), tensor("h_next", F32, None)],
    )
    trips = numpy_helper.from_array(np.array(turns), "trips")
    loop = helper.make_node("Loop", ["trips", "", "x"], ["y"], body=body)
    return model([loop], [("x", F32, ("N", WIDTH))], [("y", F32, ("N", WIDTH))], [eye, trips])


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[tuple[str, int, Shape]],
    outputs: Sequence[tuple[str, int, Shape]],
    weights: Sequence[TensorProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*tensor) for tensor in inputs],
        [helper.make_tensor_value_info(*tensor) for tensor in outputs],
        list(weights),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def version(
    folder: Path,
    proto: onnx.ModelProto,
    *,
    largest: int = 8,
    self_test: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None,
    evidence: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    values: Mapping[str, Mapping[str, Sequence[int]]] | None = None,
) -> Path:
    """A version folder as `engine/kept.py` writes it (test_folder.py holds the two together); open axes are 1 to
    `largest`. `values`: of inputs that hold sizes, by name."""
    import onnxruntime

    folder.mkdir(parents=True, exist_ok=True)
    data = proto.SerializeToString()
    (folder / "engine.onnx").write_bytes(data)
    shapes: dict[str, Any] = {}
    for tensor in proto.graph.input:
        dims = [(d.dim_value or None) for d in tensor.type.tensor_type.shape.dim]
        shapes[tensor.name] = {
            key: [d or open_ for d in dims] for key, open_ in (("min", 1), ("opt", 1), ("max", largest))
        }
        if values and tensor.name in values:
            count = len(values[tensor.name]["opt"])
            one = dict.fromkeys(("min", "opt", "max"), [count] * len(dims))
            shapes[tensor.name] = {**one, "values": values[tensor.name]}
    record = {
        "engine": {
            "backend": "onnxruntime",
            "backend_version": onnxruntime.__version__,
            "precision": "fp32",
            "sha256": hashlib.sha256(data).hexdigest(),
        },
        "model": {"name": folder.parent.name, "sha256": "0" * 64, "shapes": shapes},
        "options": {"threads": 1, **(options or {})},
        "files": ["engine.onnx"],
    }
    if self_test is not None:
        inputs, outputs = self_test
        save_npz(
            folder / "selftest.npz",
            {f"input:{k}": v for k, v in inputs.items()} | {f"output:{k}": v for k, v in outputs.items()},
        )
    if evidence is not None:
        (folder / "evidence.json").write_text(json.dumps(evidence))
    (folder / "engine.json").write_text(json.dumps(record))
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """A running `trt-action serve`."""

    process: subprocess.Popen[str]
    port: int
    grpc_port: int
    lines: list[str] = field(default_factory=list)
    _queue: queue.Queue[str | None] = field(default_factory=queue.Queue)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def wait_for(self, words: str, seconds: float = SECONDS) -> str:
        """The first line from now on with these words."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                line = self._queue.get(timeout=left)
            except queue.Empty:
                break
            if line is None:
                break
            self.lines.append(line)
            if words in line:
                return line
        raise AssertionError(f"no line with {words!r} in: {''.join(self.lines)}{self._errors()}")

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)

    def ended(self) -> tuple[int, str]:
        """Exit code and stderr of a server that ends by itself."""
        code = self.process.wait(SECONDS)
        return code, self._errors()

    def read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(line)
        self._queue.put(None)

    def _errors(self) -> str:
        if self.process.poll() is None or self.process.stderr is None:
            return ""
        return self.process.stderr.read()


Serve = Callable[..., Server]


def start(
    path: Path, *flags: str, grpc: bool = False, wait: bool = True, env: Mapping[str, str] | None = None
) -> Server:
    port, grpc_port = free_port(), free_port() if grpc else 0
    command = [sys.executable, "-m", "trt_action", "serve", str(path), "--host", "127.0.0.1", "--port", str(port)]
    if grpc:
        command += ["--grpc-port", str(grpc_port)]
    process = subprocess.Popen(
        [*command, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
    )
    server = Server(process, port, grpc_port)
    threading.Thread(target=server.read, daemon=True).start()
    if wait:
        server.wait_for("Ready.")
    return server


def end(server: Server) -> None:
    if server.process.poll() is None:
        server.process.kill()
    server.process.wait(SECONDS)
    for stream in (server.process.stdout, server.process.stderr):
        if stream is not None:
            stream.close()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`serve(path, *flags, grpc=False, wait=True, env=None)` starts a server; all are ended with the test."""
    started: list[Server] = []

    def run(path: Path, *flags: str, **more: Any) -> Server:
        started.append(start(path, *flags, **more))
        return started[-1]

    yield run
    for server in started:
        end(server)


def ask(
    server: Server, path: str, body: bytes | None, headers: Mapping[str, str], method: str | None = None
) -> tuple[int, Any, bytes]:
    """Status, headers and body of one request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, dict(headers))
        answered = connection.getresponse()
        return answered.status, answered.headers, answered.read()
    finally:
        connection.close()


def post(server: Server, path: str, document: Any, **headers: str) -> tuple[int, Any]:
    """Status and answer of one JSON request."""
    status, _, data = ask(server, path, json.dumps(document).encode(), {"Content-Type": "application/json", **headers})
    return status, json.loads(data) if data else None
