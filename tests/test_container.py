"""Which container are we in, and what Docker's refusals mean."""

from __future__ import annotations

import pytest

from trt_action import container
from trt_action.container import _refused, _request

ID = "3f" * 32
V1 = f"1521 1499 254:0 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw,relatime - ext4 /dev/vda rw"


@pytest.mark.parametrize(
    ("mountinfo", "expected"),
    [
        (f"22 1 0:20 / /proc rw - proc proc rw\n{V1}\n", ID),
        ("22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n", None),
        (f"1 1 0:1 /var/lib/docker/containers/{ID[:12]}/hostname /etc/hostname rw - ext4 x rw\n", None),
        ("", None),
    ],
)
def test_own_id(mountinfo: str, expected: str | None) -> None:
    assert container.own_id(mountinfo) == expected


def test_no_nvidia_runtime_comes_with_the_fix() -> None:
    error = _refused('could not select device driver "" with capabilities: [[gpu]]')
    assert "no NVIDIA runtime" in error.what
    for command in ("nvidia-container-toolkit", "nvidia-ctk runtime configure --runtime=docker", "restart docker"):
        assert command in error.fix
    assert "nvidia-ctk" not in _refused("no such image").fix


def test_a_sibling_without_gpu_starts_no_other() -> None:
    assert "Podman" in container.no_gpu({container.GUARD: "1"}).why
    assert "Docker socket" in container.no_gpu({}).why
    assert container.is_sibling({container.GUARD: "1"})
    assert not container.is_sibling({})


@pytest.mark.parametrize(
    ("gpus", "count", "ids"), [("all", -1, None), ("auto", None, ["0"]), ("1,GPU-ab", None, ["1", "GPU-ab"])]
)
def test_device_requests(gpus: str, count: int | None, ids: list[str] | None) -> None:
    request = _request(gpus)
    assert request["Capabilities"] == [["gpu"]]
    assert (request["Count"] or None, request["DeviceIDs"] or None) == (count, ids)
