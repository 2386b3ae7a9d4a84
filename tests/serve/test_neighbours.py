"""Requests that share a run, and what one of them cannot do to the others."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as remote
from onnx import helper
from tritonclient.utils import InferenceServerException

from tests.serve.conftest import F32, SECONDS, WIDTH, Serve, Server, ask, end, model, post, slow_rows, start, version
from tests.serve.load import JSON_BYTES, ask_later

PATH = "/v2/models/slow/infer"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("repository")
    version(repository / "slow" / "1", slow_rows(8_000))
    add = [helper.make_node("Add", ["a", "b"], ["y"])]
    shape = ("N", 2)
    version(repository / "two" / "1", model(add, [("a", F32, shape), ("b", F32, shape)], [("y", F32, shape)]))
    running = start(repository, grpc=True)
    yield running
    end(running)


def waiting(server: Server) -> int:
    text = ask(server, "/metrics", None, {})[2].decode()
    (line,) = (one for one in text.splitlines() if one.startswith('nv_inference_pending_request_count{model="slow"'))
    return int(float(line.split()[-1]))


def until_waiting(server: Server, count: int) -> None:
    deadline = time.monotonic() + SECONDS
    while waiting(server) != count:
        assert time.monotonic() < deadline


def request(x: np.ndarray[Any, Any]) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": x.shape, "parameters": {"binary_data_size": x.nbytes}}
    text = json.dumps({"inputs": [tensor]}).encode()
    body = text + x.tobytes()
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\n{JSON_BYTES}: {len(text)}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def garbage(connection: socket.socket) -> None:
    connection.sendall(b"\x00\x01\x02 no HTTP\r\n\r\n")


def large_head(connection: socket.socket) -> None:
    connection.sendall(b"GET / HTTP/1.1\r\nx: " + b"a" * 100_000)


def pipelined_and_reset(connection: socket.socket) -> None:
    connection.sendall(request(np.zeros((1, WIDTH), np.float32)))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize("trick", [garbage, large_head, pipelined_and_reset])
def test_a_broken_connection_is_no_harm_to_who_shares_its_run(
    server: Server, trick: Callable[[socket.socket], None]
) -> None:
    x = np.arange(WIDTH, dtype=np.float32)[None]
    first = ask_later(server, PATH, x)
    deadline = time.monotonic() + SECONDS
    while b"trt_action_requests_in_flight 2.0" not in ask(server, "/metrics", None, {})[2]:
        assert time.monotonic() < deadline
    with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as bad:
        bad.sendall(request(-x))
        until_waiting(server, 1)
        after = ask_later(server, PATH, 3 * x)
        until_waiting(server, 2)
        trick(bad)
        for future, factor in ((first, 1), (after, 3)):
            status, y = future.result(SECONDS)
            assert status == 200
            np.testing.assert_allclose(y, factor * x[0])
    assert server.process.poll() is None


def test_a_client_of_grpc_that_leaves_is_forgotten(serve: Serve, tmp_path: Path) -> None:
    """Its call was in the engine when it was cancelled: the model must still know when it is done with it."""
    server = serve(version(tmp_path / "slow" / "1", slow_rows(24_000)), grpc=True)
    tensor = remote.InferInput("x", [1, WIDTH], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, WIDTH), np.float32))
    with remote.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        for _ in range(3):
            with pytest.raises(InferenceServerException, match=r"(?i)deadline"):
                client.infer("slow", [tensor], client_timeout=0.1)
    begin = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - begin < 15  # of 30 for draining


def test_inputs_of_one_request_agree_in_their_rows(server: Server) -> None:
    """Else the rows of one input would move into a neighbour's request (2 + 1 rows of `a` beside 1 + 2 of `b`)."""

    def asked(a: int, b: int) -> tuple[int, Any]:
        inputs = [
            {"name": name, "datatype": "FP32", "shape": [rows, 2], "data": [rows] * (2 * rows)}
            for name, rows in (("a", a), ("b", b))
        ]
        return post(server, "/v2/models/two/infer", {"inputs": inputs})

    assert asked(2, 2)[0] == 200
    status, answer = asked(2, 1)
    assert status == 400
    assert "rows" in answer["error"]
