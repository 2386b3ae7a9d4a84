"""The example workflows that publish: their steps with the action's image, into a real registry instead of ghcr.io."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr

from tests.doubles import registry as registries
from tests.doubles.registry import PASSWORD, USER, Running
from tests.doubles.workflow import Leg, Workflow
from tests.e2e.conftest import CONFIG, REPOSITORY, ROOT, TOKEN, Checkout, MakeCheckout, stand_in
from tests.publish.conftest import LOGIN
from trt_action.publish import artifacts, select, signing, verify
from trt_action.publish.registry import Registry

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1_800)]
NAME = "acme/detector"
PASSPHRASE = "canary-passphrase"  # noqa: S105 - the test's own
Change = Callable[[dict[str, str]], dict[str, str]]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    if reason := registries.missing():
        pytest.skip(reason)
    with registries.serve(tmp_path_factory.mktemp("registry"), login=True) as found:
        yield found


@pytest.fixture(scope="module")
def registry(running: Running) -> Iterator[Registry]:
    with requests.Session() as session:
        session.trust_env = False
        yield Registry(session, running.host, credentials=LOGIN)


@pytest.fixture(scope="module")
def key() -> str:
    private = ec.generate_private_key(ec.SECP256R1())
    encryption = serialization.BestAvailableEncryption(PASSPHRASE.encode())
    return private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption).decode()


@pytest.fixture
def run(running: Running, key: str, tmp_path: Path) -> Callable[..., dict[str, list[Leg]]]:
    """Run one example at a commit: (name, checkout, event, payload, ref, change of the action's inputs) → its jobs."""

    def start(
        name: str, checkout: Checkout, event: str, payload: dict[str, Any], ref: str, change: Change = dict
    ) -> dict[str, list[Leg]]:
        payload = {"repository": {"full_name": REPOSITORY, "default_branch": "main"}, **payload}

        def here(inputs: dict[str, str]) -> dict[str, str]:
            assert inputs.pop("registry") == "ghcr.io"
            login = {"registry": running.host, "registry-username": USER, "registry-password": PASSWORD}
            base = {"base-image": stand_in()} if event == "push" else {}
            return change({**inputs, **login, **base})

        def action(inputs: dict[str, str]) -> Any:
            return checkout.step(with_=inputs, event=event, payload=payload, sha=checkout.merge, ref=ref)

        github = {"token": TOKEN, "event": payload, "ref": ref}
        secrets = {"SIGN_KEY": key, "SIGN_KEY_PASSWORD": PASSPHRASE}
        workspace, artifacts = checkout.runner.workspace, tmp_path / "artifacts"
        return Workflow(ROOT / "examples/workflows" / name, workspace, artifacts, action, github, here, secrets).run()

    return start


def test_a_push_is_published_and_its_release_promoted(
    run: Callable[..., dict[str, list[Leg]]], make_checkout: MakeCheckout, registry: Registry, key: str
) -> None:
    checkout = make_checkout(CONFIG)
    push = {"ref": "refs/heads/main", "before": checkout.base}
    (leg,) = run("publish.yml", checkout, "push", push, "refs/heads/main")["publish"]
    assert leg.result == "success", leg.actions[0].raw
    digest = leg.actions[0].outputs["digest"]
    assert f"Deploy {registry.host}/{NAME}@{digest}\n" in leg.steps
    assert registry.digest(NAME, "main") == digest
    release = {"action": "published", "release": {"tag_name": "v1.2.3"}}
    (leg,) = run("release.yml", checkout, "release", release, "refs/tags/v1.2.3")["promote"]
    assert leg.result == "success", leg.actions[0].raw
    assert {registry.digest(NAME, tag) for tag in ("1.2.3", "1.2", "1", "latest")} == {digest}
    public = signing.KeySigner.from_pem(SecretStr(key), SecretStr(PASSPHRASE)).public
    (verified,) = verify.verify(registry, NAME, "latest", public)
    assert verified.ok, verified


def test_a_matrix_publishes_into_one_index(
    run: Callable[..., dict[str, list[Leg]]], make_checkout: MakeCheckout, registry: Registry
) -> None:
    """The GPUs cannot be had here: each leg measures on the CPU, in a precision of its own. What holds is not the point."""
    loose = CONFIG.replace("max-latency-regression: 50%\nmax-accuracy-drop: 5%\n", "base: none\n")
    assert loose != CONFIG
    checkout = make_checkout(loose)
    precisions = {"A100": "int8", "L4": "fp32", "T4": "fp16"}

    def change(inputs: dict[str, str]) -> dict[str, str]:
        gpu = inputs.pop("gpu")
        return {**inputs, "image": "acme/matrix", "precision": precisions[gpu]}

    push = {"ref": "refs/heads/main", "before": checkout.base}
    legs = run("gpu-publish.yml", checkout, "push", push, "refs/heads/main", change)["publish"]
    assert [leg.result for leg in legs] == ["success"] * 3, "\n".join(leg.actions[0].log for leg in legs)
    index = artifacts.resolve(registry, "acme/matrix", checkout.merge)
    assert {one.digest for one in select.entries(index)} == {leg.actions[0].outputs["digest"] for leg in legs}
    assert {one.precision for one in select.entries(index)} == set(precisions.values())
    assert registry.digest("acme/matrix", "main") == index.digest
