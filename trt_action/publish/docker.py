"""The Docker engine: builds a runtime base and pushes it. The SDK's `push` never raises, so its stream is read.

Logins travel in the request alone: nothing is written to a config, and no process list shows them.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trt_action.console import clean
from trt_action.errors import BackendUnavailableError, BuildError, RegistryError
from trt_action.inputs import quote
from trt_action.publish import labels
from trt_action.publish.context import DOCKERFILE, Recipe
from trt_action.publish.credentials import Credentials
from trt_action.publish.reference import Reference, is_digest

if TYPE_CHECKING:
    from docker import APIClient

SECONDS = 600
"""Longest silence of the engine; a build and a push talk all the time."""
LAST_LINES = 15
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""The engine writes what a step says on stderr in red; without it a line may be empty."""
LOCAL = "trt-action-runtime"
"""Name of a built base on this host, so that it is found again and not taken for waste."""

Log = Callable[[str], None]


@contextlib.contextmanager
def connect() -> Iterator[APIClient]:
    """The engine of this host, by `DOCKER_HOST` or its socket.

    Raises:
        BackendUnavailableError: none answers.
    """
    import docker
    import requests

    try:
        client = docker.from_env(timeout=SECONDS)
    except docker.errors.DockerException as error:
        raise _no_engine(error) from None
    with contextlib.closing(client):
        try:
            client.api.ping()
        except (docker.errors.DockerException, requests.RequestException) as error:
            raise _no_engine(error) from None
        yield client.api


def is_there() -> bool:
    """Whether an engine answers."""
    try:
        with connect():
            return True
    except BackendUnavailableError:
        return False


def built(api: APIClient, recipe: Recipe) -> str | None:
    """The id of the image that was built from this very recipe, if this host has it. The label alone would also be that
    of every image which was published on it."""
    with _words("The engine's images cannot be listed"):
        found = api.images(f"{LOCAL}:{recipe.tag}", filters={"label": f"{labels.RUNTIME}={recipe.digest}"}, quiet=True)
    return str(found[0]) if found else None


def build(api: APIClient, recipe: Recipe, credentials: Credentials | None, *, log: Log = lambda _: None) -> str:
    """Build the base, unless this host has it. Returns the image's id. No container is left, however it ends.

    Raises:
        BuildError: with the engine's own words and its last lines.
        RegistryError: the image that it begins with cannot be had.
    """
    if (image := built(api, recipe)) is not None:
        log(f"The runtime base is there: {recipe.tag}.")
        return image
    _have(api, recipe.base, credentials, log)
    log(f"Building the runtime base {recipe.tag} from {recipe.base}.")
    lines: list[str] = []
    with _words("The runtime base cannot be built"):
        stream = api.build(
            fileobj=io.BytesIO(recipe.tar),
            custom_context=True,
            dockerfile=DOCKERFILE,
            tag=f"{LOCAL}:{recipe.tag}",
            rm=True,
            forcerm=True,
            decode=True,
            labels={labels.RUNTIME: recipe.digest, labels.VARIANT: recipe.variant},
        )
        identifier, problem = None, ""
        for event in stream:  # to its end, also after an error: only then is the connection free
            lines += _said(event)
            problem = problem or _problem(event)
            identifier = event.get("aux", {}).get("ID") or identifier
    if problem or identifier is None:
        raise _not_built(recipe, problem or "the engine ended the build without an image", lines)
    return str(identifier)


def push(
    api: APIClient, image: str, target: Reference, credentials: Credentials | None, *, log: Log = lambda _: None
) -> str:
    """Push an image under `target`'s tag. Returns the digest that the registry gave it.

    Raises:
        RegistryError: with the engine's or the registry's own words.
    """
    import docker

    log(f"Pushing {target}.")
    with _words(f"{target} cannot be pushed"):
        if not api.tag(image, target.name, target.tag):
            raise RegistryError(f"The engine does not tag {quote(image)} as {target}.")
        digest, problem = None, ""
        try:
            for event in api.push(target.name, target.tag, stream=True, decode=True, auth_config=_auth(credentials)):
                problem = problem or _problem(event)
                digest = (event.get("aux") or {}).get("Digest") or digest
        finally:
            with contextlib.suppress(docker.errors.APIError):
                api.remove_image(str(target), noprune=True)  # the name alone: the image has one of this host's own
    if problem:
        raise RegistryError(
            f"{target} was not pushed: {quote(problem)}.",
            why="These are the words of the Docker engine and of the registry.",
            fix="Check `registry-username` and `registry-password` and that they may write to this image.",
        )
    if not is_digest(str(digest)):
        raise RegistryError(f"The engine pushed {target} and gave no digest.", fix="Update the Docker engine.")
    return str(digest)


def _have(api: APIClient, base: Reference, credentials: Credentials | None, log: Log) -> None:
    """The image that a build begins with: here already, or pulled."""
    import docker

    with contextlib.suppress(docker.errors.ImageNotFound), _words("The engine's images cannot be inspected"):
        api.inspect_image(str(base))  # type: ignore[no-untyped-call, unused-ignore]
        return
    log(f"Pulling {base}.")
    with _words(f"The base image {base} cannot be pulled"):
        stream = api.pull(base.name, tag=base.target, stream=True, decode=True, auth_config=_auth(credentials))
        problems = [problem for event in stream if (problem := _problem(event))]
    if problems:
        raise RegistryError(
            f"The base image {base} cannot be pulled: {quote(problems[0])}.",
            fix="Correct `base-image`, or pull it to this host before.",
        )


def _auth(credentials: Credentials | None) -> dict[str, str] | None:
    """What goes into the request; None leaves it to Docker's own configuration."""
    if credentials is None:
        return None
    secret = credentials.secret.get_secret_value()
    if credentials.identity:
        return {"identitytoken": secret}
    return {"username": credentials.username, "password": secret}


def _said(event: Mapping[str, Any]) -> list[str]:
    """Lines of a build's event, without those that show nothing."""
    text = _COLOUR.sub("", str(event.get("stream", "")))
    return [line for line in text.splitlines() if clean(line).strip()]


def _problem(event: Mapping[str, Any]) -> str:
    """What went wrong by one line of a stream; empty if nothing."""
    detail = event.get("errorDetail")
    text = detail.get("message") if isinstance(detail, Mapping) else None
    return " ".join(str(text or event.get("error") or "").split())


def _not_built(recipe: Recipe, problem: str, lines: list[str]) -> BuildError:
    last = " / ".join(" ".join(clean(line).split()) for line in lines[-LAST_LINES:])
    return BuildError(
        f"The runtime base {recipe.tag} was not built: {quote(problem)}.",
        why=f"The engine's last lines: {last[-2_000:]}" if last else "The engine said nothing before.",
        fix="The build needs the package index of the libraries; behind a proxy, give the engine its settings. "
        "`base-image` may name a runtime base that was built elsewhere.",
    )


@contextlib.contextmanager
def _words(what: str) -> Iterator[None]:
    """An error of the engine in its own words; `ImageNotFound` passes, for those who asked whether it is there."""
    import docker
    import requests

    try:
        yield
    except docker.errors.ImageNotFound as error:
        if error.response is not None and error.response.request.method == "GET":
            raise
        raise RegistryError(f"{what}: {quote(error.explanation)}.") from None
    except docker.errors.APIError as error:
        raise RegistryError(f"{what}: {quote(error.explanation or error)}.") from None
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise RegistryError(
            f"{what}: {quote(error)}.", fix="Check that the Docker engine runs (`docker info`)."
        ) from None


def _no_engine(error: Exception) -> BackendUnavailableError:
    return BackendUnavailableError(
        "No Docker engine answers, and the runtime base has to be built.",
        why=f"The SDK says: {quote(error)}.",
        fix="Run on a host with Docker, or let `base-image` name a runtime base in a registry (`publish-mode: registry`).",
    )
