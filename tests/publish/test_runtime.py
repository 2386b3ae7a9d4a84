"""A real Docker engine: the runtime is built, pushed, pulled and started as a cluster would, and answers."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
import time as clocks
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import requests
from pydantic import SecretStr

from tests.doubles.registry import PASSWORD, USER, Running
from tests.e2e.conftest import docker, stand_in
from tests.publish import images
from tests.publish.conftest import LOGIN
from tests.report import samples
from trt_action import arrays, data, engine, errors
from trt_action import model as models
from trt_action.engine import kept
from trt_action.engine.backend import RuntimeOptions
from trt_action.engine.cache import Cache
from trt_action.precision import Recipe
from trt_action.publish import Options, Published, context, labels, publish, variants
from trt_action.publish import docker as engine_of_host
from trt_action.publish import version as versions
from trt_action.publish.credentials import Credentials
from trt_action.publish.reference import Reference
from trt_action.publish.registry import Registry
from trt_action.publish.scan import Target

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1_200)]


@pytest.fixture(scope="module")
def base() -> Reference:
    return Reference.parse(stand_in())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """The example model, built, with its self-test and evidence that speaks of it."""
    work = tmp_path_factory.mktemp("measured")
    model = models.load(digits / "model.onnx", label="model.onnx", name="digits", shapes=None, batch_size=4)
    built = engine.obtain(
        model,
        Recipe("fp32"),
        None,
        backend="onnxruntime",
        options=RuntimeOptions(threads=1),
        cache=Cache(None, 10**9),
        work_dir=work / "work",
        timeout=120,
    )
    data.save_feeds(data.example_feeds(model.info, 0, None), work / "feeds.npz")
    kept.keep(built, model.info, work / "kept", feeds=work / "feeds.npz")
    evidence = images.measured(b"").model_copy(
        update={"model": model.info, "fingerprint": engine.fingerprint("onnxruntime", RuntimeOptions())}
    )
    assert evidence.head
    head = evidence.head.model_copy(update={"engine": built.record, "model": model.info})
    kept.write_evidence(work / "kept", evidence.model_copy(update={"head": head}))
    return work / "kept"


@dataclass
class Shipped:
    done: Published
    registry: Registry
    log: list[str]
    left: set[str]
    """Containers that were not there before."""


def containers(command: str) -> set[str]:
    """Containers that run a command with this text: other people's may come and go meanwhile."""
    rows = docker("ps", "--all", "--no-trunc", "--format", "{{.ID}}\t{{.Command}}").splitlines()
    return {row.partition("\t")[0] for row in rows if command in row.partition("\t")[2]}


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A registry with a login; plain http, which the engine takes from this machine's own addresses only."""
    from tests.doubles import registry

    if reason := registry.missing():
        pytest.skip(reason)
    with registry.serve(tmp_path_factory.mktemp("published"), login=True) as running:
        yield running


@pytest.fixture(scope="module")
def shipped(trusted: Running, base: Reference, folder: Path) -> Iterator[Shipped]:
    """Published with the Docker engine, from a stand-in of the base image."""
    before = containers("/opt/trt-action/bin/python")
    log: list[str] = []
    with requests.Session() as session:
        session.trust_env = False
        registry = Registry(session, trusted.host, credentials=LOGIN)

        def opened(host: str) -> tuple[Registry, Credentials | None]:
            if host == trusted.host:
                return registry, LOGIN
            return Registry(session, "127.0.0.1:9", attempts=1), None  # what a machine without the network sees

        options = Options(Reference(trusted.host, "acme/digits"), facts={"branch": "main"}, base=base)
        done = publish(versions.read(folder), options, opened, log=log.append)
        yield Shipped(done, registry, log, containers("/opt/trt-action/bin/python") - before)
        assert docker("images", "--quiet", f"{done.image}:*") == "", "a name of the registry is left on this host"
        for digest in docker("images", "--digests", "--format", "{{.Digest}}", done.image).split():
            docker("rmi", "--force", f"{done.image}@{digest}")


@contextlib.contextmanager
def logged_in(host: str) -> Iterator[dict[str, str]]:
    """Docker's client with a login, in a config of its own."""
    import tempfile

    with tempfile.TemporaryDirectory() as config:
        env = {"PATH": os.environ["PATH"], "DOCKER_CONFIG": config, "HOME": config}
        subprocess.run(
            ["docker", "login", "--username", USER, "--password-stdin", host],
            input=PASSWORD, text=True, env=env, check=True, capture_output=True,
        )  # fmt: skip
        yield env


@pytest.fixture(scope="module")
def served(shipped: Shipped, trusted: Running) -> Iterator[tuple[str, str]]:
    """The image as a cluster starts it: by digest, nobody's user, nothing writable, no capabilities. (container, URL)"""
    name = f"{shipped.done.image}@{shipped.done.digest}"
    with logged_in(trusted.host) as env:
        subprocess.run(["docker", "pull", "--quiet", name], env=env, check=True, capture_output=True, timeout=300)
    port = 18_437
    container = docker(
        "run", "--detach", "--read-only", "--user", "65532:65532", "--cap-drop", "ALL",
        "--security-opt", "no-new-privileges", "--network", "host", "--env", f"TRT_ACTION_SERVE_PORT={port}", name,
    )  # fmt: skip
    try:
        wait_until_ready(container, f"http://127.0.0.1:{port}/v2/health/ready")
        yield container, f"http://127.0.0.1:{port}"
    finally:
        docker("rm", "--force", container)


def wait_until_ready(container: str, url: str) -> None:
    end = clocks.monotonic() + 60
    while clocks.monotonic() < end:
        with contextlib.suppress(requests.RequestException):
            if requests.get(url, timeout=1).status_code == 200:
                return
        assert docker("inspect", "--format", "{{.State.Running}}", container) == "true", docker("logs", container)
        clocks.sleep(0.1)
    raise AssertionError(docker("logs", container))


def test_the_image_answers_as_the_measured_engine_did(served: tuple[str, str], folder: Path) -> None:
    recorded = arrays.load_npz(folder / kept.SELFTEST)
    rows = recorded["input:image"]
    question = {
        "inputs": [{"name": "image", "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}]
    }
    answer = requests.post(f"{served[1]}/v2/models/digits/infer", json=question, timeout=10).json()
    (logits,) = answer["outputs"]
    np.testing.assert_allclose(
        np.array(logits["data"]).reshape(logits["shape"]), recorded["output:logits"], rtol=1e-5, atol=1e-5
    )


def test_its_healthcheck_and_its_stop(served: tuple[str, str]) -> None:
    config = json.loads(docker("inspect", "--format", "{{json .Config}}", served[0]))
    assert config["Healthcheck"]["Test"][0] == "CMD"
    docker("exec", served[0], *config["Healthcheck"]["Test"][1:])
    assert config["StopSignal"] == "SIGTERM"
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["trt-action", "serve", "/models"]


ABSENT = """
import importlib.util, shutil
from pathlib import Path
for module in ("pip", "setuptools", "onnx", "jinja2", "rich", "pydantic", "docker", "requests", "cryptography"):
    assert importlib.util.find_spec(module) is None, module
for module in ("publish", "github", "report", "precision"):
    assert importlib.util.find_spec(f"trt_action.{module}") is None, module
for program in ("pip", "pip3", "gcc", "cc", "make", "ld", "strip", "git"):
    assert shutil.which(program) is None, program
assert not list(Path("/root").glob(".cache/*")) if Path("/root").stat().st_mode & 1 else True
print("absent")
"""


def test_no_builder_no_pip_no_compiler(served: tuple[str, str]) -> None:
    assert docker("exec", served[0], "python3", "-c", ABSENT) == "absent"
    with pytest.raises(AssertionError, match="Read-only"):
        docker("exec", served[0], "sh", "-c", "touch /models/x /opt/x")


def test_it_is_small(shipped: Shipped, base: Reference) -> None:
    """120 MB over its base, as it lies on a disk; whoever changes what is in it sees here what it costs."""
    made = docker(
        "images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", f"label={labels.RUNTIME}={_runtime(shipped)}"
    )
    image = next(name for name in made.split() if name.startswith(f"{engine_of_host.LOCAL}:"))
    own, below = (int(docker("image", "inspect", "--format", "{{.Size}}", name)) for name in (image, str(base)))
    assert own - below < 120_000_000


def _runtime(shipped: Shipped) -> str:
    manifest = shipped.registry.manifest("acme/digits", shipped.done.digest)
    assert manifest
    from trt_action.publish import artifacts

    return artifacts.labels(shipped.registry, "acme/digits", manifest)[labels.RUNTIME]


def test_labels_are_what_other_tools_see(shipped: Shipped, served: tuple[str, str], trusted: Running) -> None:
    """The engine, and skopeo over the registry, tell the same labels."""
    told = json.loads(
        docker("image", "inspect", "--format", "{{json .Config.Labels}}", f"{shipped.done.image}@{shipped.done.digest}")
    )
    skopeo = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", "--creds", f"{USER}:{PASSWORD}", f"docker://{shipped.done.image}:main"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    seen = json.loads(skopeo.stdout)
    assert seen["Digest"] == shipped.done.digest
    assert seen["Labels"] == told
    assert told == told | shipped.done.labels


def test_nothing_is_left_and_no_secret_is_anywhere(shipped: Shipped, served: tuple[str, str], trusted: Running) -> None:
    assert shipped.left == set()
    name = f"{shipped.done.image}@{shipped.done.digest}"
    told = docker("history", "--no-trunc", name) + docker("image", "inspect", name) + "\n".join(shipped.log)
    assert PASSWORD not in told
    stored = (path.read_bytes() for path in trusted.data.rglob("data") if path.is_file())
    assert not any(PASSWORD.encode() in content for content in stored)


def recipe_of(base: Reference, dockerfile: Path) -> context.Recipe:
    variant = variants.VARIANTS["onnxruntime"]
    record = samples.engine(backend_version="1.32.0")
    return context.recipe(variant, base, variants.requirements(variant, record), dockerfile)


def test_a_build_that_fails_says_so_in_the_engines_words(base: Reference, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {base}\nRUN echo canary-of-the-log && exit 42\n")
    before = containers("canary-of-the-log")
    with engine_of_host.connect() as api, pytest.raises(errors.BuildError) as failed:
        engine_of_host.build(api, recipe_of(base, tmp_path / "Dockerfile"), None)
    assert "returned a non-zero code: 42" in failed.value.what
    assert "canary-of-the-log" in failed.value.why
    assert containers("canary-of-the-log") == before


def test_kill_9_during_a_build_leaves_no_container_and_no_tag(
    base: Reference, folder: Path, trusted: Running, tmp_path: Path
) -> None:
    """The engine sees that nobody listens any more."""
    (tmp_path / "Dockerfile").write_text(f"FROM {base}\nRUN sleep 301\n")
    image = f"{trusted.host}/acme/killed"
    command = [sys.executable, "-P", "-m", "trt_action", "publish", str(folder), image, "--username", USER]
    command += ["--dockerfile", str(tmp_path / "Dockerfile"), "--base-image", str(base), "--publish-mode", "docker"]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2]), "REGISTRY_PASSWORD": PASSWORD}
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert until(lambda: containers("sleep 301") != set())
    finally:
        process.kill()
        process.wait()
    assert until(lambda: containers("sleep 301") == set())
    with requests.Session() as session, pytest.raises(errors.RegistryError) as unknown:
        Registry(session, trusted.host, credentials=LOGIN).tags("acme/killed")
    assert unknown.value.status == 404


def until(condition: Callable[[], bool], seconds: float = 60) -> bool:
    end = clocks.monotonic() + seconds
    while not condition() and clocks.monotonic() < end:
        clocks.sleep(0.1)
    return condition()


def test_a_base_that_nobody_has(base: Reference, tmp_path: Path) -> None:
    missing = replace(base, repository="library/trt-action-no-such-image")
    (tmp_path / "Dockerfile").write_text(f"FROM {missing}\n")
    with engine_of_host.connect() as api, pytest.raises(errors.RegistryError, match="cannot be pulled"):
        engine_of_host.build(api, recipe_of(missing, tmp_path / "Dockerfile"), None)


def test_a_push_that_is_refused_says_so(trusted: Running, base: Reference) -> None:
    """The SDK's push raises nothing: the refusal is in its stream."""
    wrong = Credentials(USER, SecretStr("canary-wrong"))
    with engine_of_host.connect() as api:
        image = api.inspect_image(str(base))["Id"]  # type: ignore[no-untyped-call, unused-ignore]
        target = Reference(trusted.host, "acme/refused", "t")
        with pytest.raises(errors.RegistryError) as refused:
            engine_of_host.push(api, image, target, wrong)
    assert docker("images", "--quiet", str(target)) == ""
    assert "no basic auth credentials" in refused.value.what or "unauthorized" in refused.value.what
    assert "canary-wrong" not in refused.value.what + refused.value.why


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_without_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    with pytest.raises(errors.BackendUnavailableError, match="No Docker engine answers"), engine_of_host.connect():
        pass
    gc.collect()  # the SDK leaves a socket open that never was connected


def test_a_scanner_is_shown_the_base_before_it_is_pushed(base: Reference, tmp_path: Path) -> None:
    """Otherwise a forbidden base would lie in the registry."""
    from trt_action.publish import runtime

    (tmp_path / "Dockerfile").write_text(f"FROM {base}\nLABEL made=here\n")
    with requests.Session() as session:
        nowhere = Registry(session, "127.0.0.1:9", attempts=1)
        with pytest.raises(errors.RegistryError):
            nowhere.tags("x")
        asked = runtime.Asked("docker", base, tmp_path / "Dockerfile")
        variant, record = variants.VARIANTS["onnxruntime"], samples.engine(backend_version="1.32.0")
        made = runtime.obtain(variant, record, asked, Reference("127.0.0.1:9", "x"), lambda _: (nowhere, None))
    assert isinstance(made.target, Target)
    assert made.target.kind == "docker"
    docker("image", "inspect", made.target.name)
