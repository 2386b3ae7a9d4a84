"""Which image is meant, what is known of it, and the commands with everything real but the cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.deploy.conftest import ROOT, TOKEN, manifest
from tests.doubles.kubernetes import server
from tests.doubles.kubernetes.controllers import Image
from tests.doubles.kubernetes.server import Identity, Kubernetes
from tests.doubles.registry import Running
from tests.publish import images
from tests.publish.conftest import *  # noqa: F403 - its fixtures
from tests.publish.conftest import MakeRegistry
from tests.publish.images import Published
from trt_action import cli
from trt_action.commands import cluster
from trt_action.deploy import image
from trt_action.deploy.facts import PREFIX
from trt_action.errors import DeployError, SettingsError, VerificationError
from trt_action.publish.reference import Reference
from trt_action.publish.registry import Registry
from trt_action.publish.signing import KeySigner


@pytest.fixture
def registry(cncf: Running, make: MakeRegistry) -> Registry:
    return make(cncf.host)


@pytest.fixture
def published(registry: Registry, repository: str) -> Published:
    """An image with its evidence attached and signed, tagged `main`."""
    pushed = images.push(registry, repository, "main")
    images.attached(registry, pushed, None)
    return pushed


def test_what_is_known(registry: Registry, published: Published, log: list[str]) -> None:
    known = image.known(registry, published.name.at(published.digest), None, log.append)
    assert (known.commit, known.outcome, known.verdict) == (images.COMMIT, "passed", "improved")
    assert known.evidence == published.labels["io.github.trt-action.evidence"]
    assert log == []


def test_a_tag_becomes_a_digest(registry: Registry, published: Published) -> None:
    assert image.resolve(registry, published.name.tagged("main")) == published.name.at(published.digest)
    assert image.resolve(registry, published.name.at(published.digest)).digest == published.digest
    for name in (published.name, published.name.tagged("latest")):
        with pytest.raises(SettingsError, match="another one tomorrow"):
            image.resolve(registry, name)
    with pytest.raises(VerificationError):
        image.resolve(registry, published.name.tagged("none"))


def test_a_tag_that_moves(registry: Registry, published: Published, repository: str) -> None:
    asked = published.name.tagged("main")
    resolved = image.resolve(registry, asked)
    image.confirm(registry, asked, resolved)
    images.push(registry, repository, "main")
    with pytest.raises(DeployError, match="has moved"):
        image.confirm(registry, asked, resolved)


def test_an_image_that_is_not_there(registry: Registry, published: Published, log: list[str]) -> None:
    with pytest.raises(VerificationError):
        image.known(registry, published.name.at("sha256:" + "0" * 64), None, log.append)


def test_a_red_run_is_not_deployed(
    registry: Registry, repository: str, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    green = images.measured
    monkeypatch.setattr(images, "measured", lambda *a, **k: green(*a, **k).model_copy(update={"outcome": "failed"}))
    red = images.push(registry, repository)
    with pytest.raises(DeployError, match="its run is red"):
        image.known(registry, red.name.at(red.digest), None, log.append)


def test_with_a_key_only_what_is_signed(registry: Registry, published: Published, log: list[str]) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from pydantic import SecretStr

    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key = KeySigner.from_pem(SecretStr(pem.decode()), None).public
    with pytest.raises(VerificationError, match="is not verified"):
        image.known(registry, published.name.at(published.digest), key, log.append)


def test_a_registry_that_is_not_there(make: MakeRegistry, log: list[str]) -> None:
    name = Reference.parse(f"127.0.0.1:9/acme/detector@sha256:{'1' * 64}")
    known = image.known(make("127.0.0.1:9"), name, None, log.append)
    assert (known.digest, known.commit) == (name.digest, "")
    assert any("are not known" in line for line in log)


@pytest.fixture
def k8s(tmp_path: Path, published: Published, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kubernetes]:
    """A cluster that runs another image, and a kubeconfig that is found by itself."""
    (tmp_path / "cluster").mkdir()
    with server.serve(tmp_path / "cluster") as double:
        double.tokens[TOKEN] = Identity("deployer")
        old = f"{published.name}@sha256:{'a' * 64}"
        double.images[old] = double.images[published.digest] = Image()
        double.images["registry.example/acme/detector/sidecar:1"] = Image(digest="sha256:" + "5" * 64)
        double.create(manifest(image=old))
        double.wait(lambda: double.settled("deployments", "detector", old))
        monkeypatch.setenv("KUBECONFIG", str(double.kubeconfig(tmp_path / "config", token=TOKEN)))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield double
    assert double.violations == []


WHERE = ("--workload", "deployment/detector", "--container", "detector", "--timeout", "20s")


def test_by_the_command_line(k8s: Kubernetes, published: Published, capsys: pytest.CaptureFixture[str]) -> None:
    name, digest = f"{published.name}:main", published.digest
    assert cli.main(["deploy", name, *WHERE, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert f"image: {published.name}@sha256:{'a' * 64} -> {published.name}@{digest}" in out
    assert f"{PREFIX}commit: (none) -> {images.COMMIT}" in out
    assert not any(one.method == "PATCH" and "dryRun" not in one.query for one in k8s.seen)

    assert cli.main(["deploy", name, *WHERE, "--json", "--health", "pods"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["digest"] == digest
    assert "deployment/detector in models" in captured.err
    assert k8s.settled("deployments", "detector", f"{published.name}@{digest}")
    notes = k8s.get("deployments", "detector")["metadata"]["annotations"]
    assert notes[f"{PREFIX}evidence"] == published.labels["io.github.trt-action.evidence"]
    assert notes[f"{PREFIX}verdict"] == "improved"

    assert cli.main(["deploy", name, *WHERE]) == 0
    assert "nothing was changed" in capsys.readouterr().out
    assert cli.main(["rollback", *WHERE, "--dry-run"]) == 0
    assert "would be rolled back to" in capsys.readouterr().out
    assert cli.main(["rollback", *WHERE]) == 0
    assert "a" * 64 in capsys.readouterr().out
    assert cli.main(["rollback", *WHERE]) == 17
    assert "nothing earlier is recorded" in capsys.readouterr().err
    assert cli.main(["rollback", *WHERE, "--to", digest]) == 0
    assert TOKEN not in str(capsys.readouterr())


def test_the_example_that_is_started_by_hand(k8s: Kubernetes, published: Published, tmp_path: Path) -> None:
    """Its own script, with the command beside this Python."""
    workflow = yaml.safe_load((ROOT / "examples/workflows/rollback.yml").read_text())
    (step,) = workflow["jobs"]["rollback"]["steps"]
    config = k8s.kubeconfig(tmp_path / "config", token=TOKEN).read_text()
    env = {"CONFIG": config, "REGISTRY_PASSWORD": "x", "GITHUB_ACTOR": "octocat", "HOME": str(tmp_path)}
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    for given, words in ((f"{published.name}@{published.digest}", "rolled out"), ("", "rolled back to")):
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", step["run"]],
            env={**env, "IMAGE": given, "PATH": path, "TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert words in done.stdout, done.stdout + done.stderr


def test_the_registrys_flags_are_not_the_clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBE_TOKEN", TOKEN)
    (tmp_path / "ca.pem").write_text("of the cluster")
    words = ["deploy", f"a/b@sha256:{'1' * 64}", *WHERE, "--server", "https://x", "--ca", "/registry.pem", "--insecure"]
    asked = cluster.wanted(cli.parser().parse_args(words)).connection
    assert (asked.ca, asked.insecure, asked.server) == (b"", False, "https://x")
    assert TOKEN not in repr(asked)
    asked = cluster.wanted(cli.parser().parse_args([*words, "--cluster-ca", str(tmp_path / "ca.pem")])).connection
    assert asked.ca == b"of the cluster"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--workload", "daemonset/x"), 2, "no `KIND/NAME`"),
        ((*WHERE, "--max-p99", "50ms"), 2, "prometheus-url"),
        ((*WHERE, "--prometheus-url", "https://x"), 2, "max-p99"),
        ((*WHERE, "--timeout", "soon"), 2, "`--timeout`"),
        ((*WHERE, "--health", "x"), 2, "`health`"),
        ((*WHERE, "--context", "none"), 2, "no context"),
        (("--workload", "deployment/none"), 17, "no such object"),
        ((*WHERE, "--server", "https://x"), 2, "`token` is not"),
    ],
)
def test_what_the_command_line_refuses(
    arguments: tuple[str, ...],
    code: int,
    words: str,
    k8s: Kubernetes,
    published: Published,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["deploy", f"{published.name}@{published.digest}", *arguments]) == code
    assert words in capsys.readouterr().err
    assert not any(one.method == "PATCH" for one in k8s.seen)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--timeout", "x"), "`--timeout` is `x`, which is not a number with a unit"),
        (("--max-p99", "5ms"), "`--max-p99` has no effect without `--prometheus-url`"),
        (("--max-error-rate", "1%"), "`--max-error-rate` has no effect without `--prometheus-url`"),
        (("--prometheus-url", "https://x"), "without `--max-p99` or `--max-error-rate`"),
        (("--workload", "pod/detector"), "no `KIND/NAME` of a workload"),
        (("--kubeconfig", "/not/there"), "does not exist"),
    ],
)
def test_bad_settings_are_told_by_the_flags_name_and_before_anybody_is_asked(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The registry's port is closed: waiting for it would take a minute."""
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text(
        "{current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}], "
        "clusters: [{name: c, cluster: {server: 'https://127.0.0.1:9'}}], users: [{name: u, user: {token: t}}]}"
    )
    given = ("deploy", f"127.0.0.1:9/a/b@sha256:{'a' * 64}", *WHERE, "--kubeconfig", str(kubeconfig), *arguments)
    assert cli.main(list(given)) == SettingsError.exit_code
    said = " ".join(capsys.readouterr().err.split())
    assert words in said
    assert "no connection" not in said
