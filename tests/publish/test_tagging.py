"""Tags last: jobs that end in the wrong order, releases, registries whose tags cannot move, and the index of a matrix."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.doubles.registry import Running
from tests.publish import images
from tests.publish.conftest import MakeRegistry
from tests.publish.test_publishing import runtime_base
from trt_action import errors
from trt_action.publish import Options, Published, artifacts, labels, publish, select, tags
from trt_action.publish import version as versions
from trt_action.publish.reference import Reference
from trt_action.publish.registry import Registry

OLD, NEW = "1" * 40, "2" * 40
RUN = "https://github.com/team/model/actions/runs/"
Job = Callable[..., Published]


@pytest.fixture
def job(cncf: Running, make: MakeRegistry, repository: str, tmp_path: Path) -> Job:
    """One job that publishes an engine of its own: (commit, number of its run, …) → what it published."""
    runtime_base(make(cncf.host), repository, tmp_path / "base")

    def run(commit: str, number: int | None, **changes: Any) -> Published:
        gpu = changes.pop("gpu", None)
        name = f"{commit[:12]}-{number}-{gpu['name'] if gpu else 'cpu'}".replace(" ", "")
        engine = name.encode() * 1_000
        evidence = images.measured(engine, commit=commit, gpu=gpu, **changes.pop("evidence", {}))
        url = f"{RUN}{number}" if number is not None else None
        evidence = evidence.model_copy(update={"source": evidence.source.model_copy(update={"run_url": url})})
        if not (tmp_path / name).exists():
            images.version_folder(tmp_path / name, engine, evidence)
        target = Reference(cncf.host, repository)
        options = Options(
            target, base=Reference(cncf.host, repository, "base"), **{"facts": {"branch": "main"}, **changes}
        )
        with requests.Session() as session:
            session.trust_env = False
            registry = Registry(session, cncf.host)
            return publish(versions.read(tmp_path / name), options, lambda _: (registry, None))

    return run


@pytest.fixture
def registry(cncf: Running, make: MakeRegistry) -> Registry:
    return make(cncf.host)


def test_the_job_of_an_older_commit_that_ends_later_does_not_take_the_branch_back(
    job: Job, registry: Registry, repository: str
) -> None:
    newer = job(NEW, 12, evidence={"created": "2026-01-01T00:00:00Z"})
    late = job(OLD, 11, evidence={"created": "2026-01-02T00:00:00Z"})  # measured later
    assert late.tags == [OLD, f"digits-cpu-int8-{OLD}"]
    assert late.as_json()["left-tags"] == ["main", "digits-cpu-int8-main"]
    assert newer.left == []
    assert {registry.digest(repository, tag) for tag in ("main", "digits-cpu-int8-main")} == {newer.digest}
    assert registry.digest(repository, OLD) == late.digest
    back = job("3" * 40, 13)  # a push that takes the branch back is a newer run
    assert registry.digest(repository, "main") == back.digest


def test_without_numbers_of_runs_git_knows_which_commit_is_older(
    job: Job, registry: Registry, repository: str, tmp_path: Path
) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()

    def git(*words: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        done = subprocess.run(["git", *identity, *words], cwd=checkout, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "--quiet")
    commits = []
    for name in ("first", "second"):
        git("commit", "--quiet", "--allow-empty", "-m", name)
        commits.append(git("rev-parse", "HEAD"))
    older, newer = commits
    second = job(newer, None, checkout=checkout)
    assert "main" not in job(older, None, checkout=checkout).tags
    assert registry.digest(repository, "main") == second.digest
    assert "main" in job(NEW, None, checkout=checkout).tags, "a commit that Git does not know moves it"


def test_a_released_version_is_never_another_image(job: Job, registry: Registry, repository: str) -> None:
    facts = {"tag": "v1.2.3"}
    first = job(OLD, 1, facts=facts)
    assert registry.digest(repository, "1.2.3") == first.digest
    with pytest.raises(errors.NotPublishedError, match=r"release `1\.2\.3` exists"):
        job(NEW, 2, facts=facts)
    assert {registry.digest(repository, tag) for tag in ("1.2.3", "1.2", "1", "latest")} == {first.digest}
    assert registry.digest(repository, NEW) is None, "it is refused before the first tag"
    assert job(OLD, 1, facts=facts).tags == first.tags


def test_legs_of_a_matrix_write_one_index(job: Job, registry: Registry, repository: str) -> None:
    """Both at once; the bare names are the index's, and an image keeps its own."""
    with ThreadPoolExecutor(2) as pool:
        legs = [pool.submit(job, NEW, 5, gpu=gpu, index=True) for gpu in (images.A100, images.H100)]
        done = [leg.result() for leg in legs]
    index = artifacts.resolve(registry, repository, NEW)
    assert {one.digest for one in select.entries(index)} == {one.digest for one in done}
    assert registry.digest(repository, "main") == index.digest
    assert artifacts.labels(registry, repository, index)[f"{labels.OCI}revision"] == NEW
    for one, gpu in zip(done, ("a100-sxm4-80gb", "h100-80gb-hbm3"), strict=True):
        assert one.tags == [f"digits-{gpu}-int8-{NEW}", f"digits-{gpu}-int8-main", NEW, "main"]
        assert registry.digest(repository, one.tags[1]) == one.digest
    chosen = select.choose(select.entries(index), select.Need((9, 0)))
    assert chosen.digest == done[1].digest


def test_an_index_of_an_older_run_does_not_take_the_branch_back(job: Job, registry: Registry, repository: str) -> None:
    job(NEW, 6, gpu=images.A100, index=True)
    newest = registry.digest(repository, "main")
    late = job(OLD, 5, gpu=images.H100, index=True)
    assert registry.digest(repository, "main") == newest
    assert OLD in late.tags
    assert "main" not in late.tags


def test_an_index_has_the_commits_name_whatever_the_rules(job: Job, registry: Registry, repository: str) -> None:
    done = job(NEW, 7, gpu=images.A100, index=True, rules=tags.rules(["type=raw,value=nightly"]))
    variant = "digits-a100-sxm4-80gb-int8"
    assert done.tags == [f"{variant}-{NEW}", f"{variant}-nightly", NEW, "nightly"]
    assert artifacts.resolve(registry, repository, "nightly").is_index


def test_a_tag_that_is_right_is_not_written_again(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Registries with tags that cannot change (Amazon ECR) refuse even the same digest."""
    first = job(NEW, 8)
    written: list[str | None] = []
    put = Registry.put_manifest

    def noted(self: Registry, name: str, reference: str | None, body: bytes, media_type: str) -> str:
        written.append(reference)
        return put(self, name, reference, body, media_type)

    monkeypatch.setattr(Registry, "put_manifest", noted)
    assert job(NEW, 8).digest == first.digest
    assert [reference for reference in written if reference is not None and not reference.startswith("sha256")] == []
