"""The fingerprint of this very host, and what is said about a bad one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import psutil
import pytest

from trt_action import engine
from trt_action.engine import host, hygiene
from trt_action.engine.backend import RuntimeOptions

QUIET: dict[str, Any] = {
    "load_1min": 0.0,
    "governor": "performance",
    "steal_share": 0.0,
    "cgroup_throttled": 0,
    "thermal_throttles": None,
    "swap_used_bytes": 0,
    "heavy_processes": 0,
    "heavy_cpu": 0.0,
    "heavy_names": [],
}


def test_two_runs_on_one_host_have_one_digest_and_other_options_another() -> None:
    options = RuntimeOptions(threads=1)
    first = engine.fingerprint("onnxruntime", options)
    code = (
        "from trt_action import engine; from trt_action.engine.backend import RuntimeOptions;"
        "print(engine.fingerprint('onnxruntime', RuntimeOptions(threads=1)).digest)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == first.digest
    assert engine.fingerprint("onnxruntime", RuntimeOptions(threads=2)).digest != first.digest
    json.dumps(first.model_dump(), allow_nan=False)


def test_it_names_what_is_there() -> None:
    found = engine.fingerprint("onnxruntime", RuntimeOptions(graph_optimization="basic"))
    assert found.hardware["memory_bytes"] == psutil.virtual_memory().total
    assert found.hardware["affinity_cpus"] == len(os.sched_getaffinity(0)) == found.runtime["threads"]
    assert found.hardware["cpu_model"]
    assert found.software["onnxruntime"] == found.runtime["backend_version"] == engine.backend("onnxruntime").version()
    assert found.runtime["graph_optimization"] == "basic"
    assert host.build_identity().keys() == {"machine", "cpu_model", "cpu_flags_sha256"}


def test_a_busy_neighbour_is_seen_by_name_only() -> None:
    code = "import sys; print('ready', flush=True)\nwhile True: pass"
    # `setsid --fork`: a neighbour must not be a child of this process
    command = ["setsid", "--fork", sys.executable, "-c", "import os; print(os.getpid(), flush=True)\n" + code, "s3cret"]
    neighbour = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert neighbour.stdout is not None
    pid = int(neighbour.stdout.readline())
    try:
        assert neighbour.stdout.readline() == "ready\n"
        state = next(state for state in (hygiene.sample() for _ in range(20)) if state["heavy_processes"])
    finally:
        os.kill(pid, 9)
        neighbour.stdout.close()
        neighbour.wait()
    assert state["heavy_cpu"] > hygiene.HEAVY_SHARE
    assert "s3cret" not in json.dumps(state)
    assert any(name.startswith("python") for name in state["heavy_names"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"heavy_processes": 1, "heavy_cpu": 0.9, "heavy_names": ["cc1plus"]}, "1 other process uses 0.9 CPUs"),
        ({"heavy_processes": 2, "heavy_cpu": 1.5, "heavy_names": ["", ""]}, "2 other processes use 1.5 CPUs"),
        ({"load_1min": 1000.0}, "The load of the last minute is 1000"),
        ({"governor": "powersave"}, "cpupower frequency-set"),
        ({"steal_share": 0.1}, "withheld 10%"),
        ({"cgroup_throttled": 1200}, "stopped it 1,200 times"),
        ({"thermal_throttles": 3}, "slowed down for heat"),
        ({"swap_used_bytes": 3 * 10**9}, "3.0 GB are swapped out"),
    ],
)
def test_warnings_say_what_and_what_to_do(change: dict[str, Any], words: str | None) -> None:
    found = hygiene.warnings({**QUIET, **change}, cpus=2, threads=2)
    assert len(found) == (words is not None)
    if words is not None:
        assert words in found[0]
        assert ": " in found[0]


def test_more_threads_than_cpus_is_warned_about() -> None:
    assert "4 threads on 2 CPUs" in hygiene.warnings(QUIET, cpus=2, threads=4)[0]
    assert hygiene.warnings({}, cpus=1, threads=1) == []


def test_process_names_cannot_break_out_of_a_message() -> None:
    table = {(1 << 23, 0.0): (0.0, "")}, {(1 << 23, 0.0): (9.0, "`<img>\x1b[31m\n" + "x" * 100)}
    assert hygiene._heavy(*table, 1.0) == [(9.0, "<img>[31m" + "x" * 31)]
