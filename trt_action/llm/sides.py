"""Head and base: a URL that is there, or an image that is started; connections to them, known to answer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from pydantic import SecretStr

from trt_action.errors import SettingsError
from trt_action.llm import images
from trt_action.llm.client import Access, Client, settled
from trt_action.llm.faults import Fault
from trt_action.llm.images import Image
from trt_action.llm.prompts import Prompt
from trt_action.process import Progress
from trt_action.settings import Settings

HEAD_KEY = "TRT_ACTION_ENDPOINT_KEY"
BASE_KEY = "TRT_ACTION_BASE_ENDPOINT_KEY"
_HERE = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True)
class Place:
    """One side before anything is asked. Either `image`, or `access.url`, says where."""

    role: str
    access: Access
    image: Image | None = None

    @property
    def label(self) -> str:
        return self.image.name if self.image else self.access.url


@dataclass(frozen=True)
class Asking:
    """How every request of a run is made, on both sides."""

    first: Prompt
    seed: int
    ignore_eos: bool
    max_tokens: int
    unique: bool


@dataclass
class Site:
    """A side that answers. `access` can be used for as many connections as are wanted."""

    place: Place
    access: Access
    image: str | None = None
    server: str = ""
    notes: list[str] = field(default_factory=list)

    def connect(self) -> Client:
        return Client(self.access)


def places(s: Settings, env: Mapping[str, str]) -> dict[str, Place]:
    """Head, and base where there is one.

    Raises:
        SettingsError: a variable that a container shall get is not set, or a key is none.
    """
    found = {"head": _place(s, "head", s.endpoint, s.endpoint_image, s.endpoint_args, s.endpoint_model, env)}
    if s.has_base_endpoint:
        arguments = s.endpoint_args if s.base_endpoint_args is None else s.base_endpoint_args
        found["base"] = _place(s, "base", s.base_endpoint, s.base_endpoint_image, arguments, s.base_endpoint_model, env)
    return found


def _place(
    s: Settings,
    role: str,
    url: str | None,
    image: str | None,
    arguments: str | None,
    model: str | None,
    env: Mapping[str, str],
) -> Place:
    access = Access(url or "", s.endpoint_api, model or "", _key(role, env), s.request_timeout)
    if image is None:
        return Place(role, access)
    return Place(
        role,
        access,
        Image(
            image,
            arguments or "",
            s.endpoint_port,
            s.endpoint_gpus,
            s.endpoint_volumes,
            images.chosen_env(s.endpoint_env, dict(env)),
            s.endpoint_start_timeout,
        ),
    )


def _key(role: str, env: Mapping[str, str]) -> SecretStr | None:
    name = HEAD_KEY if role == "head" else BASE_KEY
    key = env.get(name, "").strip()
    if not all("!" <= character <= "~" for character in key):
        raise SettingsError(
            f"`{name}` holds a character that no key has: a space, a line break, or one outside of ASCII.",
            fix="Set it to the key alone, without quotation marks and without `Bearer`.",
        )
    return SecretStr(key) if key else None


def warnings(place: Place) -> list[str]:
    """A key that travels for everybody to read."""
    parts = urlsplit(place.access.url)
    if place.access.secrets and parts.scheme == "http" and parts.hostname not in _HERE:
        return [f"The key of {place.role} is sent to {place.access.url} without encryption; use https."]
    return []


@contextlib.contextmanager
def site(place: Place, asking: Asking, progress: Progress, *, fallback_model: str = "") -> Iterator[Site]:
    """A side, known to answer: started if it is an image, its model's name found if none is given.

    Args:
        fallback_model: the name to send where the server lists none or several.

    Raises:
        EndpointError: it does not answer as it should; names the side.
        BackendUnavailableError: Docker cannot start the image.
    """
    if place.image is None:
        with Client(place.access) as client:
            yield _settled(client, place, asking, fallback_model)
        return
    with images.running(place.image, progress) as running:
        access = replace(place.access, url=running.url)
        with Client(access) as client:
            images.wait(running, place.image, lambda: _silent(client), progress)
            found = _settled(client, place, asking, fallback_model)
            found.image = running.digest
            yield found


def _silent(client: Client) -> Fault | None:
    """What keeps a server that is starting from answering; None once it lists its models, or says that it has no list."""
    try:
        client.models()
    except Fault as fault:
        return fault if fault.kind in {"no-connection", "cut", "server-error", "timed-out"} else None
    return None


def _settled(client: Client, place: Place, asking: Asking, fallback_model: str) -> Site:
    try:
        access = client.access
        if not access.model:
            listed = client.models()
            access = replace(access, model=listed[0] if len(listed) == 1 else fallback_model)
            if not access.model:
                raise _no_name(place, listed)
            client.use(access)
        access, notes = settled(client, asking.first, seed=asking.seed, ignore_eos=asking.ignore_eos)
    except Fault as fault:
        error = fault.error(place.role)
        error.why = error.why or _known_models(client)
        raise error from None
    return Site(place, access, server=client.server, notes=notes)


def _known_models(client: Client) -> str:
    """What the server would know, for whoever has sent a wrong name."""
    try:
        listed = client.models()
    except Fault:
        return ""
    if not listed or client.access.model in listed:
        return ""
    names = ", ".join(f"`{name[:100]}`" for name in listed[:5])
    return f"`{client.access.model}` was asked for, and the server lists {names}."


def _no_name(place: Place, listed: list[str]) -> Fault:
    setting = "endpoint-model" if place.role == "head" else "base-endpoint-model"
    names = ", ".join(f"`{name[:100]}`" for name in listed[:5])
    many = f"lists {len(listed)} models ({names})" if listed else "lists no models"
    return Fault("not-found", f"The server {many}: `{setting}` must say which one is asked.")
