"""What a real MLflow server holds after a run, and after one that was recorded on a bad day."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tests.doubles.mlflow import Fault, Proxy
from tests.recording.conftest import Api, Keep
from tests.report import samples
from trt_action import errors
from trt_action.evidence import Evidence, Source
from trt_action.recording import content
from trt_action.recording.asked import Login

IMAGE = "ghcr.io/acme/digits@sha256:" + "ab" * 32
COMMIT = "4f2a9c1d7be0aa" + "0" * 26
SOURCE = Source(
    commit=COMMIT,
    ref="refs/heads/main",
    repository="https://github.com/acme/digits",
    run_url="https://github.com/acme/digits/actions/runs/7",
)


def evidence(**changes: Any) -> Evidence:
    return samples.passed(**{"source": SOURCE, **changes})


def test_a_run_with_its_parameters_metrics_tags_and_files(keep: Keep, api: Api, experiment: str) -> None:
    one = evidence()
    assert one.head
    assert one.head.latency
    assert one.comparison
    assert one.comparison.p50_ratio
    done = keep(one, image=IMAGE)
    assert done.notes == ()
    assert done.version is None
    run = api.run(done.run_id)
    assert (run["info"]["status"], run["info"]["run_name"]) == ("FINISHED", f"digits {COMMIT[:12]}")
    metrics = api.values(done.run_id, "metrics")
    assert metrics["p99_ms"] == one.head.latency.p99_ms
    assert (
        metrics["p50_ratio.low"] < metrics["p50_ratio"] == one.comparison.p50_ratio.estimate < metrics["p50_ratio.high"]
    )
    assert metrics["engine_bytes"] == one.head.engine.bytes
    assert "device_peak_bytes" not in metrics  # null is no number
    tags = api.values(done.run_id, "tags")
    assert tags["trt-action.commit"] == tags["mlflow.source.git.commit"] == COMMIT
    assert tags["trt-action.image"] == IMAGE
    assert tags["trt-action.verdict"] == one.comparison.verdict
    given = {name: value for name, value in one.settings.items() if value not in (None, [], "")}
    assert set(api.values(done.run_id, "params")) == set(given)
    assert Evidence.model_validate_json(api.file(done.run_id, "evidence.json")) == one
    assert api.file(done.run_id, "report.html").startswith(b"<!doctype html>")
    assert b"digits" in api.file(done.run_id, "comment.md")
    assert len(api.runs(experiment)) == 1


def test_the_tag_is_the_digest_of_the_evidence_in_an_image(tmp_path: Path) -> None:
    from trt_action.engine import kept

    written = kept.write_evidence(tmp_path, evidence()).read_bytes()
    assert content.sha256(evidence()) == hashlib.sha256(written).hexdigest()
    assert content.sha256(Evidence.model_validate_json(written)) == content.sha256(evidence())


def test_the_same_evidence_again_is_the_same_run_and_version(keep: Keep, api: Api, experiment: str) -> None:
    target = {"model": experiment, "alias": "champion"}
    first = keep(evidence(), target=target, image=IMAGE)
    assert keep(evidence(), target=target, image=IMAGE) == first
    assert len(api.runs(experiment)) == 1
    (version,) = api.versions(experiment)
    assert (version["version"], version["source"], version["run_id"]) == ("1", f"docker://{IMAGE}", first.run_id)
    tags = {tag["key"]: tag["value"] for tag in version["tags"]}
    assert tags["trt-action.engine-sha256"] == samples.SHA
    later = keep(evidence(created="2031-01-01T00:00:00+00:00"), target=target, image=IMAGE)
    assert later.version == "2"
    aliased = api.get("/registered-models/alias", name=experiment, alias="champion")["model_version"]
    assert aliased["version"] == "2"


@pytest.mark.parametrize("outcome", ["failed", "inconclusive"])
def test_only_a_run_that_passed_becomes_a_version(keep: Keep, api: Api, experiment: str, outcome: str) -> None:
    name = experiment.replace("[", "-").replace("]", "")
    done = keep(evidence(outcome=outcome), target={"model": name, "alias": "champion"}, image=IMAGE)
    assert done.version is None
    assert outcome in done.notes[0]
    assert api.versions(name) == []
    assert keep(evidence(), target={"model": name}, image=IMAGE, register=False).version is None


def test_without_an_image_the_measured_file_is_the_source(
    keep: Keep, api: Api, experiment: str, tmp_path: Path
) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"weights")
    model = samples.model(sha256=hashlib.sha256(b"weights").hexdigest())
    target = {"model": experiment}
    done = keep(evidence(model=model), target=target, model=file)
    assert done.version == "1"
    assert api.file(done.run_id, "model/model.onnx") == b"weights"
    assert api.versions(experiment)[0]["source"].endswith("/artifacts/model")
    file.write_bytes(b"others")
    other = keep(evidence(model=model, created="2030-01-01T00:00:00+00:00"), target=target, model=file)
    assert other.version is None
    assert "is not the file that was measured" in other.notes[0]
    assert "nothing was published" in keep(evidence(created="2029-01-01"), target=target).notes[0]


def test_a_run_that_ended_early_is_a_failed_run(keep: Keep, api: Api) -> None:
    done = keep(samples.error())
    assert api.run(done.run_id)["info"]["status"] == "FAILED"


HOSTILE = "‮<b>`ü`</b>/../../x\x00\n; DROP TABLE runs; --' OR '1'='1"


def test_hostile_and_long_texts_arrive_cut_and_printable(keep: Keep, api: Api) -> None:
    parity = samples.passed().accuracy.parity
    assert parity
    outputs = {HOSTILE: next(iter(parity.head.values())), HOSTILE + "2": next(iter(parity.head.values()))}
    one = evidence(
        settings={"name": HOSTILE * 20, "op-types": ["ü" * 900] * 30, HOSTILE: 1, "seed": float("nan"), "a" * 900: "x"},
        source=Source(commit=HOSTILE, ref="é" * 1_000, repository=HOSTILE),
        accuracy=samples.passed().accuracy.model_copy(update={"parity": parity.model_copy(update={"head": outputs})}),
    )
    done = keep(one)
    params = api.values(done.run_id, "params")
    assert len(params) == len(one.settings)
    assert all(len(value.encode()) <= content.MAX_PARAMETER for value in params.values())
    assert params["op-types"].endswith("…")
    assert params["seed"] == "nan"
    assert sum(name.startswith("parity.") for name in api.values(done.run_id, "metrics")) >= 4
    tags = api.values(done.run_id, "tags")
    assert all(value.isprintable() for name, value in tags.items() if name.startswith("trt-action."))


def test_numbers_that_are_none_are_left_out() -> None:
    head = samples.passed().head
    assert head
    assert head.latency
    broken = head.model_copy(
        update={"latency": head.latency.model_copy(update={"p99_ms": float("nan"), "max_ms": 1e400})}
    )
    found = content.of(evidence().model_copy(update={"head": broken})).metrics
    assert "p99_ms" not in found
    assert "p50_ms" in found


def test_more_settings_than_one_request_takes(keep: Keep, api: Api) -> None:
    done = keep(evidence(settings={f"setting-{n}": n + 1 for n in range(250)}))
    assert len(api.values(done.run_id, "params")) == 250


# A bad day


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("POST", "/runs/create", status=503, headers={"Retry-After": "2"}, times=2), None),
        (Fault("POST", "/runs/create", "lost-answer"), None),
        (Fault("POST", "/log-batch", "lost-answer", times=2), None),
        (Fault("POST", "/model-versions/create", "lost-answer"), None),
        (Fault("PUT", "/evidence.json", status=502), None),
        (
            Fault("POST", "/runs/search", status=500, times=99),
            "HTTP 500, INTERNAL_ERROR: injected (tried again in vain)",
        ),
        (Fault("GET", "/experiments/get-by-name", "page", times=9), "does not answer"),
        (Fault("POST", "/log-batch", status=403), "HTTP 403"),
        (Fault("POST", "/runs/search", body=b'{"runs": [3]}', status=200), "answers without `run`"),
    ],
    ids=lambda one: f"{one.path}-{one.kind}-{one.status}" if isinstance(one, Fault) else "",
)
def test_a_fault_is_outlived_or_named(
    keep: Keep, proxy: Proxy, api: Api, experiment: str, fault: Fault, words: str | None
) -> None:
    proxy.faults.append(fault)
    name = hashlib.sha256(experiment.encode()).hexdigest()
    if words is None:
        done = keep(evidence(), to=proxy.uri, target={"model": name}, image=IMAGE)
        assert done.version == "1"
        assert len(api.runs(experiment)) == 1
        assert len(api.versions(name)) == 1
    else:
        with pytest.raises(errors.TrackingError) as failed:
            keep(evidence(), to=proxy.uri)
        assert words in failed.value.what
        assert failed.value.fix
        proxy.faults.clear()
        keep(evidence(), to=proxy.uri)
        assert len(api.runs(experiment)) == 1  # what was begun is completed


def test_a_server_that_is_down_or_silent(keep: Keep, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.TrackingError, match="no connection"):
        keep(evidence(), to="http://127.0.0.1:9")
    monkeypatch.setattr("trt_action.rest.READ_SECONDS", 0.2)
    monkeypatch.setattr("trt_action.rest.MIN_READ_SECONDS", 0.1)
    proxy.faults.append(Fault("GET", "/experiments", "silence", times=99))
    with pytest.raises(errors.TrackingError, match="no answer in time"):
        keep(evidence(), to=proxy.uri)


def test_all_of_it_has_a_limit(keep: Keep, proxy: Proxy) -> None:
    now = iter(range(0, 100_000, 50))
    with pytest.raises(errors.TrackingError, match="not done after 240 s"):
        keep(evidence(), to=proxy.uri, clock=lambda: float(next(now)), patience=10_000.0)


@pytest.mark.parametrize(
    ("login", "header"),
    [
        (Login("ann", SecretStr("canary-word")), "Basic " + base64.b64encode(b"ann:canary-word").decode()),
        (Login("", SecretStr("canary-word")), "Bearer canary-word"),
    ],
)
def test_a_login_is_sent_and_never_shown(
    keep: Keep, proxy: Proxy, login: Login, header: str, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.login = header
    target = {"login": login}
    assert keep(evidence(), to=proxy.uri, target=target).run_id
    proxy.login = "Bearer another"
    heard: list[str] = []
    with pytest.raises(errors.TrackingError) as failed:
        keep(evidence(), to=proxy.uri, target=target, log=heard.append)
    assert failed.value.status == 401
    assert "MLFLOW_TRACKING_TOKEN" in failed.value.fix
    shown = json.dumps([failed.value.what, failed.value.why, heard, repr(login), caplog.text])
    assert "canary" not in shown
    assert header.split()[-1] not in shown


def test_a_server_that_leaves_files_to_its_clients(keep: Keep, tmp_path: Path) -> None:
    import requests

    from trt_action.recording.api import Mlflow

    with requests.Session() as session:
        mlflow = Mlflow(session, "http://mlflow.example.com", Login())
        for place in (
            "s3://bucket/1/run/artifacts",
            "file:///tmp/x",
            "mlflow-artifacts://elsewhere.example.com/1/x",
            "dbfs:/x",
        ):
            assert not mlflow.upload(place, "evidence.json", b"{}")
