"""Whole pipelines: the example's and the component's script lines, each job as a runner runs it, against a GitLab and a
real registry. Here in this host's shell; tests/e2e/test_gitlab.py does it in the image."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from pydantic import SecretStr

from tests.doubles import registry as registries
from tests.doubles.gitlab import ci, project
from tests.doubles.gitlab.project import CONFIG, JOB_TOKEN, Project
from tests.doubles.gitlab.runner import Done, Runner, Variable
from tests.doubles.gitlab.server import GitLab, Identity, serve
from tests.doubles.registry import PASSWORD, USER, Running
from tests.gitlab.test_component import COMPONENT, EXAMPLE
from tests.history.samples import commit
from tests.publish import images
from tests.publish.test_publishing import runtime_base
from tests.report.test_ci_reports import SCHEMA
from trt_action import gitlab_stages, report
from trt_action.discussion import without_stamp
from trt_action.gitlab import inputs
from trt_action.publish import artifacts, contents, version
from trt_action.publish.credentials import Credentials
from trt_action.publish.registry import Registry
from trt_action.settings import Settings

TOKEN = "glpat-canary0123456789abcdef"  # noqa: S105 - the double's own
QUICK = CONFIG.replace("10s", "3s").replace("max-latency-regression: 50%", "max-latency-regression: 900%")
LOGIN = (
    Variable("TRT_ACTION_REGISTRY_USERNAME", USER, protected=True, scope="trt-action/publish"),
    Variable("TRT_ACTION_REGISTRY_PASSWORD", PASSWORD, protected=True, masked=True, scope="trt-action/publish"),
)
NOTE = Variable("TRT_ACTION_GITLAB_TOKEN", TOKEN, masked=True)

MakeProject = Callable[..., Project]
MakeRunner = Callable[..., Runner]


@pytest.fixture(scope="module")
def gitlab() -> Iterator[GitLab]:
    with serve() as double:
        double.tokens[TOKEN] = Identity()
        yield double
        assert double.violations == []
        assert double.executed == []


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A registry with TLS and a login."""
    if reason := registries.missing():
        pytest.skip(reason)
    with registries.serve(tmp_path_factory.mktemp("locked"), tls=True, login=True) as running:
        yield running


@pytest.fixture(scope="module")
def make_project(tmp_path_factory: pytest.TempPathFactory, digits: Path, gitlab: GitLab) -> MakeProject:
    def made(config: str = QUICK) -> Project:
        found = project.make(tmp_path_factory.mktemp("project") / "origin", digits, config)
        gitlab.notes.clear()
        gitlab.add_merge_request(42, 7, found.feature)
        return replace(found, api_url=gitlab.url)

    return made


@pytest.fixture(scope="module")
def make_runner(tmp_path_factory: pytest.TempPathFactory) -> MakeRunner:
    def made(of: Project, config: dict[str, Any], *variables: Variable) -> Runner:
        path = str(Path(sys.executable).parent)
        return Runner(of.top, tmp_path_factory.mktemp("runner"), config, variables, path=path)

    return made


def example() -> dict[str, Any]:
    found = yaml.safe_load(EXAMPLE.read_text())
    assert isinstance(found, dict)
    return found


def check_secrets(done: dict[str, Done], *secrets: str) -> None:
    """In no log, not even unmasked, and in no artifact."""
    for name, job in done.items():
        for secret in secrets:
            assert secret not in job.raw, name
            for relative in job.artifacts:
                assert secret.encode() not in (job.workspace / relative).read_bytes(), f"{name}: {relative}"


def test_a_merge_request(make_project: MakeProject, make_runner: MakeRunner, gitlab: GitLab) -> None:
    """The example: build hands its engine over, test measures that one and tells everyone; nothing is published."""
    one = make_project()
    runner = make_runner(one, example(), NOTE, *LOGIN)
    done = runner.pipeline(one.merge_request(), protected=False)
    assert list(done) == ["build-engine", "test-engine"]
    assert [job.exit_code for job in done.values()] == [0, 0], done["test-engine"].raw
    build, test = done.values()
    assert "TRT_ACTION_REGISTRY_PASSWORD" not in build.env | test.env
    built = json.loads((build.workspace / ".trt-action/built.json").read_text())["engines"]["digits"]["sha256"]
    evidence = report.read_evidence(test.workspace / "trt-action-report/evidence.json")
    assert evidence.head
    assert evidence.head.engine.sha256 == built
    assert evidence.head.engine.from_cache
    assert f"measured the engine of the build job, {built}" in test.log
    assert (evidence.source.commit, evidence.source.repository) == (one.feature, "https://gitlab.example/acme/models")
    assert evidence.base
    assert evidence.base.commit == one.base
    (note,) = gitlab.bodies(42, 7)
    body = without_stamp(note)
    assert body.startswith(report.marker())
    assert "digits" in body
    said = test.dotenv(ci.jobs(runner.config)["test-engine"])
    assert (said["TRT_RESULT_OUTCOME"], said["TRT_RESULT_ENGINE"]) == (evidence.outcome, built)
    SCHEMA.validate((test.workspace / "trt-action-report/junit.xml").read_text())
    assert (test.workspace / "trt-action-report/metrics.txt").read_text().endswith("# EOF\n")
    assert not (test.workspace / ".trt-action/kept").exists()
    check_secrets(done, TOKEN, PASSWORD, JOB_TOKEN)

    again = runner.job(
        "test-engine",
        ci.jobs(runner.config)["test-engine"],
        {**one.merge_request(), "CI_JOB_ID": "5001"},
        {"build-engine": build},
        protected=False,
    )
    assert again.exit_code == 0
    assert "Comment updated." in again.log
    assert len(gitlab.bodies(42, 7)) == 1


MATRIX = """
stages: [test, report]
default: {image: trt-action}
variables: {GIT_DEPTH: "0"}
test-engine:
  stage: test
  variables: {TRT_ACTION_COMMENT: "false", TRT_ACTION_OUTPUT: trt-action-report/$CI_NODE_INDEX}
  script: [trt-action gitlab test]
  artifacts: {when: always, paths: [trt-action-report/]}
report:
  stage: report
  needs: [test-engine]
  script: [trt-action gitlab report]
  artifacts: {when: always, paths: [trt-action-report/]}
"""


def test_the_legs_of_a_matrix_share_a_note(make_project: MakeProject, make_runner: MakeRunner, gitlab: GitLab) -> None:
    """One of them fails, and is red; the report job tells of both, updates its note, and refuses another commit's."""
    one = make_project(QUICK + "base: none\n")  # a verdict would depend on how busy this host is
    runner = make_runner(one, yaml.safe_load(MATRIX), NOTE)
    config = ci.jobs(runner.config)
    legs = {}
    for index, size in (("1", "1GB"), ("2", "1KB")):
        env = one.merge_request(CI_NODE_INDEX=index, CI_NODE_TOTAL="2", TRT_ACTION_MAX_ENGINE_SIZE=size)
        legs[index] = runner.job("test-engine", config["test-engine"], env, {}, protected=False)
    assert [leg.exit_code for leg in legs.values()] == [0, 1], legs["1"].raw
    assert gitlab.notes == {}
    first, second = legs.values()
    for path in second.artifacts:  # GitLab unpacks the artifacts of every leg into the same checkout
        (first.workspace / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(second.workspace / path, first.workspace / path)
    both = replace(first, artifacts=[*first.artifacts, *second.artifacts])

    def reported(**changes: str) -> Done:
        return runner.job(
            "report", config["report"], one.merge_request(**changes), {"test-engine": both}, protected=False
        )

    done = reported()
    assert done.exit_code == 1, done.raw
    assert {"trt-action-report/1/evidence.json: passed", "trt-action-report/2/evidence.json: failed"} <= set(
        done.log.splitlines()
    )
    (note,) = gitlab.bodies(42, 7)
    rendered = (done.workspace / "trt-action-report/comment.md").read_text()
    assert without_stamp(note).splitlines()[0] == rendered.splitlines()[0] == report.marker()
    assert "max-engine-size" in note
    SCHEMA.validate((done.workspace / "trt-action-report/junit.xml").read_text())
    assert "Comment updated." in reported(CI_JOB_ID="5001").log
    assert len(gitlab.bodies(42, 7)) == 1
    forged = first.workspace / "trt-action-report/1/evidence.json"
    forged.write_text(forged.read_text().replace(one.feature, "d" * 40))
    refused = reported(CI_JOB_ID="5002")
    assert refused.exit_code == 2
    assert "is about the commit" in refused.log
    assert len(gitlab.bodies(42, 7)) == 1


def test_a_fork_uses_no_secret(make_project: MakeProject, make_runner: MakeRunner, gitlab: GitLab) -> None:
    """A member runs a fork's merge request in the project, where its variables are; and a gate is broken."""
    one = make_project(QUICK + "max-engine-size: 1KB\nbase: none\n")
    done = make_runner(one, ci.component(COMPONENT, {"push": "true"}), NOTE).pipeline(
        one.merge_request(CI_MERGE_REQUEST_SOURCE_PROJECT_ID="99"), protected=False
    )
    test = done["trt-action-test"]
    assert test.exit_code == 1
    assert "`push: true` is not for strangers" in test.log
    assert "comes from a fork" in test.log
    assert "visible to this job" in test.log
    assert gitlab.notes == {}
    assert not any("kept" in path for path in test.artifacts)
    junit = (test.workspace / "trt-action-report/junit.xml").read_text()
    assert 'failures="1"' in junit
    assert test.dotenv(ci.jobs(ci.component(COMPONENT, {}))["trt-action-test"])["TRT_RESULT_OUTCOME"] == "failed"
    check_secrets(done, TOKEN, JOB_TOKEN)


@pytest.fixture(scope="module")
def registry(locked: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with requests.Session() as session:
        session.trust_env = False
        found = Registry(session, locked.host, credentials=Credentials(USER, SecretStr(PASSWORD)), ca=locked.ca)
        runtime_base(found, "acme/models", tmp_path_factory.mktemp("base"))
        for number in range(2):  # what earlier commits have published
            image = images.push(found, "acme/models", f"sha-{number}", commit=commit(number), batch=8)
            images.attached(found, image, None)
        yield found


@dataclass(frozen=True)
class Pushed:
    """A pipeline of the default branch that has ended, and how to run its last job again."""

    project: Project
    runner: Runner
    env: dict[str, str]
    done: dict[str, Done]

    def publish(self, test: Done, runner: Runner | None = None, **changes: str) -> Done:
        job = ci.jobs(self.runner.config)["trt-action-publish"]
        return (runner or self.runner).job(
            "trt-action-publish", job, {**self.env, **changes}, {"trt-action-test": test}, protected=True
        )


@pytest.fixture(scope="module")
def pushed(make_project: MakeProject, make_runner: MakeRunner, locked: Running, registry: Registry) -> Pushed:
    """The component on the default branch: build → test → publish."""
    assert locked.ca
    one = replace(make_project(), registry=locked.host)
    given = {"base-image": f"{locked.host}/acme/models:base", "publish-mode": "registry", "history": "true"}
    runner = make_runner(one, ci.component(COMPONENT, given), NOTE, *LOGIN)
    env = one.push(CI_SERVER_TLS_CA_FILE=str(locked.ca))
    return Pushed(one, runner, env, runner.pipeline(env, protected=True))


def test_a_push_to_the_default_branch(pushed: Pushed, registry: Registry, locked: Running) -> None:
    """What the test job has measured is published, byte for byte; only the last job ever saw the login."""
    done = pushed.done
    assert list(done) == ["trt-action-build", "trt-action-test", "trt-action-publish"], list(done.values())[-1].raw
    build, test, publish = done.values()
    assert (build.exit_code, test.exit_code, publish.exit_code) == (0, 0, 0), publish.raw
    for job in (build, test):
        assert not {variable.name for variable in LOGIN} & set(job.env)
    said = publish.dotenv(ci.jobs(pushed.runner.config)["trt-action-publish"])
    manifest = artifacts.resolve(registry, "acme/models", "main")
    assert said["TRT_RESULT_DIGEST"] == manifest.digest
    assert said["TRT_RESULT_IMAGE"] == f"{locked.host}/acme/models"
    evidence = report.read_evidence(test.workspace / "trt-action-report/evidence.json")
    assert evidence.head
    found = contents.engine(registry, "acme/models", manifest)
    assert found.sha256 == evidence.head.engine.sha256
    assert pushed.project.main in registry.tags("acme/models")
    told = (publish.workspace / "trt-action-report/published.md").read_text()
    assert "**digits · int8 · CPU · onnxruntime · 8×1×8×8**, 3 runs" in told
    assert "xychart-beta" in told
    check_secrets(done, TOKEN, PASSWORD, JOB_TOKEN)


def test_what_is_recorded_of_a_published_run_has_its_series(pushed: Pushed, tmp_path: Path) -> None:
    """The image's evidence has none; the test job's results are taken only if they are of the same run."""
    test = _copied(pushed.done["trt-action-test"], tmp_path)
    engine = version.read(tmp_path / ".trt-action/kept/digits")
    one = Settings.model_validate({"model": "a.onnx", "name": "digits", "output": str(tmp_path / "trt-action-report")})
    whole = gitlab_stages._with_series(engine, [one])
    assert whole.head
    assert whole.head.latency
    assert whole.head.latency.series
    path = test.workspace / "trt-action-report/evidence.json"
    path.write_text(path.read_text().replace(pushed.project.main, "f" * 40))
    assert gitlab_stages._with_series(engine, [one]) == engine.evidence
    path.unlink()
    assert gitlab_stages._with_series(engine, [one]) == engine.evidence


def test_a_release_gets_its_tags(pushed: Pushed, registry: Registry) -> None:
    """A tag's pipeline has one job, and measures nothing."""
    env = pushed.project.tag("v1.2.3", CI_SERVER_TLS_CA_FILE=pushed.env["CI_SERVER_TLS_CA_FILE"])
    done = pushed.runner.pipeline(env, protected=True)
    assert list(done) == ["trt-action-publish"]
    assert done["trt-action-publish"].exit_code == 0, done["trt-action-publish"].raw
    digests = {artifacts.resolve(registry, "acme/models", tag).digest for tag in ("main", "1.2.3", "latest")}
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ("engine", 5, "cannot be trusted"),
        ("evidence of another engine", 2, "speaks of another engine"),
        ("failed", 16, "a gate does not hold"),
        ("another commit", 16, "was measured for the commit"),
        ("no evidence", 2, "nobody has measured it"),
        ("nothing", 16, "holds no engine"),
        ("no login", 13, ""),
        ("failed, report-only", 0, "not every rule of this run holds"),
        ("undecided, report-only", 0, "not every rule of this run holds"),
        ("language model", 0, "a served language model has no engine"),
    ],
)
def test_nothing_else_is_published(
    pushed: Pushed, registry: Registry, make_runner: MakeRunner, tmp_path: Path, change: str, code: int, says: str
) -> None:
    before = {tag: artifacts.resolve(registry, "acme/models", tag).digest for tag in registry.tags("acme/models")}
    test, runner = _copied(pushed.done["trt-action-test"], tmp_path), pushed.runner
    kept = test.workspace / ".trt-action/kept/digits"
    evidence = kept / "evidence.json"
    if change == "engine":
        with (kept / "engine.onnx").open("ab") as file:
            file.write(b"x")
    elif change == "evidence of another engine":
        evidence.write_text(evidence.read_text().replace(_sha(kept), "0" * 64))
    elif change.startswith("failed"):
        evidence.write_text(json.dumps(json.loads(evidence.read_text()) | {"outcome": "failed"}))
    elif change.startswith("undecided"):
        record = json.loads(evidence.read_text())
        rule = record["settings"] | {"on-inconclusive": "fail"}
        evidence.write_text(json.dumps(record | {"outcome": "inconclusive", "settings": rule}))
    elif change == "another commit":
        evidence.write_text(evidence.read_text().replace(pushed.project.main, "f" * 40))
    elif change in ("no evidence", "nothing", "language model"):
        gone = "evidence.json" if change == "no evidence" else ""
        test.artifacts = [one for one in test.artifacts if not ("kept/" in one and one.endswith(gone))]
    elif change == "no login":
        runner = make_runner(pushed.project, pushed.runner.config, NOTE)
    given = {
        "failed, report-only": {"report-only": "true"},
        "undecided, report-only": {"report-only": "true"},
        "language model": {"backend": "openai-endpoint", "endpoint": "http://127.0.0.1:9", "prompts": "prompts.txt"},
    }.get(change)
    if given:
        variables = [Variable(inputs.variable(name), text) for name, text in given.items()]
        runner = make_runner(pushed.project, pushed.runner.config, NOTE, *LOGIN, *variables)
    job = pushed.publish(test, runner)
    assert job.exit_code == code, job.raw
    assert says in job.raw
    assert "Traceback" not in job.raw
    assert PASSWORD not in job.raw
    after = {tag: artifacts.resolve(registry, "acme/models", tag).digest for tag in registry.tags("acme/models")}
    assert after == before


def _sha(kept: Path) -> str:
    return str(json.loads((kept / "engine.json").read_text())["engine"]["sha256"])


def _copied(job: Done, folder: Path) -> Done:
    """Its artifacts elsewhere, to be changed."""
    for relative in job.artifacts:
        (folder / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(job.workspace / relative, folder / relative)
    return replace(job, workspace=folder, artifacts=list(job.artifacts))


@pytest.mark.parametrize(
    ("variables", "env", "code", "says"),
    [
        ({}, {"GITLAB_CI": ""}, 2, "no job of GitLab"),
        ({"TRT_ACTION_COMENT": "false"}, {}, 2, "TRT_ACTION_COMMENT"),
        ({"TRT_ACTION_MODEL": "missing.onnx"}, {}, 2, "missing.onnx"),
        ({"TRT_ACTION_ACTIVITY": "nothing"}, {}, 0, "Nothing is measured here"),
    ],
)
def test_a_job_that_cannot_begin_says_why(
    make_project: MakeProject,
    make_runner: MakeRunner,
    variables: dict[str, str],
    env: dict[str, str],
    code: int,
    says: str,
) -> None:
    one = make_project()
    runner = make_runner(one, example(), *(Variable(name, value) for name, value in variables.items()))
    job = ci.jobs(runner.config)["test-engine"]
    done = runner.job("test-engine", job, {**one.merge_request(), **env}, {}, protected=False)
    assert done.exit_code == code, done.raw
    assert says in done.raw
    assert "Traceback" not in done.raw
    if "TRT_ACTION_MODEL" in variables:  # what readers wait for is there all the same
        SCHEMA.validate((done.workspace / "trt-action-report/junit.xml").read_text())
        assert done.dotenv(job)["TRT_RESULT_OUTCOME"] == "failed"
