"""What a job does with an image that it has published: rollout, command, event, GitOps file; each with its own failure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tests.deploy.conftest import TOKEN as KUBE
from tests.deploy.conftest import manifest
from tests.deploy.test_gitops import git
from tests.doubles.github.server import GitHub, Identity
from tests.doubles.github.server import serve as serve_github
from tests.doubles.kubernetes import server
from tests.doubles.kubernetes.controllers import Image
from tests.doubles.kubernetes.server import Kubernetes
from tests.doubles.registry import Running
from tests.publish import images
from tests.publish.conftest import *  # noqa: F403 - its fixtures
from tests.publish.conftest import MakeRegistry
from tests.publish.images import Published
from trt_action import delivery, handing
from trt_action.deploy import wanted
from trt_action.errors import DeployError, SettingsError
from trt_action.github import commands
from trt_action.github.event import Activity, Kind
from trt_action.github.inputs import ActionInputs
from trt_action.job import Job
from trt_action.results import Shipped

TOKEN = "ghs_canary0123456789abcdefABCDEF0123456789"  # noqa: S105 - the double's own
REPOSITORY = "acme/models"


@pytest.fixture
def published(cncf: Running, make: MakeRegistry, repository: str) -> Published:
    registry = make(cncf.host)
    pushed = images.push(registry, repository, "main")
    images.attached(registry, pushed, None)
    return pushed


@pytest.fixture
def github() -> Iterator[GitHub]:
    with serve_github() as double:
        double.tokens[TOKEN] = Identity()
        double.add_pull(REPOSITORY, 7, "a" * 40)
        yield double
        assert double.violations == []


@pytest.fixture
def k8s(tmp_path: Path, published: Published) -> Iterator[Kubernetes]:
    (tmp_path / "cluster").mkdir()
    with server.serve(tmp_path / "cluster") as double:
        double.tokens[KUBE] = server.Identity("deployer")
        old = f"{published.name}@sha256:{'a' * 64}"
        double.images[old] = double.images[published.digest] = Image()
        double.images["registry.example/acme/detector/sidecar:1"] = Image(digest="sha256:" + "5" * 64)
        double.create(manifest(image=old))
        double.wait(lambda: double.settled("deployments", "detector", old))
        yield double
    assert double.violations == []


def job(
    tmp_path: Path, published: Published, github: GitHub | None = None, kind: Kind = "publish", **given: str
) -> Job:
    texts = {f"deploy-{name.replace('_', '-')}": value for name, value in given.items()}
    inputs = ActionInputs(
        registry=published.name.host,
        image=published.name.repository,
        token=SecretStr(TOKEN),
        deploy=wanted.read(lambda name: texts.get(name, "")),
    )
    env = {
        "GITHUB_REPOSITORY": REPOSITORY,
        "GITHUB_SERVER_URL": "https://github.example",
        "GITHUB_API_URL": github.url if github else "",
        "GITHUB_RUN_ID": "4711",
        "GITHUB_ACTOR": "octocat",
        "GITHUB_WORKSPACE": str(tmp_path),
        "INPUT_DEPLOY-TOKEN": "canary-input",
        "PATH": "/usr/bin:/bin",
    }
    return Job(env, inputs, Activity(kind, "test", commit=images.COMMIT, ref="refs/heads/main"), 0.0)


def shipped(published: Published) -> Shipped:
    return Shipped({"image": str(published.name), "digest": published.digest, "images": [{}]}, "### Published\n")


def test_a_rollout(tmp_path: Path, published: Published, k8s: Kubernetes, capsys: pytest.CaptureFixture[str]) -> None:
    config = k8s.kubeconfig(tmp_path / "config", token=KUBE).read_text()
    where: dict[str, Any] = {
        "workload": "deployment/detector",
        "container": "detector",
        "kubeconfig": config,
        "health": "pods",
    }
    done = handing.after(job(tmp_path, published, **where), shipped(published))
    assert k8s.settled("deployments", "detector", f"{published.name}@{published.digest}")
    assert done.outputs["deployed"] == "deployed"
    assert done.outputs["previous-image"] == f"{published.name}@sha256:{'a' * 64}"
    assert "`deployment/detector` in `models`: deployed" in done.summary
    notes = k8s.get("deployments", "detector")["metadata"]["annotations"]
    assert notes["trt-action.github.io/deployed-by"] == "octocat, https://github.example/acme/models/actions/runs/4711"
    assert notes["trt-action.github.io/commit"] == images.COMMIT
    assert handing.after(job(tmp_path, published, **where), shipped(published)).outputs["deployed"] == "unchanged"
    assert KUBE not in str(capsys.readouterr())


def test_not_on_another_activity_and_not_without_an_image(tmp_path: Path, published: Published) -> None:
    for one, there in (
        (job(tmp_path, published, kind="promote", command="false"), shipped(published)),
        (job(tmp_path, published, command="false", on="promote"), shipped(published)),
        (job(tmp_path, published, command="false"), Shipped()),
    ):
        assert handing.after(one, there) is there


def test_what_is_older_than_the_last_published_is_not_deployed(tmp_path: Path, published: Published) -> None:
    """A slower job of an older commit: a newer run has the branch's tag."""
    touched = tmp_path / "touched"
    late = Shipped({**shipped(published).outputs, "images": [{"left-tags": ["main"]}]})
    assert handing.after(job(tmp_path, published, command=f"touch {touched}"), late) is late
    assert not touched.exists()


def test_several_images(tmp_path: Path, published: Published) -> None:
    with pytest.raises(SettingsError, match="has several images"):
        handing.after(job(tmp_path, published, command="true"), Shipped({"image": "a/b", "digest": None}))


def test_a_command(tmp_path: Path, published: Published, capfd: pytest.CaptureFixture[str]) -> None:
    script = 'echo "got $IMAGE $DIGEST"; env > env.txt'
    done = handing.after(job(tmp_path, published, kind="promote", on="promote", command=script), shipped(published))
    assert "deploy-command" in done.summary
    assert f"got {published.name}@{published.digest} {published.digest}" in capfd.readouterr().out
    assert "canary" not in (tmp_path / "env.txt").read_text()
    with pytest.raises(DeployError, match="exit code 4"):
        handing.after(job(tmp_path, published, command="exit 4"), shipped(published))


def test_what_was_done_before_a_failure_is_told(
    tmp_path: Path, published: Published, k8s: Kubernetes, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rollout holds and stays; the command after it fails."""
    config = k8s.kubeconfig(tmp_path / "config", token=KUBE).read_text()
    where: dict[str, Any] = {"workload": "deployment/detector", "container": "detector"}
    where |= {"kubeconfig": config, "command": "exit 4"}
    done, code = delivery._hand_on(job(tmp_path, published, **where), shipped(published), commands.Annotations())
    assert code == DeployError.exit_code
    assert (done.outputs["deployed"], done.outputs["digest"]) == ("deployed", published.digest)
    assert "`deployment/detector` in `models`: deployed" in done.summary
    assert "deploy-command" not in done.summary


def test_an_event(tmp_path: Path, published: Published, github: GitHub) -> None:
    handing.after(job(tmp_path, published, github, dispatch=f"{REPOSITORY}:image-published"), shipped(published))
    ((_, body),) = github.dispatches
    assert body["event_type"] == "image-published"
    sent: dict[str, Any] = body["client_payload"]
    assert sent["image"] == f"{published.name}@{published.digest}"
    assert (sent["commit"], sent["verdict"]) == (images.COMMIT, "improved")
    assert sent["run"] == "https://github.example/acme/models/actions/runs/4711"


@pytest.fixture
def gitops(tmp_path: Path) -> Path:
    """A GitOps repository with a remote, checked out into the workspace."""
    git(tmp_path, "init", "-q", "--bare", "-b", "main", str(tmp_path / "remote.git"))
    git(tmp_path, "clone", "-q", str(tmp_path / "remote.git"), str(tmp_path / "gitops"))
    (tmp_path / "gitops" / "values.yaml").write_text("image:\n  digest: sha256:old # set by CI\n")
    git(tmp_path / "gitops", "checkout", "-q", "-b", "main")
    git(tmp_path / "gitops", "add", ".")
    git(tmp_path / "gitops", "commit", "-qm", "first")
    git(tmp_path / "gitops", "push", "-q", "origin", "main")
    return tmp_path / "remote.git"


def test_a_gitops_file(tmp_path: Path, published: Published, gitops: Path) -> None:
    where: dict[str, Any] = {"bump_file": "gitops/values.yaml", "bump_digest_path": "image.digest"}
    done = handing.after(job(tmp_path, published, **where), shipped(published))
    assert git(gitops, "show", "main:values.yaml").endswith(f"digest: {published.digest} # set by CI")
    message = git(gitops, "log", "-1", "--format=%B", "main")
    assert f"Built-from: {images.COMMIT}" in message
    assert "Evidence: https://github.example/acme/models/actions/runs/4711" in message
    assert "on `main`: commit" in done.summary
    assert "is there already" in handing.after(job(tmp_path, published, **where), shipped(published)).summary


def test_a_pull_request(tmp_path: Path, published: Published, gitops: Path, github: GitHub) -> None:
    where: dict[str, Any] = {
        "bump_file": "gitops/values.yaml",
        "bump_digest_path": "image.digest",
        "bump_pull_request": "true",
    }
    for words in ("opened", "was open already"):
        done = handing.after(job(tmp_path, published, github, **where), shipped(published))
        assert words in done.summary
    assert git(gitops, "show", "main:values.yaml").endswith("sha256:old # set by CI")
    pull = github.pulls[REPOSITORY, 8]
    assert git(gitops, "show", f"{pull['head']['ref']}:values.yaml").endswith(f"{published.digest} # set by CI")
    assert published.digest in pull["body"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"dispatch": "acme"}, "no repository with a type"),
        ({"bump_file": "x"}, "does not say where"),
        ({"bump_path": "image"}, "no effect without"),
        ({"workload": "deployment/x", "insecure": "yes"}, "deploy-insecure"),
        ({"on": "always"}, "none of its values"),
        ({"health": "pods"}, "no effect without `deploy-workload`"),
        ({"workload": "deployment/x", "max_error_rate": "2"}, "max-error-rate"),
    ],
)
def test_inputs(given: dict[str, Any], words: str, tmp_path: Path, published: Published) -> None:
    with pytest.raises(SettingsError) as caught:
        job(tmp_path, published, **given)
    assert words in caught.value.what
