"""`mlflow-tracking-uri` as the command line and the action meet it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import ValidationError

from tests.doubles.mlflow import Proxy
from tests.recording.conftest import Api
from tests.report import samples
from trt_action import bookkeeping, delivery, errors, gitlab_delivery, gitlab_job, process
from trt_action.evidence import Evidence, Source
from trt_action.github import commands
from trt_action.github.event import Activity
from trt_action.github.inputs import ActionInputs
from trt_action.gitlab import pipeline_event
from trt_action.gitlab.inputs import JobInputs
from trt_action.job import Job
from trt_action.llm_records import LlmReport, LlmRun
from trt_action.results import Shipped
from trt_action.settings import Settings

DOWN = "http://127.0.0.1:9"
IMAGE = "ghcr.io/acme/digits@sha256:" + "ab" * 32


def settings(**given: Any) -> Settings:
    return Settings.model_validate({"model": "a.onnx", **{name.replace("_", "-"): v for name, v in given.items()}})


def served() -> Evidence:
    """The run of a served language model."""
    report = LlmReport(label="http://127.0.0.1:8000", model="tiny", tokens_from="usage")
    return samples.passed(llm=LlmRun(api="chat", head=report), model=None, head=None, base=None)


def command(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TRT_ACTION_", "MLFLOW_"))}
    return subprocess.run(
        [sys.executable, "-m", "trt_action", *map(str, arguments)],
        env=clean | env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "evidence.json"
    path.write_text(samples.passed(source=Source(commit="c" * 40)).model_dump_json())
    return path


def test_record_puts_evidence_into_mlflow(file: Path, proxy: Proxy, api: Api, experiment: str) -> None:
    """The login comes from the environment, and shows nowhere."""
    proxy.login = "Bearer canary-word"
    asked = ["--mlflow-experiment", experiment, "--mlflow-model", experiment, "--mlflow-alias", "champion"]
    env = {"TRT_ACTION_MLFLOW_TRACKING_URI": proxy.uri, "MLFLOW_TRACKING_TOKEN": "canary-word"}
    done = command("record", file, *asked, "--image", IMAGE, **env)
    assert done.returncode == 0, done.stderr
    assert f"version 1 of {experiment}" in done.stderr
    assert "canary" not in done.stdout + done.stderr
    (run,) = api.runs(experiment)
    assert run["info"]["run_id"] in done.stderr
    aliased = api.get("/registered-models/alias", name=experiment, alias="champion")["model_version"]
    assert (aliased["version"], aliased["source"]) == ("1", f"docker://{IMAGE}")


@pytest.mark.parametrize(
    ("arguments", "env", "code", "words"),
    [
        ([], {}, 2, "No MLflow server is named"),
        (["--mlflow-tracking-uri", "mlflow.example.com"], {}, 2, "no address of http or https"),
        (["--mlflow-tracking-uri", "https://ann:word@mlflow.example.com"], {}, 2, "holds a login"),
        (["--mlflow-tracking-uri", DOWN, "--mlflow-model", "a/b"], {}, 2, "no name of a registered model"),
        (["--mlflow-tracking-uri", DOWN, "--mlflow-model", "a", "--mlflow-alias", "v1"], {}, 2, "is no alias"),
        (["--mlflow-tracking-uri", DOWN, "--image", "ghcr.io/a/b:1"], {}, 2, "has no digest"),
        (["--mlflow-tracking-uri", DOWN], {"MLFLOW_TRACKING_USERNAME": "ann"}, 2, "MLFLOW_TRACKING_PASSWORD is not"),
        (["--mlflow-tracking-uri", DOWN], {"TRT_ACTION_MLFLOW_ALIAS": "x"}, 20, "no connection"),
    ],
)
def test_record_says_what_is_wrong(
    file: Path, arguments: list[str], env: dict[str, str], code: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = command("record", file, *arguments, **env)
    assert done.returncode == code, done.stderr
    assert words in " ".join(done.stderr.split())
    assert "word@" not in done.stderr
    assert "Next: " in done.stderr


def test_an_alias_needs_a_model() -> None:
    from trt_action import settings as door

    given = {"model": "a.onnx", "mlflow-alias": "champion"}
    with pytest.raises(errors.SettingsError, match="`mlflow-model` names none"):
        door.load(given, {}, Path("/"))
    with pytest.raises(ValidationError):
        settings(mlflow_alias="latest")


@pytest.mark.parametrize(("required", "code"), [(False, 0), (True, 20)])
def test_a_server_that_is_down_changes_no_verdict(required: bool, code: int) -> None:
    told: list[tuple[errors.TrtActionError, bool]] = []
    chosen = [settings(mlflow_tracking_uri=DOWN, mlflow_required=required), settings()]
    heard: list[str] = []
    found = bookkeeping.keep(
        [samples.passed(), samples.passed()], chosen, {}, log=heard.append, tell=lambda *one: told.append(one)
    )
    assert found == code
    ((error, hard),) = told
    assert "no connection" in error.what
    assert hard is required


def test_nothing_is_imported_without_a_server() -> None:
    code = (
        "import sys; from trt_action import bookkeeping; from trt_action.settings import Settings;"
        "bookkeeping.keep([object()], [Settings.model_validate({'model': 'a'})], {}, log=print, tell=print);"
        "print([m for m in ('requests', 'mlflow', 'trt_action.recording') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_children_know_no_login() -> None:
    env = {"MLFLOW_TRACKING_TOKEN": "1", "MLFLOW_TRACKING_PASSWORD": "2", "MLFLOW_TRACKING_USERNAME": "3", "HOME": "/"}
    assert process.without_secrets(env) == {"HOME": "/"}


@pytest.mark.parametrize(
    ("activity", "published", "versions"),
    [
        (Activity("publish", "push"), True, 1),
        (Activity("publish", "push"), False, 0),
        (Activity("measure", "pull request"), True, 0),
    ],
)
def test_only_what_the_action_publishes_becomes_a_version(
    uri: str, api: Api, tmp_path: Path, activity: Activity, published: bool, versions: int
) -> None:
    name = f"{activity.kind}-{published}"
    chosen = [settings(mlflow_tracking_uri=uri, mlflow_experiment=name, mlflow_model=name)]
    job = Job({"GITHUB_WORKSPACE": str(tmp_path)}, ActionInputs(), activity, 1_000.0)
    image, digest = IMAGE.split("@")
    shipped = Shipped({"images": [{"image": image, "digest": digest}]})
    notes = commands.Annotations()
    assert delivery._record(job, chosen, [samples.passed()], shipped, notes, published=published) == 0
    assert len(api.runs(name)) == 1
    assert [one["source"] for one in api.versions(name)] == [f"docker://{IMAGE}"] * versions


def test_a_forks_run_is_not_recorded(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    job = Job({}, ActionInputs(), Activity("measure", "fork", trusted=False), 1_000.0)
    chosen = [settings(mlflow_tracking_uri=DOWN, mlflow_required=True)]
    assert delivery._record(job, chosen, [samples.passed()], Shipped(), commands.Annotations(), published=False) == 0
    assert "a fork's run" in capfd.readouterr().out


def test_a_failure_is_an_annotation(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    job = Job({}, ActionInputs(), Activity("measure", "push"), 1_000.0)
    chosen = [settings(mlflow_tracking_uri=DOWN)]
    assert delivery._record(job, chosen, [samples.passed()], Shipped(), commands.Annotations(), published=False) == 0
    assert "::warning title=Not recorded in MLflow::" in capfd.readouterr().out
    assert json.loads(samples.passed().model_dump_json())["outcome"] == "passed"


@pytest.mark.parametrize(
    ("kind", "evidence", "runs"),
    [
        ("measure", samples.passed(), 1),
        ("publish", samples.passed(), 0),  # the publishing job does, which knows the image
        ("publish", samples.regressed(), 1),
        ("publish", served(), 1),  # it has no engine: no publishing job will
    ],
)
def test_which_job_of_gitlab_records(
    uri: str,
    api: Api,
    tmp_path: Path,
    experiment: str,
    kind: Literal["measure", "publish"],
    evidence: Evidence,
    runs: int,
) -> None:
    api.make(experiment)
    env = {"CI_PROJECT_DIR": str(tmp_path)}
    activity = pipeline_event.Activity(kind, "push", commit="c" * 40, measured_commit="c" * 40)
    job = gitlab_job.Job(env, JobInputs(), activity)
    chosen = [settings(mlflow_tracking_uri=uri, mlflow_experiment=experiment, output=str(tmp_path / "report"))]
    gitlab_delivery.deliver(job, chosen, [evidence])
    assert len(api.runs(experiment)) == runs
