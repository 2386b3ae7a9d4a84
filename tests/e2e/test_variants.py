"""The image with TensorRT for RTX, on a host without a GPU: it builds engines, and says what is missing to measure.

The third variant, `tensorrt`, needs gigabytes from NVIDIA's own index and is not built here.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import CONFIG, OWNER, REPOSITORY, TOKEN, MakeCheckout, docker
from trt_action import container, report
from trt_action.container import LABEL
from trt_action.engine import devices
from trt_action.engine.tensorrt import library, plan

pytestmark = [
    pytest.mark.docker,
    pytest.mark.timeout(1_800),
    pytest.mark.skipif(devices.visible(), reason="what happens without a GPU"),
]

RTX_CONFIG = CONFIG.replace("precision: int8", "backend: tensorrt-rtx\nprecision: fp16")


def test_it_builds_an_engine_without_a_gpu(rtx_image: str, digits: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    mounts = ("-v", f"{digits}:/models:ro", "-v", f"{tmp_path}:/out")
    command = [
        "build",
        "/models/model.onnx",
        "--backend",
        "tensorrt-rtx",
        "--precision",
        "fp16",
        "--output",
        "/out/kept",
    ]
    user = f"{os.getuid()}:{os.getgid()}"
    container_of = ("run", "--rm", "--network", "none", "--user", user, *mounts, "--entrypoint", "trt-action")
    docker(*container_of, rtx_image, *command)
    record = json.loads((tmp_path / "kept" / "engine.json").read_text())
    head = (tmp_path / "kept" / "engine.plan").read_bytes()[: plan.HEAD_BYTES]
    assert plan.read(head, "engine.plan").flavour is library.RTX
    assert record["engine"]["backend"] == "tensorrt-rtx"
    assert record["engine"]["precision"] == "fp16"


def test_the_action_says_that_docker_cannot_give_it_a_gpu(rtx_image: str, make_checkout: MakeCheckout) -> None:
    if "nvidia" in json.loads(docker("info", "--format", "{{json .Runtimes}}")):
        pytest.skip("this host's Docker has an NVIDIA runtime")
    checkout = make_checkout(RTX_CONFIG, rtx_image)
    step = checkout.step()
    assert step.exit_code == 10, step.raw
    what = "Docker on this host cannot give a container a GPU: it has no NVIDIA runtime."
    (error,) = [one for one in step.annotations if one.level == "error"]
    assert what in error.message
    (body,) = checkout.github.bodies(REPOSITORY, 7)
    for text in (step.log, body, step.summary):
        assert what.rstrip(".") in " ".join(text.split())
    assert "nvidia-ctk runtime configure" in " ".join(body.split())
    assert report.read_evidence(checkout.report / "evidence.json").error is not None
    assert step.outputs["outcome"] == "failed"
    assert docker("ps", "--all", "--quiet", "--filter", f"label={LABEL}") == ""  # created, never started, removed
    assert TOKEN not in step.log
    assert {path.lstat().st_uid for path in checkout.runner.workspace.rglob("*")} == {OWNER}


def test_without_dockers_socket_it_says_that_too(rtx_image: str, make_checkout: MakeCheckout) -> None:
    checkout = make_checkout(RTX_CONFIG, rtx_image)
    step = checkout.start(socket=False).result()
    assert step.exit_code == 10, step.raw
    assert "This run needs a GPU, and none is visible in the container." in " ".join(step.log.split())
    assert str(container.SOCKET) in step.log


@pytest.mark.parametrize("backend", ["tensorrt-rtx", None])
def test_doctor_in_the_image(rtx_image: str, backend: str | None) -> None:
    asked = ("--backend", backend) if backend else ()
    command = ["docker", "run", "--rm", "--entrypoint", "trt-action", rtx_image, "doctor", "--json", *asked]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = {check["name"]: check["status"] for check in json.loads(done.stdout)}
    assert found["tensorrt-rtx"] == found["onnxruntime"] == "green"
    assert found["gpu"] == ("red" if backend else "green")
    assert done.returncode == (1 if backend else 0), done.stdout
