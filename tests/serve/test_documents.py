"""docs/serving.md and the examples against the code."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from trt_action.serve import flags, metrics, selftest
from trt_action.serve.routes import EXTENSIONS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "serving.md").read_text()
ALIEN = {"--output"}  # of `build`


def test_every_flag_in_the_document_exists_and_has_its_default() -> None:
    named = set(re.findall(r"--[a-z]+(?:-[a-z]+)*", TEXT))
    assert named - ALIEN <= {f"--{flag.name}" for flag in flags.FLAGS}
    by_name = {flag.name: flag.default for flag in flags.FLAGS}
    assert (by_name["max-queue"], by_name["request-timeout"], by_name["read-timeout"], by_name["idle-timeout"]) == (
        256,
        60,
        20,
        75,
    )
    assert (by_name["max-body-bytes"], by_name["max-json-bytes"], by_name["max-header-bytes"]) == (
        256e6,
        32e6,
        32 * 1024,
    )
    assert (by_name["drain-seconds"], by_name["drain-delay"], by_name["inline-below"]) == (30, 0, 1)


def test_every_metric_is_documented() -> None:
    documented = {
        name for text in re.findall(r"`((?:nv|trt_action)_[^`]+)`", TEXT) for name in expanded(text.split("{model,")[0])
    }
    ours = {name for name, _, _ in (*metrics.TRITON, *metrics.HISTOGRAMS)}
    source = (ROOT / "trt_action" / "serve" / "metrics.py").read_text() + (
        ROOT / "trt_action" / "serve" / "gpus.py"
    ).read_text()
    named = set(re.findall(r'"((?:nv|trt_action)_[a-z_]+)"', source)) | ours
    exposed = {
        {"trt_action_errors": "trt_action_errors_total", "trt_action_model_loads": "trt_action_model_loads_total",
         "trt_action_connections_refused": "trt_action_connections_refused_total",
         "trt_action_engine": "trt_action_engine_info", "trt_action_server": "trt_action_server_info"}.get(name, name)
        for name in named
    }  # fmt: skip
    assert exposed - documented == {"trt_action_server_info"}
    assert documented - exposed == set()


def expanded(name: str) -> list[str]:
    """`a_{b,c}_d` → `a_b_d`, `a_c_d`; a label in braces at the end is dropped."""
    found = re.search(r"\{([^}]*)\}", name)
    if found is None:
        return [name]
    if found.end() == len(name) and not name[: found.start()].endswith("_"):
        return [name[: found.start()]]
    return [f"{name[: found.start()]}{part}{name[found.end() :]}" for part in found[1].split(",")]


def test_tolerances_are_those_of_the_document() -> None:
    assert selftest.TOLERANCES == {
        "fp32": 1e-3, "tf32": 5e-3, "fp16": 0.02, "bf16": 0.05, "int8": 0.05, "fp8": 0.1, "int4": 0.1,
    }  # fmt: skip
    assert selftest.CHANGED_INTEGERS == 0.01
    assert "binary_tensor_data" in EXTENSIONS


def test_kubernetes_examples_use_what_exists() -> None:
    variables = {flag.variable for flag in flags.FLAGS}
    folder = ROOT / "examples" / "kubernetes"
    documents = [one for path in sorted(folder.glob("*.yaml")) for one in yaml.safe_load_all(path.read_text())]
    assert {one["kind"] for one in documents} == {"Deployment", "Service", "InferenceService"}
    (deployment,) = (one for one in documents if one["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    given = {entry["name"]: float(entry["value"]) for entry in container["env"]}
    assert set(given) <= variables
    assert pod["terminationGracePeriodSeconds"] > sum(given.values())
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
