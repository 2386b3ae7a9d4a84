"""What a job publishes: of which models, where to, with which login."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tests.doubles.registry import Running
from tests.publish import images
from tests.publish.conftest import *  # noqa: F403 - its fixtures
from tests.publish.conftest import MakeRegistry
from tests.publish.test_publishing import runtime_base
from trt_action import errors, shipping
from trt_action.evidence import Evidence
from trt_action.github.event import Activity
from trt_action.github.inputs import ActionInputs
from trt_action.job import Job
from trt_action.publish import tags
from trt_action.publish.reference import Reference
from trt_action.publish.wanted import Wanted

COMMIT = images.COMMIT


def job(registry: str | None, image: str | None, wanted: Wanted | None = None, **env: str) -> Job:
    activity = Activity("publish", "test", commit=COMMIT, ref="refs/heads/main")
    inputs = ActionInputs(registry=registry, image=image, publish=wanted or Wanted(), token=SecretStr("ghs_canary"))
    return Job({"GITHUB_REPOSITORY": "acme/models", **env}, inputs, activity, 0.0)


def folders(tmp_path: Path, *names: str) -> tuple[list[Evidence], list[Path]]:
    evidences, places = [], []
    for name in names:
        engine = f"engine of {name}".encode()
        evidence = images.measured(engine)
        evidence = evidence.model_copy(update={"settings": {**evidence.settings, "name": name}})
        images.version_folder(tmp_path / name, engine, evidence)
        evidences.append(evidence)
        places.append(tmp_path / name)
    return evidences, places


def test_several_models_share_a_name_and_no_tag(
    cncf: Running, make: MakeRegistry, repository: str, tmp_path: Path
) -> None:
    registry = make(cncf.host)
    base = runtime_base(registry, repository, tmp_path / "base")
    shipped = shipping.ship(job(cncf.host, repository, Wanted(base=base)), *folders(tmp_path, "cats", "dogs"))
    found = {tag for tag in registry.tags(repository) if "-" in tag and not tag.startswith("sha256-")}
    assert found == {f"{model}-cpu-int8-{tag}" for model in ("cats", "dogs") for tag in (COMMIT, "main")}, (
        "and no bare `main`"
    )
    assert shipped.outputs["digest"] is None
    assert len(shipped.outputs["images"]) == 2
    assert len(shipped.outputs["tags"].splitlines()) == 4


def test_rules_that_do_not_tell_models_apart_are_refused(
    cncf: Running, make: MakeRegistry, repository: str, tmp_path: Path
) -> None:
    wanted = Wanted(rules=tags.rules(["type=sha"]), base=Reference(cncf.host, repository, "base"))
    with pytest.raises(errors.SettingsError, match="would both get the tag"):
        shipping.ship(job(cncf.host, repository, wanted), *folders(tmp_path, "cats", "dogs"))


def test_one_red_model_publishes_none(cncf: Running, make: MakeRegistry, repository: str, tmp_path: Path) -> None:
    registry = make(cncf.host)
    base = runtime_base(registry, repository, tmp_path / "base")
    evidences, places = folders(tmp_path, "cats", "dogs")
    red = evidences[1].model_copy(update={"outcome": "failed"})
    (places[1] / "evidence.json").write_text(red.model_dump_json())
    with pytest.raises(errors.NotPublishedError):
        shipping.ship(job(cncf.host, repository, Wanted(base=base)), [evidences[0], red], places)
    assert [tag for tag in registry.tags(repository) if "cpu" in tag] == []


def test_nobody_said_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shipping.ship(job(None, None), *folders(tmp_path, "cats")).outputs == {}
    assert "neither `registry` nor `image`" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("host", "wanted", "expected"),
    [
        ("ghcr.io", Wanted(), ("octocat", "ghs_canary")),
        ("ghcr.io", Wanted(username="me", password=SecretStr("mine")), ("me", "mine")),
        ("registry.example", Wanted(), None),
    ],
)
def test_the_jobs_token_is_for_githubs_registry_alone(host: str, wanted: Wanted, expected: Any) -> None:
    found = shipping.login(job(host, "acme/x", wanted, GITHUB_ACTOR="octocat"))
    assert (found[0] and (found[0], found[1] and found[1].get_secret_value())) == expected


def test_facts_of_a_pull_request_are_its_number(tmp_path: Path) -> None:
    from trt_action.github.event import PullRequest

    pull = PullRequest(7, COMMIT, "b" * 40, "main", "acme/models", "acme/models")
    one = job("ghcr.io", "acme/x")
    one = replace(one, activity=replace(one.activity, pull_request=pull, ref="refs/pull/7/merge"))
    assert shipping._facts(one) == {"pull_request": 7, "default_branch": False}
