"""What of this host is ready, and how to fix the rest. Data only; the command line prints it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trt_action.doctor import access, backends, docker, gpus, host
from trt_action.doctor.line import Check, guarded

__all__ = ["Asked", "Check", "checks"]


@dataclass(frozen=True)
class Asked:
    """What a run on this host should do; decides whether something that is missing is red.

    Args:
        backend: `onnxruntime`, `tensorrt`, `tensorrt-rtx`, or None: whichever is usable.
        device: as the setting; `cuda` and `cuda:N` need a GPU.
        registry: a host to log in to, e.g. `ghcr.io`.
        username, ca, insecure: of that registry, as `trt-action publish` takes them; the password comes from `env`.
    """

    output: Path
    cache: Path | None
    env: Mapping[str, str]
    backend: str | None = None
    device: str = "auto"
    registry: str | None = None
    username: str | None = None
    ca: Path | None = None
    insecure: bool | None = None

    @property
    def needs_gpu(self) -> bool:
        return self.backend in ("tensorrt", "tensorrt-rtx") or self.device.startswith("cuda")


def checks(asked: Asked, tell: Callable[[Check], None] = lambda _: None) -> list[Check]:
    """Every line, in the order in which a run meets them; `tell` gets each one as soon as it is known. A registry and
    GitHub are asked over the network, for at most about 20 s each, and only if they are named or a token is there."""
    found: list[Check] = []

    def add(more: list[Check]) -> None:
        found.extend(more)
        for check in more:
            tell(check)

    add(guarded("host", host.lines, asked.output, asked.cache))
    seen = gpus.look(asked.device)
    add(guarded("gpu", gpus.lines, seen, asked.needs_gpu))
    add(guarded("backends", backends.lines, seen, asked.backend, asked.device))
    add(guarded("modelopt", backends.modelopt_lines, asked.env))
    add(guarded("docker", docker.lines, seen, asked.needs_gpu, asked.env))
    add(guarded("github token", access.token_lines, asked.env))
    add(guarded("registry", access.registry_lines, asked.registry, asked.username, asked.env, asked.ca, asked.insecure))
    return found
