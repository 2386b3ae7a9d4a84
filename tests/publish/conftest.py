"""The real registry, a proxy with faults before it, and clients whose clock does not wait."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests
from pydantic import SecretStr

from tests.doubles import registry, registry_proxy
from tests.doubles.registry import PASSWORD, USER, Running
from tests.doubles.registry_proxy import Proxy
from trt_action.publish import layers
from trt_action.publish.credentials import Credentials
from trt_action.publish.oci import LAYER, Blob
from trt_action.publish.registry import Registry

LOGIN = Credentials(USER, SecretStr(PASSWORD))
MakeRegistry = Callable[..., Registry]
Pack = Callable[..., Blob]


@dataclass
class Time:
    """A clock that moves only when somebody sleeps."""

    seconds: float = 1_000.0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds

    def now(self) -> float:
        return self.seconds


@pytest.fixture(scope="session")
def cncf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A registry without TLS and login; tests use repositories of their own."""
    if reason := registry.missing():
        pytest.skip(reason)
    with registry.serve(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="session")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A registry with TLS and a login."""
    if reason := registry.missing():
        pytest.skip(reason)
    with registry.serve(tmp_path_factory.mktemp("locked"), tls=True, login=True) as running:
        yield running


@pytest.fixture
def proxy(cncf: Running) -> Iterator[Proxy]:
    """Faults before the registry; whatever a client did that it may not is an error of the test."""
    with registry_proxy.serve(cncf.host) as double:
        yield double
        assert double.violations == []


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.trust_env = False
        yield made


@pytest.fixture
def make(session: requests.Session, time: Time, log: list[str]) -> MakeRegistry:
    def made(host: str, **changes: object) -> Registry:
        return Registry(
            session,
            host,
            sleep=time.sleep,
            clock=time.now,
            now=time.now,
            jitter=lambda: 0.0,
            log=log.append,
            **changes,  # type: ignore[arg-type]
        )

    return made


@pytest.fixture
def client(proxy: Proxy, make: MakeRegistry) -> Registry:
    """A client of the proxy, which sends larger blobs in chunks of 64 KiB."""
    return make(proxy.host, chunk=65_536)


@pytest.fixture
def repository(request: pytest.FixtureRequest) -> str:
    """A name that no other test uses."""
    return f"tests/{os.getpid()}/{abs(hash(request.node.nodeid))}"


@pytest.fixture
def make_blob(tmp_path: Path) -> Callable[[int], Blob]:
    """A file of random bytes, ready to be uploaded."""

    def made(size: int) -> Blob:
        path = tmp_path / f"blob-{size}"
        path.write_bytes(os.urandom(size))
        return Blob.of_file(path, LAYER)

    return made


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    """A layer with one random file."""

    def made(name: str, place: str = "/models/digits/1", size: int = 200_000) -> Blob:
        folder = tmp_path / name
        folder.mkdir()
        (folder / f"{name}.plan").write_bytes(os.urandom(size))
        return layers.pack(folder, place, tmp_path / f"{name}.tar", compression="gzip")

    return made
