"""Clients that keep asking from threads of their own, and remember every answer that was wrong or missing."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.serve.conftest import SECONDS, Server, ask

JSON_BYTES = "Inference-Header-Content-Length"


@dataclass
class Load:
    """`answers` counts what `judge` made of each 200; `failures` holds everything else."""

    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self) -> int:
        return self.answers.total()


def ask_later(server: Server, path: str, x: np.ndarray[Any, Any]) -> Future[tuple[int, np.ndarray[Any, Any]]]:
    """Send `x` as binary input `x` from a thread of its own; status, and output `y` in the same shape."""

    def work() -> tuple[int, np.ndarray[Any, Any]]:
        tensor = {"name": "x", "datatype": "FP32", "shape": x.shape, "parameters": {"binary_data_size": x.nbytes}}
        text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        status, headers, data = ask(server, path, text + x.tobytes(), {JSON_BYTES: str(len(text))})
        return status, np.frombuffer(data[int(headers.get(JSON_BYTES, len(data))) :], np.float32)

    future: Future[tuple[int, np.ndarray[Any, Any]]] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except (OSError, http.client.HTTPException) as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def until_in_flight(server: Server, count: int) -> None:
    """Wait until `count` requests are in flight, apart from the question itself."""
    wanted = f"trt_action_requests_in_flight {count + 1}.0".encode()
    deadline = time.monotonic() + SECONDS
    while wanted not in ask(server, "/metrics", None, {})[2]:
        assert time.monotonic() < deadline


@contextmanager
def load(
    server: Server, path: str, body: Callable[[int], Any], judge: Callable[[int, Any], str], clients: int = 6
) -> Iterator[Load]:
    """Ask `path` from `clients` threads until the block ends. Request n has `body(n)`; `judge(n, answer)` names what
    came back. A connection that the server announced to close is opened anew; one that breaks is a failure, but for a
    refusal to connect: then the server has stopped to listen."""
    found = Load()

    def work(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
        n = first
        while not found.stopped.is_set():
            n += clients
            try:
                connection.request("POST", path, json.dumps(body(n)))
                answered = connection.getresponse()
                data = answered.read()
            except ConnectionRefusedError:
                break
            except (OSError, http.client.HTTPException) as error:
                with found.lock:
                    found.failures.append(f"{type(error).__name__}: {error}")
                break
            with found.lock:
                if answered.status == 200:
                    found.answers[judge(n, json.loads(data))] += 1
                else:
                    found.failures.append(f"{answered.status}: {data[:200]!r}")
        connection.close()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        found.stopped.set()
        for thread in threads:
            thread.join(SECONDS)
