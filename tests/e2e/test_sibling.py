"""A container that starts a sibling of itself, on a real engine. Only the GPU request is left out: this host has none."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from docker import from_env
from docker.models.containers import ContainerCollection

from tests.e2e.conftest import docker
from trt_action import container
from trt_action.container import GUARD, LABEL

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1_800)]

PROGRAM = """
import json, os, signal, sys, time
from docker.models.containers import ContainerCollection
from trt_action import container

def stop(number, frame):
    raise KeyboardInterrupt("stopped")

signal.signal(signal.SIGTERM, stop)
if container.is_sibling(os.environ):
    about = {"cache": os.path.ismount(container.CACHE_FOLDER), "shared": open("/data/file").read(), "input": os.environ["INPUT_GPUS"]}
    print(json.dumps(about), flush=True)
    if os.environ["INPUT_GPUS"] == "all":
        sys.exit(7)
    try:
        time.sleep(300)
    finally:
        open("/data/partial", "w").write("kept")
create = ContainerCollection.create
ContainerCollection.create = lambda self, *a, device_requests, **k: create(self, *a, **k)
try:
    sys.exit(container.run_sibling(os.environ["INPUT_GPUS"], os.environ))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture
def volume() -> Iterator[str]:
    """The name of a volume that both containers share."""
    name = f"trt-action-e2e-{secrets.token_hex(4)}"
    yield name
    docker("volume", "rm", "--force", name)


def start(image: str, volume: str, gpus: str) -> subprocess.Popen[str]:
    docker("run", "--rm", "-v", f"{volume}:/data", "--entrypoint", "sh", image, "-c", "echo -n here > /data/file")
    command = ["docker", "run", "--rm", "--name", volume, "-v", f"{volume}:/data", "-e", f"INPUT_GPUS={gpus}"]
    command += ["-v", "/var/run/docker.sock:/var/run/docker.sock"]
    return subprocess.Popen(
        [*command, "--entrypoint", "/opt/trt-action/bin/python3", image, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def siblings() -> str:
    return docker("ps", "--all", "--quiet", "--filter", f"label={LABEL}")


def test_its_log_exit_code_volumes_and_environment_are_ours(action_image: str, volume: str) -> None:
    out, _ = start(action_image, volume, "all").communicate(timeout=120)
    assert json.loads(out) == {"cache": True, "shared": "here", "input": "all"}
    assert siblings() == ""


def test_its_exit_code_is_ours(action_image: str, volume: str) -> None:
    process = start(action_image, volume, "all")
    process.communicate(timeout=120)
    assert process.returncode == 7


def test_it_is_stopped_with_us_and_has_time_to_leave(action_image: str, volume: str) -> None:
    with start(action_image, volume, "0") as process:
        assert process.stdout
        assert "cache" in process.stdout.readline()
        os.kill(process.pid, signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert siblings() == ""
    left = docker("run", "--rm", "-v", f"{volume}:/data", "--entrypoint", "cat", action_image, "/data/partial")
    assert left == "kept"


def test_an_orphan_of_a_host_that_lost_power_goes(action_image: str, volume: str) -> None:
    orphan = docker("create", "--label", f"{LABEL}={'0' * 64}", "--entrypoint", "true", action_image)
    start(action_image, volume, "all").communicate(timeout=120)
    assert orphan[:12] not in siblings()


def test_the_guard_is_no_setting() -> None:
    from trt_action.settings.layers import NOT_SETTINGS

    assert GUARD.removeprefix("TRT_ACTION_").lower() in NOT_SETTINGS


def test_a_container_that_goes_while_orphans_are_looked_for(action_image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run's sibling ends between Docker's list and our look at it."""
    with contextlib.closing(from_env()) as client:
        monkeypatch.setattr(client.api, "containers", lambda **_: [{"Id": "f" * 64}])
        container._remove_orphans(client)


def test_a_signal_while_docker_creates_it(action_image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = docker("create", "--entrypoint", "true", action_image)
    create = ContainerCollection.create

    def interrupted(self: Any, *arguments: Any, device_requests: Any, **options: Any) -> None:
        create(self, *arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(ContainerCollection, "create", interrupted)
    try:
        with (
            contextlib.closing(from_env()) as client,
            pytest.raises(KeyboardInterrupt),
            container._created(client, client.containers.get(own), "auto", {}),
        ):
            pass
        assert siblings() == ""
    finally:
        docker("rm", "--force", own)
