"""A push to the default branch publishes what it has measured, and a release promotes it: through the action's image."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.doubles import registry as registries
from tests.doubles.registry import PASSWORD, USER, Running
from tests.doubles.runner import Step
from tests.e2e.conftest import CONFIG, REPOSITORY, Checkout, MakeCheckout, docker, git, stand_in
from tests.publish.conftest import LOGIN
from trt_action.publish import artifacts, labels, signing, verify
from trt_action.publish.registry import Registry

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1_800)]

NAME = "acme/digits"


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A registry with a login, on this machine's own address."""
    if reason := registries.missing():
        pytest.skip(reason)
    with registries.serve(tmp_path_factory.mktemp("registry"), login=True) as running:
        yield running


@pytest.fixture(scope="module")
def registry(trusted: Running) -> Iterator[Registry]:
    with requests.Session() as session:
        session.trust_env = False
        yield Registry(session, trusted.host, credentials=LOGIN)


@pytest.fixture(scope="module")
def key() -> str:
    private = ec.generate_private_key(ec.SECP256R1())
    plain = serialization.NoEncryption()
    return private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain).decode()


def inputs(trusted: Running, key: str, **more: str) -> dict[str, str]:
    return {
        "registry": trusted.host,
        "image": NAME,
        "registry-username": USER,
        "registry-password": PASSWORD,
        "base-image": stand_in(),
        "sign-key": key,
        **{name.replace("_", "-"): value for name, value in more.items()},
    }


def push(checkout: Checkout, with_: dict[str, str], branch: str = "main") -> Step:
    payload = {
        "ref": f"refs/heads/{branch}",
        "before": checkout.base,
        "repository": {"full_name": REPOSITORY, "default_branch": "main"},
    }
    return checkout.step(event="push", payload=payload, sha=checkout.merge, ref=f"refs/heads/{branch}", with_=with_)


@dataclass
class Pushed:
    checkout: Checkout
    step: Step


@pytest.fixture(scope="module")
def pushed(make_checkout: MakeCheckout, trusted: Running, key: str) -> Pushed:
    checkout = make_checkout(CONFIG)
    return Pushed(checkout, push(checkout, inputs(trusted, key)))


def test_a_push_to_the_default_branch_is_published(pushed: Pushed, registry: Registry, key: str) -> None:
    step, commit = pushed.step, pushed.checkout.merge
    assert step.exit_code == 0, step.raw
    image = f"{registry.host}/{NAME}"
    assert step.outputs["image"] == image
    names = [commit, f"digits-cpu-int8-{commit}", "main", "digits-cpu-int8-main"]
    assert step.outputs["tags"].splitlines() == [f"{image}:{name}" for name in names]
    assert {registry.digest(NAME, name) for name in names} == {step.outputs["digest"]}
    assert f"{labels.PRECISION}=int8" in step.outputs["labels"].splitlines()
    assert json.loads(step.outputs["json"])["images"][0]["digest"] == step.outputs["digest"]
    assert f"`{image}:main`" in step.summary
    public = signing.KeySigner.from_pem(secret(key)).public
    (verified,) = verify.verify(registry, NAME, "main", public)
    assert verified.ok, verified


def secret(text: str) -> Any:
    from pydantic import SecretStr

    return SecretStr(text)


def test_what_was_pushed_serves(pushed: Pushed, trusted: Running) -> None:
    assert pushed.step.exit_code == 0, pushed.step.raw
    subprocess.run(
        ["docker", "login", "--username", USER, "--password-stdin", trusted.host],
        input=PASSWORD, text=True, check=True, capture_output=True,
    )  # fmt: skip
    image = f"{trusted.host}/{NAME}@{pushed.step.outputs['digest']}"
    run = ["run", "--detach", "--read-only", "--cap-drop", "ALL", "--network", "host"]
    container = docker(*run, "--env", "TRT_ACTION_SERVE_PORT=18439", image, timeout=300)
    try:
        end = time.monotonic() + 60
        ready = False
        while not ready and time.monotonic() < end:
            with contextlib.suppress(requests.RequestException):
                ready = requests.get("http://127.0.0.1:18439/v2/health/ready", timeout=1).ok
            time.sleep(0.1)
        assert ready, docker("logs", container)
    finally:
        docker("rm", "--force", container)
        docker("logout", trusted.host)
        docker("rmi", "--force", image)


def test_no_secret_is_anywhere(pushed: Pushed, trusted: Running, key: str) -> None:
    step = pushed.step
    lines = [line for line in key.splitlines() if line]
    assert {PASSWORD, *lines} <= set(step.masks)
    printed = step.raw
    for mask in step.masks:
        printed = printed.replace(f"::add-mask::{mask}", "")
    told = printed + step.summary + json.dumps(step.outputs)
    assert PASSWORD not in told
    assert lines[1] not in told
    folders = [pushed.checkout.runner.work, trusted.data]
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert PASSWORD.encode() not in content, path
        assert lines[1].encode() not in content, path


def test_the_same_commit_again_goes_the_short_way(
    pushed: Pushed, registry: Registry, trusted: Running, key: str
) -> None:
    """The runtime base is in the registry now: no Docker engine is asked, and none need be there."""
    again = pushed.checkout.start(
        event="push",
        payload={"ref": "refs/heads/main", "before": pushed.checkout.base, "repository": {"default_branch": "main"}},
        sha=pushed.checkout.merge,
        ref="refs/heads/main",
        with_=inputs(trusted, key, publish_mode="registry"),
        socket=False,
    ).result()
    assert again.exit_code == 0, again.raw
    assert "from an earlier run" in again.log
    assert "Building the runtime base" not in again.log
    assert registry.digest(NAME, "main") == again.outputs["digest"]


def test_a_release_promotes_the_same_digest(pushed: Pushed, registry: Registry, trusted: Running, key: str) -> None:
    before = registry.digest(NAME, "main")
    step = pushed.checkout.step(
        event="release",
        payload={"action": "published", "release": {"tag_name": "v1.2.3"}, "repository": {"default_branch": "main"}},
        sha=pushed.checkout.merge,
        ref="refs/tags/v1.2.3",
        with_=inputs(trusted, key),
    )
    assert step.exit_code == 0, step.raw
    assert {registry.digest(NAME, name) for name in ("1.2.3", "1.2", "1", "latest")} == {before}
    assert step.outputs["digest"] == before
    assert f"{registry.host}/{NAME}:1.2.3" in step.outputs["tags"].splitlines()


def test_a_red_push_publishes_nothing(
    make_checkout: MakeCheckout, registry: Registry, trusted: Running, key: str
) -> None:
    checkout = make_checkout(CONFIG + "max-engine-size: 1kB\n")
    step = push(checkout, inputs(trusted, key, image="acme/red"))
    assert step.exit_code == 1, step.raw
    assert "Nothing is published" in step.log
    assert "digest" not in step.outputs or not step.outputs["digest"]
    assert registry.manifest("acme/red", "main") is None
    assert not list(Path(trusted.data).glob("docker/registry/v2/repositories/acme/red"))


def test_a_pull_request_is_published_only_if_asked_and_never_from_a_fork(
    make_checkout: MakeCheckout, registry: Registry, trusted: Running, key: str
) -> None:
    checkout = make_checkout(CONFIG)
    asked = inputs(trusted, key, image="acme/pulls", tags="type=ref,event=pr", push="true")
    fork = checkout.step(with_=asked, payload=checkout.payload(head_repository="stranger/models"))
    assert fork.exit_code == 0, fork.raw
    assert registry.manifest("acme/pulls", "pr-7") is None
    own = checkout.step(with_=asked)
    assert own.exit_code == 0, own.raw
    manifest = artifacts.resolve(registry, "acme/pulls", "pr-7")
    assert artifacts.labels(registry, "acme/pulls", manifest)[f"{labels.OCI}revision"] == checkout.head
    assert git(checkout.runner.workspace, "rev-parse", "HEAD") == checkout.merge
