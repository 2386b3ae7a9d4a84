"""The server over time: memory stays flat, nothing is dropped, slow clients cost little.

`make test` runs the short form; `make soak` runs it for ten minutes (TRT_ACTION_SOAK: seconds at saturation) and writes
what it measured where TRT_ACTION_SOAK_REPORT says.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import tritonclient.http as http

from tests.serve.conftest import SECONDS, Serve, Server, post, scale, version
from tests.serve.load import load
from tests.serve.test_lifetime import PATH, body, factor, more

LENGTH = float(os.environ.get("TRT_ACTION_SOAK", "6"))
LONG = LENGTH >= 60
RELOADS = 100 if LONG else 12
ENDS = 10 if LONG else 2
SLOW_CLIENTS = 200
GROWTH = 8_000_000
"""Bytes that a process may grow by while it does the same all the time: what allocators keep back."""

pytestmark = [pytest.mark.soak, pytest.mark.timeout(LENGTH * 2 + 300)]


@contextmanager
def memory(server: Server) -> Iterator[list[int]]:
    """Resident bytes, ten times a second in the short form, twice in the long one."""
    process, found, stopped = psutil.Process(server.process.pid), list[int](), threading.Event()

    def look() -> None:
        while not stopped.wait(0.5 if LONG else 0.1):
            found.append(process.memory_info().rss)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        stopped.set()
        thread.join()


def told(name: str, **figures: Any) -> None:
    """One line of JSON for the report."""
    if path := os.environ.get("TRT_ACTION_SOAK_REPORT"):
        with Path(path).open("a") as file:
            file.write(json.dumps({"name": name, **figures}) + "\n")


def megabytes(rss: list[int]) -> dict[str, float]:
    """Medians of the second and the last fifth, and the most."""
    fifth = max(len(rss) // 5, 1)
    return {
        "early_mb": round(statistics.median(rss[fifth : 2 * fifth]) / 1e6, 1),
        "late_mb": round(statistics.median(rss[-fifth:]) / 1e6, 1),
        "most_mb": round(max(rss) / 1e6, 1),
    }


def test_at_saturation_memory_is_flat_and_no_request_fails(tmp_path: Path, serve: Serve) -> None:
    log = "off" if LONG else "json"  # this process keeps every line that it reads
    server = serve(version(tmp_path / "m" / "1", scale(1)), "--access-log", log)
    cpu = psutil.Process(server.process.pid).cpu_times()
    with load(server, PATH, body, factor, clients=16) as found, memory(server) as rss:
        more(found, 200)
        begin = time.monotonic()
        assert not threading.Event().wait(LENGTH)
        lasted = time.monotonic() - begin
    used = psutil.Process(server.process.pid).cpu_times()
    figures = megabytes(rss)
    told(
        "saturation",
        seconds=round(lasted),
        requests=found.count(),
        failures=len(found.failures),
        cpu_ms_per_request=round((used.user + used.system - cpu.user - cpu.system) * 1e3 / found.count(), 3),
        **figures,
    )
    assert (set(found.answers), found.failures) == ({"1/1"}, [])
    assert figures["late_mb"] - figures["early_mb"] < GROWTH / 1e6, figures


def test_reloads_under_load_drop_nothing_and_give_back_their_memory(tmp_path: Path, serve: Serve) -> None:
    repository = tmp_path / "repository"
    version(repository / "m" / "1", scale(1))
    server = serve(repository, "--model-control-mode", "explicit", "--access-log", "off")
    with (
        load(server, PATH, body, factor, clients=6) as found,
        memory(server) as rss,
        http.InferenceServerClient(server.address) as client,
    ):
        for number in range(2, RELOADS + 2):
            version(repository / "m" / str(number), scale(number))
            client.load_model("m")
            more(found, 20)
    figures = megabytes(rss)
    told("reloads", reloads=RELOADS, requests=found.count(), failures=len(found.failures), **figures)
    assert found.failures == []
    assert "mixed" not in found.answers
    assert found.answers[f"{RELOADS + 1}/{RELOADS + 1}"] > 0
    assert figures["late_mb"] - figures["early_mb"] < GROWTH / 1e6, figures


def test_sigterm_under_load_drops_nothing(tmp_path: Path, serve: Serve) -> None:
    folder = version(tmp_path / "m" / "1", scale(1))
    total = 0
    for _ in range(ENDS):
        server = serve(folder, "--access-log", "off")
        with load(server, PATH, body, factor, clients=12) as found:
            more(found, 200)
            code = server.stop()
        assert (code, set(found.answers), found.failures) == (0, {"1/1"}, [])
        total += found.count()
    told("sigterm", ends=ENDS, requests=total, failures=0)


def test_slow_clients_and_large_heads_cost_little(tmp_path: Path, serve: Serve) -> None:
    """Drips of a head, drips of a body, and heads that never end; meanwhile everybody else is answered."""
    server = serve(version(tmp_path / "m" / "1", scale(1)), "--read-timeout", "2", "--access-log", "off")
    stopped = threading.Event()
    closed = 0

    def drip() -> None:
        nonlocal closed
        starts = (
            b"POST /v2/models/m/infer HTTP/1.1\r\nx: ",
            b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n",
            b"GET /v2 HTTP/1.1\r\nx: " + b"a" * 30_000,
        )
        held: list[socket.socket] = []
        while not stopped.is_set():
            while len(held) < SLOW_CLIENTS:
                held.append(socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS))
                held[-1].sendall(starts[len(held) % len(starts)])
            for connection in list(held):
                try:
                    connection.sendall(b"a")
                except OSError:
                    held.remove(connection)
                    connection.close()
                    closed += 1
            stopped.wait(0.05)
        for connection in held:
            connection.close()

    thread = threading.Thread(target=drip)
    with memory(server) as rss, load(server, PATH, body, factor, clients=2) as found:
        thread.start()
        try:
            assert not threading.Event().wait(60 if LONG else 5)
        finally:
            stopped.set()
            thread.join(SECONDS)
    figures = megabytes(rss)
    told(
        "slow clients",
        clients=SLOW_CLIENTS,
        closed=closed,
        requests=found.count(),
        failures=len(found.failures),
        **figures,
    )
    assert (set(found.answers), found.failures) == ({"1/1"}, [])
    assert closed >= SLOW_CLIENTS  # each of the first ones was hung up on
    assert max(rss) - min(rss) < SLOW_CLIENTS * 100_000 + GROWTH
    assert post(server, PATH, body(1))[0] == 200
