"""Docker's engine: may it be asked, can it give a container a GPU, and has it room for images?"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trt_action import container
from trt_action.doctor.gpus import Seen
from trt_action.doctor.line import Check, Status, gib, line

SECONDS = 10
DISK_RED, DISK_AMBER = 2 << 30, 10 << 30
"""An image of the action with TensorRT for RTX is 0.9 GB, and is unpacked beside its layers."""

DEFAULT_HOST = f"unix://{container.SOCKET}"
RUNTIME = "nvidia"


def lines(seen: Seen, needs_gpu: bool, env: Mapping[str, str]) -> Iterator[Check]:
    """Amber at most, but for a GPU that can be had through Docker only and cannot: Docker is for images."""
    try:
        info = _info()
    except ImportError:
        yield line("docker", "amber", "its Python library is not installed", "`pip install 'trt-action[publish]'`")
        return
    except OSError as error:
        yield _no_answer(str(error), env)
        return
    yield line("docker", "green", f"{info.get('ServerVersion') or '?'}", private=str(info.get("Name") or ""))
    yield from _runtime(info, seen, needs_gpu)
    yield from _room(info)


def _info() -> dict[str, Any]:
    """Raises:
    ImportError: Docker's library is not installed.
    OSError: no engine answers.
    """
    import docker
    import requests

    try:
        client = docker.from_env(timeout=SECONDS)
        try:
            return dict(client.info())
        finally:
            client.close()
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise OSError(" ".join(str(error).split())) from None


def _no_answer(words: str, env: Mapping[str, str]) -> Check:
    if "ermission" in words:
        fix = "`sudo usermod -aG docker $USER`, then log in again; a runner's service: restart it."
        return line("docker", "amber", "this user may not ask its engine", fix)
    named = env.get("DOCKER_HOST", "")
    if not named and not container.SOCKET.exists():
        fix = (
            "Install Docker, or mount its socket: it builds images, and gives the action a GPU. Measuring needs it not."
        )
        return line("docker", "amber", f"no engine: {container.SOCKET} is not there", fix)
    fix = "Start it (`sudo systemctl start docker`)" + (", or correct DOCKER_HOST." if named else ".")
    return line("docker", "amber", "no engine answers", fix, words)


def _runtime(info: Mapping[str, Any], seen: Seen, needs_gpu: bool) -> Iterator[Check]:
    """What the action starts its sibling with (`container.run_sibling`)."""
    runtimes = info.get("Runtimes")
    known = sorted(runtimes) if isinstance(runtimes, Mapping) else []
    if RUNTIME in known:
        default = info.get("DefaultRuntime") == RUNTIME
        found = "the default one" if default else "there, for containers that ask for a GPU (`--gpus`)"
        if not seen.visible:
            found += "; the action takes a GPU from it"
        yield line("docker nvidia runtime", "green", found)
        return
    if not seen.visible and not needs_gpu:
        yield line("docker nvidia runtime", "green", "none, and no GPU that it could give")
        return
    lacking: Status = "red" if needs_gpu and not seen.visible else "amber"
    found = f"none (there is {', '.join(known) or 'no runtime'}): containers get no GPU"
    yield line("docker nvidia runtime", lacking, found, container.INSTALL_TOOLKIT)


def _room(info: Mapping[str, Any]) -> Iterator[Check]:
    """Of its store, where that is on this machine and may be seen."""
    root = Path(str(info.get("DockerRootDir") or "/nowhere"))
    try:
        here = root.is_dir() and os.access(root, os.X_OK)
    except OSError:
        return
    if here:
        free = shutil.disk_usage(root).free
        fix = "`docker system df` shows what takes room." if free < DISK_AMBER else ""
        status: Status = "amber" if free < DISK_AMBER else "green"
        yield line("docker disk", status, f"{gib(free)} free", fix, str(root))
