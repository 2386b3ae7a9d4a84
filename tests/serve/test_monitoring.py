"""examples/monitoring against a real Prometheus: it scrapes a real server, loads the rules, answers the dashboard."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.serve.conftest import SECONDS, Server, ask, end, free_port, post, scale, start, version
from tests.serve.load import load

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "monitoring"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
ALERTS = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]
PATH = "/v2/models/m/infer"

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="prometheus and promtool are not on PATH (apt-get install prometheus)",
)

STAND_IN = '''"""Stands for nvidia-ml-py on a machine without a GPU: what NVML says, as `serve/gpus.py` asks for it."""
from types import SimpleNamespace as N
class NVMLError(Exception): ...
NVML_TEMPERATURE_GPU, NVML_CLOCK_SM = 0, 1
nvmlInit = lambda: None
nvmlDeviceGetCount = lambda: 1
nvmlDeviceGetHandleByIndex = lambda index: index
nvmlDeviceGetUUID = lambda handle: "GPU-1"
nvmlDeviceGetUtilizationRates = lambda handle: N(gpu=40)
nvmlDeviceGetMemoryInfo = lambda handle: N(total=80, used=20)
nvmlDeviceGetPowerUsage = nvmlDeviceGetEnforcedPowerLimit = nvmlDeviceGetTotalEnergyConsumption = lambda handle: 300_000
nvmlDeviceGetTemperature = nvmlDeviceGetClockInfo = lambda handle, which: 60
'''


@dataclass(frozen=True)
class Prometheus:
    """A running one; `ask` returns `data` of its HTTP API."""

    port: int

    def ask(self, path: str, **query: str) -> Any:
        address = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=SECONDS) as answered:
            return json.load(answered)["data"]

    def values(self, expr: str) -> list[float]:
        return [float(one["value"][1]) for one in self.ask("query", query=expr)["result"]]

    def wait_for(self, expr: str) -> list[float]:
        """Until the query has a result that is a number."""
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                found = [value for value in self.values(expr) if not math.isnan(value)]
            except (urllib.error.URLError, ConnectionError):
                found = []
            if found:
                return found
            assert time.monotonic() < deadline, expr


def filled(expr: str) -> str:
    """As Grafana would ask."""
    chosen = {"$__rate_interval": "5s", "$__range": "1m", "$job": ".*", "$instance": ".*", "$model": ".*"}
    for name, value in chosen.items():
        expr = expr.replace(name, value)
    return expr


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    stand_in = tmp_path_factory.mktemp("stand_in")
    (stand_in / "pynvml.py").write_text(STAND_IN)
    running = start(
        version(tmp_path_factory.mktemp("served") / "m" / "1", scale(1)), env={"PYTHONPATH": f"{stand_in}:{ROOT}"}
    )
    yield running
    end(running)


@pytest.fixture(scope="module")
def prometheus(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """With the configuration of the example, but for the target and a shorter interval."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [server.address]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(FOLDER / "alerts.yml", folder)
    port = free_port()
    process = subprocess.Popen(
        ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
         f"--web.listen-address=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    running = Prometheus(port)
    try:
        running.wait_for("up == 1")
        yield running
    finally:
        process.terminate()
        process.wait(SECONDS)


def body(n: int) -> Any:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [n, n, n]}]}


def test_prometheus_scrapes_it_and_every_query_of_the_dashboard_has_data(
    server: Server, prometheus: Prometheus
) -> None:
    with load(server, PATH, body, lambda n, answer: "ok", clients=4) as found:
        for _ in range(3):
            post(server, PATH, {})  # a mistake of a client
        assert prometheus.wait_for('sum(rate(nv_inference_request_success{model="m"}[5s])) > 0')[0] > 1
        for _, expr in QUERIES:
            prometheus.wait_for(filled(expr))
        (mistakes,) = prometheus.values('trt_action_errors_total{cause="request"}')
        assert mistakes == 3
    assert found.failures == []
    for variable in DASHBOARD["templating"]["list"][1:]:
        selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", filled(variable["query"]["query"])).groups()  # type: ignore[union-attr]
        assert prometheus.ask(f"label/{label}/values", **{"match[]": selector}), variable["name"]


def test_no_rule_has_an_error_and_none_fires_on_a_healthy_server(prometheus: Prometheus) -> None:
    deadline = time.monotonic() + SECONDS
    while True:
        rules = prometheus.ask("rules")["groups"][0]["rules"]
        if all(rule["health"] == "ok" for rule in rules):
            break
        assert time.monotonic() < deadline, [(rule["name"], rule.get("lastError")) for rule in rules]
    assert len(rules) == len(ALERTS)
    assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []


def test_promtool_finds_nothing_in_config_and_rules() -> None:
    for command in (["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run(["promtool", *command], cwd=FOLDER, capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_is_tested_to_fire_and_not_to_fire() -> None:
    tests = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    fires = {case["alertname"] for case in cases if case.get("exp_alerts")}
    silent = {case["alertname"] for case in cases if not case.get("exp_alerts")}
    assert fires == silent == {rule["alert"] for rule in ALERTS}


def test_metrics_follow_the_conventions(server: Server) -> None:
    """promtool's linter has nothing against ours; Triton's names are Triton's."""
    text = ask(server, "/metrics", None, {})[2]
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=SECONDS)
    assert [line for line in done.stderr.decode().splitlines() if line and not line.startswith("nv_")] == []


def test_the_dashboard_is_one_that_grafana_can_import() -> None:
    assert DASHBOARD["schemaVersion"] >= 36
    assert "id" not in DASHBOARD  # a number of one installation
    variable = DASHBOARD["templating"]["list"][0]
    assert (variable["name"], variable["type"], variable["query"]) == ("datasource", "datasource", "prometheus")
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in PANELS:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)


def test_what_is_asked_for_is_documented() -> None:
    documented = (ROOT / "docs" / "serving.md").read_text()
    names = {name for _, expr in QUERIES for name in re.findall(r"\b(?:nv|trt_action)_\w+", expr)}
    names |= {name for rule in ALERTS for name in re.findall(r"\b(?:nv|trt_action)_\w+", rule["expr"])}
    plain = {
        re.sub(r"_(bucket|sum|count)$", "", name) if "seconds_" in name or "batch_size" in name else name
        for name in names
    }
    families = set(re.findall(r"(?:nv|trt_action)_[a-z_]+", expanded(documented)))
    assert plain - families == set()


def expanded(text: str) -> str:
    """`a_{b,c}_d` of the document written out."""
    return re.sub(
        r"(\w+_)\{([\w,]+)\}(\w*)",
        lambda found: " ".join(found[1] + part + found[3] for part in found[2].split(",")),
        text,
    )
