"""A GPU inside a Docker action: the runner never asks Docker for one, so the action starts a sibling of itself.

Same image, same volumes, same environment and network; its log becomes ours, and its exit code too. It is stopped when we
are, and removed always. This module knows Docker and nothing of GitHub.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from trt_action.errors import BackendUnavailableError
from trt_action.inputs import quote

if TYPE_CHECKING:
    import docker
    from docker.models.containers import Container

SOCKET = Path("/var/run/docker.sock")
GUARD = "TRT_ACTION_SIBLING"
"""Set in the sibling, so that a sibling that sees no GPU says so instead of starting another one."""
LABEL = "io.github.trt-action.sibling-of"
CACHE_VOLUME = "trt-action-cache"
CACHE_FOLDER = "/var/cache/trt-action"
STOP_SECONDS = 6
"""The runner ends a cancelled step 10 s after its first signal."""

INSTALL_TOOLKIT = (
    "Install the NVIDIA Container Toolkit on the runner's host: `sudo apt-get install -y nvidia-container-toolkit`, then "
    "`sudo nvidia-ctk runtime configure --runtime=docker`, then `sudo systemctl restart docker`. "
    "Check with `docker run --rm --gpus all ubuntu nvidia-smi`."
)

_OWN_ID = re.compile(r"/containers/([0-9a-f]{64})/")


def own_id(mountinfo: str) -> str | None:
    """The id of the container that this process is in, out of /proc/self/mountinfo (the host name is no proof: under
    host networking it is the host's). None outside of a container."""
    found = _OWN_ID.search(mountinfo)
    return found[1] if found else None


def is_sibling(env: Mapping[str, str]) -> bool:
    """Whether this process is in a sibling that another one has started."""
    return env.get(GUARD) == "1"


def no_gpu(env: Mapping[str, str]) -> BackendUnavailableError:
    """The error for a run that needs a GPU, sees none, and cannot help itself."""
    if is_sibling(env):
        return BackendUnavailableError(
            "The container was started with a GPU request, and no GPU is visible in it.",
            why="Podman's Docker-compatible service ignores GPU requests without a word; a broken driver does the same.",
            fix="Run `docker run --rm --gpus all ubuntu nvidia-smi` on the host: it must list the GPU.",
        )
    return BackendUnavailableError(
        "This run needs a GPU, and none is visible in the container.",
        why=f"There is no Docker socket at {SOCKET} either, so no container with a GPU can be started.",
        fix="Run on a self-hosted runner with Docker and an NVIDIA GPU, or set `backend: onnxruntime` and `gpus: none`.",
    )


def run_sibling(
    gpus: str, env: Mapping[str, str], *, out: BinaryIO | None = None, log: Callable[[str], None] = lambda _: None
) -> int:
    """Run this container's command again beside it, with GPUs. Returns its exit code.

    Args:
        gpus: `auto` (one), `all`, or indexes or UUIDs, comma-separated.
        env: the environment of this process; the sibling gets it unchanged, plus the guard and the cache folder.
        out: gets what the sibling prints; default: our stdout.

    Raises:
        BackendUnavailableError: Docker has no NVIDIA runtime, cannot be asked, or we are in no container.
    """
    import docker
    import requests

    identifier = own_id(Path("/proc/self/mountinfo").read_text())
    if identifier is None:
        raise BackendUnavailableError(
            "This run needs a GPU, none is visible, and this process is in no Docker container.",
            fix="Run `trt-action` on a host with a GPU, or through the action's image.",
        )
    try:
        with contextlib.closing(docker.from_env(timeout=120)) as client:
            _remove_orphans(client)
            own = client.containers.get(identifier)
            with _created(client, own, gpus, env) as sibling:
                log(f"No GPU in here: continuing in a container with one ({sibling.short_id}, gpus: {gpus}).")
                sibling.start()
                for chunk in sibling.attach(stdout=True, stderr=True, stream=True, logs=True):
                    _write(out or sys.stdout.buffer, chunk)
                return int(sibling.wait()["StatusCode"])
    except docker.errors.APIError as error:
        raise _refused(str(error.explanation or error)) from error
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise _refused(str(error)) from error


def _write(out: BinaryIO, chunk: bytes) -> None:
    out.write(chunk)
    out.flush()


@contextlib.contextmanager
def _created(client: docker.DockerClient, own: Container, gpus: str, env: Mapping[str, str]) -> Iterator[Container]:
    """The sibling, created; stopped and removed when the block is left, however far it came. It is found by its name:
    a signal may come while Docker creates it."""
    import docker

    name = f"trt-action-sibling-{str(own.id)[:12]}"
    try:
        yield _create(client, own, name, gpus, env)
    finally:
        with contextlib.suppress(docker.errors.NotFound):
            _remove(client.containers.get(name))


def _create(client: docker.DockerClient, own: Container, name: str, gpus: str, env: Mapping[str, str]) -> Container:
    return client.containers.create(
        own.attrs["Image"],
        command=own.attrs["Config"]["Cmd"],
        entrypoint=own.attrs["Config"]["Entrypoint"],
        name=name,
        environment={**env, GUARD: "1", "NVIDIA_VISIBLE_DEVICES": _devices(gpus), "TRT_ACTION_CACHE": _cache(env)},
        device_requests=[_request(gpus)],
        volumes_from=[str(own.id)],
        volumes={CACHE_VOLUME: {"bind": CACHE_FOLDER, "mode": "rw"}},
        network_mode=f"container:{own.id}",  # the job's network and its services, whatever they are
        working_dir=own.attrs["Config"]["WorkingDir"] or None,
        labels={LABEL: str(own.id)},
    )


def _cache(env: Mapping[str, str]) -> str:
    return env.get("TRT_ACTION_CACHE") or CACHE_FOLDER


def _devices(gpus: str) -> str:
    return "0" if gpus == "auto" else gpus


def _request(gpus: str) -> Any:
    from docker.types import DeviceRequest

    if gpus == "all":
        return DeviceRequest(count=-1, capabilities=[["gpu"]])
    return DeviceRequest(device_ids=_devices(gpus).split(","), capabilities=[["gpu"]])


def _remove(container: Container) -> None:
    """Stop with time to leave partial evidence, then remove; also one that was created and never started."""
    import docker

    with contextlib.suppress(docker.errors.APIError):
        container.reload()
        if container.status == "running":
            container.stop(timeout=STOP_SECONDS)
    with contextlib.suppress(docker.errors.NotFound):
        container.remove(force=True)


def _remove_orphans(client: docker.DockerClient) -> None:
    """Siblings whose first container is gone: a host that lost power leaves them."""
    import docker

    for sibling in client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True):
        with contextlib.suppress(docker.errors.APIError):
            try:
                client.containers.get(sibling.labels[LABEL])
            except docker.errors.NotFound:
                sibling.remove(force=True)


def _refused(explanation: str) -> BackendUnavailableError:
    if "could not select device driver" in explanation or "unknown or invalid runtime name: nvidia" in explanation:
        return BackendUnavailableError(
            "Docker on this host cannot give a container a GPU: it has no NVIDIA runtime.",
            why=f"Docker says: {quote(explanation)}.",
            fix=INSTALL_TOOLKIT,
        )
    return BackendUnavailableError(
        "The container with the GPU could not be run.",
        why=f"Docker says: {quote(explanation)}.",
        fix="Check that the runner's user may use Docker (`docker info`), and that the named GPUs exist (`nvidia-smi -L`).",
    )


def socket_is_there() -> bool:
    """Whether Docker can be asked for a sibling."""
    return SOCKET.is_socket() and os.access(SOCKET, os.R_OK | os.W_OK)
