"""An image that serves the API, started for a while by Docker, and removed however the while ends."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trt_action import container
from trt_action.errors import BackendUnavailableError, EndpointError, SettingsError
from trt_action.inputs import quote
from trt_action.llm import leftovers
from trt_action.process import Progress

if TYPE_CHECKING:
    from docker.models.containers import Container

POLL_SECONDS = 0.25
LOG_LINES = 15


@dataclass(frozen=True)
class Image:
    """What to start. `env`: names and values that the container gets; values are secrets and shown nowhere."""

    name: str
    args: str = ""
    port: int = 8000
    gpus: str = "none"
    volumes: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict, repr=False)
    start_timeout: float = 600.0


@dataclass(frozen=True)
class Running:
    """A container that runs. `url`: of its API; `digest`: the image's own name with its digest, or its id."""

    url: str
    digest: str
    state: Callable[[], str]
    """Empty while it runs; else how it ended, with its last words."""


def chosen_env(names: tuple[str, ...], env: dict[str, str]) -> dict[str, str]:
    """Values of the variables that a container gets.

    Raises:
        SettingsError: one of them is not set.
    """
    if missing := [name for name in names if name not in env]:
        raise SettingsError(
            f"`endpoint-env` names {quote(missing[0])}, which is not set.",
            fix="Set it in the environment of this run (`env:` of the step), or leave it out.",
        )
    return {name: env[name] for name in names}


@contextlib.contextmanager
def running(image: Image, progress: Progress) -> Iterator[Running]:
    """Start a container, pulling the image if it is not here. It is not yet known to answer: see `sides.ready`.

    Raises:
        BackendUnavailableError: Docker cannot be asked, has no such GPU, or there is no such image.
    """
    try:
        import docker
    except ImportError:
        raise BackendUnavailableError(
            f"To start {quote(image.name)}, the Docker client is needed, and it is not installed.",
            fix="`pip install 'trt-action[llm]'`, or start it yourself and name its URL with `endpoint`.",
        ) from None
    import requests

    try:
        client = docker.from_env(timeout=600)
    except docker.errors.DockerException as error:
        raise _no_docker(image, str(error)) from None
    with contextlib.closing(client), contextlib.ExitStack() as leaving:
        try:
            me = leftovers.here(client)
            if leftovers.remove(client, me):  # first: it may hold the memory that the new one needs
                progress("removed a container that a run had left behind", None)
            _pull(client, image, progress)
            network = _own_network(client, me.container)
            started = _create(client, image, network, me)
            leaving.callback(_remove, started)
            started.start()
            url = _url(started, image, network)
        except docker.errors.ImageNotFound as error:
            raise BackendUnavailableError(
                f"There is no image {quote(image.name)}.",
                why=f"Docker says: {quote(error.explanation or error)}.",
                fix="Check its name, and log in to its registry (`docker login`) if it is private.",
            ) from None
        except docker.errors.APIError as error:
            raise _refused(image, str(error.explanation or error)) from None
        except (docker.errors.DockerException, requests.RequestException) as error:
            raise _no_docker(image, str(error)) from None
        yield Running(url, _digest(started), lambda: _ended(started, image))


def wait(running: Running, image: Image, answers: Callable[[], Exception | None], progress: Progress) -> None:
    """Until `answers` returns None.

    Raises:
        EndpointError: the container ended, or did not answer in time.
    """
    start = time.monotonic()
    while (why := answers()) is not None:
        waited = time.monotonic() - start
        if state := running.state():
            raise EndpointError(
                f"The container of {quote(image.name)} ended before it answered.",
                why=state,
                fix="Check `endpoint-args`, `endpoint-volumes`, `endpoint-gpus` and `endpoint-env`.",
            )
        if waited > image.start_timeout:
            raise EndpointError(
                f"The container of {quote(image.name)} did not answer within {image.start_timeout:g} s.",
                why=str(why),
                fix="Check `endpoint-port` and that it listens on 0.0.0.0; raise `endpoint-start-timeout` for a large model.",
            )
        progress(f"waiting for {image.name}", min(waited / image.start_timeout, 1.0))
        time.sleep(POLL_SECONDS)


def _pull(client: Any, image: Image, progress: Progress) -> None:
    import docker

    try:
        client.images.get(image.name)
    except docker.errors.ImageNotFound:
        progress(f"pulling {image.name}", None)
        try:
            client.images.pull(image.name) if _has_tag(image.name) else client.images.pull(image.name, tag="latest")
        except docker.errors.NotFound:
            raise
        except docker.errors.APIError as error:
            raise BackendUnavailableError(
                f"The image {quote(image.name)} cannot be pulled.",
                why=f"Docker says: {quote(error.explanation or error)}.",
                fix="Check its name, and that this host may reach its registry.",
            ) from None


def _has_tag(name: str) -> bool:
    return "@" in name or ":" in name.rpartition("/")[2]


def _own_network(client: Any, identifier: str) -> str | None:
    """Inside a container (the action), the network that a sibling must be in to be reached; None on a host."""
    if not identifier:
        return None
    networks = client.containers.get(identifier).attrs["NetworkSettings"]["Networks"]
    names = [str(name) for name in networks if name not in {"host", "none"}]
    return names[0] if names else None


def _create(client: Any, image: Image, network: str | None, me: leftovers.Owner) -> Container:
    port = f"{image.port}/tcp"
    extra: dict[str, Any] = {"network": network} if network else {"ports": {port: ("127.0.0.1", None)}}
    made: Container = client.containers.create(
        image.name,
        command=shlex.split(image.args) or None,
        environment=image.env,
        labels={leftovers.LABEL: me.label()},
        volumes=[f"{one}:ro" for one in image.volumes],
        device_requests=_gpus(image.gpus),
        shm_size="1g",
        **extra,
    )
    return made


def _gpus(asked: str) -> list[Any]:
    from docker.types import DeviceRequest

    if asked == "none":
        return []
    if asked == "all":
        return [DeviceRequest(count=-1, capabilities=[["gpu"]])]
    return [DeviceRequest(device_ids=[one.strip() for one in asked.split(",")], capabilities=[["gpu"]])]


def _url(started: Container, image: Image, network: str | None) -> str:
    started.reload()
    settings = started.attrs["NetworkSettings"]
    if network:
        return f"http://{settings['Networks'][network]['IPAddress']}:{image.port}/v1"
    published = (settings["Ports"].get(f"{image.port}/tcp") or [{}])[0].get("HostPort", "0")
    return f"http://127.0.0.1:{published}/v1"


def _digest(started: Container) -> str:
    found = started.image
    digests = found.attrs.get("RepoDigests", []) if found else []
    return str(digests[0] if digests else found.id if found else "")


def _ended(started: Container, image: Image) -> str:
    started.reload()
    state = started.attrs["State"]
    if state["Status"] in {"running", "created"}:
        return ""
    log = started.logs(tail=LOG_LINES).decode("utf-8", "replace").strip()
    for value in image.env.values():
        log = log.replace(value, "***") if value else log
    killed = ", killed for memory" if state.get("OOMKilled") else ""
    return f"Exit code {state.get('ExitCode')}{killed}. Its last words:\n{log[-3_000:]}"


def _remove(started: Container) -> None:
    import docker

    with contextlib.suppress(docker.errors.NotFound):
        started.remove(force=True, v=True)


def _refused(image: Image, explanation: str) -> BackendUnavailableError:
    if "could not select device driver" in explanation or "unknown or invalid runtime name" in explanation:
        return BackendUnavailableError(
            "Docker on this host cannot give a container a GPU: it has no NVIDIA runtime.",
            why=f"Docker says: {quote(explanation)}.",
            fix=container.INSTALL_TOOLKIT,
        )
    return BackendUnavailableError(
        f"The image {quote(image.name)} cannot be started.",
        why=f"Docker says: {quote(explanation)}.",
        fix="Check `endpoint-args`, `endpoint-volumes` and `endpoint-gpus`.",
    )


def _no_docker(image: Image, explanation: str) -> BackendUnavailableError:
    return BackendUnavailableError(
        f"To start {quote(image.name)}, Docker is needed, and it cannot be asked.",
        why=f"{quote(explanation)}.",
        fix="Check `docker info`; in the action, the runner must have Docker. Or name a URL with `endpoint`.",
    )
