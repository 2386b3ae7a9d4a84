"""One run in MLflow, in the order in which a break does the least harm: run, values, files, version, alias last.

The same evidence again finds its run by a tag and completes it; nothing is there twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import requests

from trt_action import report
from trt_action.errors import TrackingError, TrtActionError
from trt_action.evidence import Evidence
from trt_action.inputs import open_regular, quote
from trt_action.recording import content
from trt_action.recording.api import Mlflow
from trt_action.recording.asked import Target
from trt_action.recording.content import Content

BATCH = 100
"""Parameters, and tags, of one request; MLflow takes no more."""
MAX_UPLOAD = 256_000_000
"""Bytes of a model file that is uploaded: it is held in memory."""

Log = Callable[[str], None]


@dataclass(frozen=True)
class Recorded:
    """What is there now. `url`: of the run, for people. `version`: of the registered model, if it got one. `notes`: what
    was left out, and why."""

    run_id: str
    url: str
    version: str | None = None
    notes: tuple[str, ...] = ()


def record(
    evidence: Evidence,
    target: Target,
    session: requests.Session,
    *,
    image: str | None = None,
    model: Path | None = None,
    register: bool = True,
    log: Log = lambda _: None,
    **how: Any,
) -> Recorded:
    """Record a run; one that passed also becomes a version of `target.model`, if `register` allows it.

    Args:
        image: `host/repository@sha256:…` of what was published; the version's source.
        model: the ONNX file that was measured; without an image it is uploaded and is the version's source.
        how: clock and chance for `rest.Client`, passed in for tests.

    Raises:
        TrackingError: the server refused, or did not answer in time. What was recorded before it stays.
    """
    mlflow = Mlflow(session, target.uri, target.login, log=log, **how)
    what = content.of(evidence, image)
    experiment = _experiment(mlflow, target.experiment)
    run = _run(mlflow, experiment, what)
    _values(mlflow, run["run_id"], what)
    notes = _files(mlflow, run, evidence)
    version = None
    if target.model and register:
        if evidence.outcome == "passed":
            version, more = _version(mlflow, run, evidence, target, image, model)
            notes += more
        else:
            notes.append(f"No version of `{target.model}`: the run is {evidence.outcome}.")
    status = {"run_id": run["run_id"], "status": what.status, "end_time": what.end, "run_name": what.name}
    mlflow.post("/runs/update", status)
    url = f"{target.uri}/#/experiments/{experiment}/runs/{run['run_id']}"
    return Recorded(run["run_id"], url, version, tuple(notes))


def _experiment(mlflow: Mlflow, name: str) -> str:
    """Its id; made where it does not exist."""
    for _ in range(2):  # another job may make it at the same time
        found = mlflow.find("/experiments/get-by-name", experiment_name=name)
        if found is not None:
            experiment = _part(mlflow, found, "experiment")
            if experiment.get("lifecycle_stage") == "deleted":
                raise TrackingError(
                    f"The experiment {quote(name)} is deleted.",
                    fix="Restore it (`mlflow experiments restore`), or name another one in `mlflow-experiment`.",
                )
            return _text(mlflow, experiment, "experiment_id")
        try:
            return _text(mlflow, mlflow.post("/experiments/create", {"name": name}), "experiment_id")
        except TrackingError as error:
            if error.status != 400:
                raise
            refused = error
    raise refused


def _run(mlflow: Mlflow, experiment: str, what: Content) -> dict[str, Any]:
    """The run of this evidence; started where there is none."""

    def sought() -> dict[str, Any] | None:
        asked = {
            "experiment_ids": [experiment],
            "filter": f"tags.`{content.EVIDENCE_TAG}` = '{what.sha256}'",
            "max_results": 1,
        }
        runs = mlflow.post("/runs/search", asked).get("runs")
        return {"run": runs[0]} if isinstance(runs, list) and runs else None

    found = sought()
    if found is None:
        tags = [{"key": content.EVIDENCE_TAG, "value": what.sha256}]
        body = {"experiment_id": experiment, "run_name": what.name, "start_time": what.start, "tags": tags}
        found = mlflow.post("/runs/create", body, sent=sought)
    info = _part(mlflow, _part(mlflow, found, "run"), "info")
    return {name: _text(mlflow, info, name) for name in ("run_id", "artifact_uri")}


def _values(mlflow: Mlflow, run_id: str, what: Content) -> None:
    """Parameters, metrics and tags. The same values again change nothing."""
    metrics = [{"key": name, "value": value, "timestamp": what.end, "step": 0} for name, value in what.metrics.items()]
    for kind, entries in (("params", _pairs(what.parameters)), ("metrics", metrics), ("tags", _pairs(what.tags))):
        for start in range(0, len(entries), BATCH):
            mlflow.post("/runs/log-batch", {"run_id": run_id, kind: entries[start : start + BATCH]})


def _files(mlflow: Mlflow, run: Mapping[str, str], evidence: Evidence) -> list[str]:
    """The evidence and what people read of it. Returns a note where the server takes no files."""
    files = {
        "evidence.json": f"{evidence.model_dump_json(indent=1)}\n",
        "comment.md": report.comment([evidence]),
        "report.html": report.html([evidence]),
    }
    for name, text in files.items():
        if not mlflow.upload(run["artifact_uri"], name, text.encode()):
            return [
                f"No files: this server leaves them to its clients ({quote(run['artifact_uri'][:200])}). "
                "`mlflow server --artifacts-destination` takes them itself."
            ]
    return []


def _version(
    mlflow: Mlflow, run: Mapping[str, str], evidence: Evidence, target: Target, image: str | None, model: Path | None
) -> tuple[str | None, list[str]]:
    """The version of the registered model that this run is: (its number, notes). The alias moves last."""
    name = target.model or ""
    source, note = (f"docker://{image}", "") if image else _uploaded(mlflow, run, evidence, model)
    if source is None:
        return None, [f"No version of `{name}`: {note}"]
    _registered(mlflow, name)

    def sought() -> dict[str, Any] | None:
        asked = {"filter": f"run_id = '{run['run_id']}'", "max_results": "100"}
        found = mlflow.get("/model-versions/search", **asked).get("model_versions")
        for one in found if isinstance(found, list) else []:
            if isinstance(one, dict) and one.get("name") == name and one.get("source") == source:
                return {"model_version": one}
        return None

    tags = _pairs(content.of(evidence, image).tags)
    body = {"name": name, "source": source, "run_id": run["run_id"], "tags": [t for t in tags if _ours(t)]}
    found = sought() or mlflow.post("/model-versions/create", body, sent=sought)
    version = _text(mlflow, _part(mlflow, found, "model_version"), "version")
    if target.alias:
        mlflow.post("/registered-models/alias", {"name": name, "alias": target.alias, "version": version})
    return version, []


def _ours(tag: Mapping[str, str]) -> bool:
    return tag["key"].startswith(content.PREFIX)


def _registered(mlflow: Mlflow, name: str) -> None:
    """Make sure that the registered model exists."""
    if mlflow.find("/registered-models/get", name=name) is not None:
        return
    try:
        mlflow.post("/registered-models/create", {"name": name})
    except TrackingError:
        if mlflow.find("/registered-models/get", name=name) is None:  # nobody else has made it meanwhile
            raise


def _uploaded(mlflow: Mlflow, run: Mapping[str, str], evidence: Evidence, model: Path | None) -> tuple[str | None, str]:
    """Where the ONNX file lies that was measured: (address, "") or (None, why it does not)."""
    if model is None or evidence.model is None:
        return None, "nothing was published that it could point to (`--image`)."
    try:
        with open_regular(model, noun="model", wrong=TrackingError) as file:
            held = file.read(MAX_UPLOAD + 1)
    except (TrtActionError, OSError) as error:
        return None, str(error)
    if len(held) > MAX_UPLOAD:
        return None, f"the model is larger than {MAX_UPLOAD // 1_000_000} MB, and no image was published."
    if hashlib.sha256(held).hexdigest() != evidence.model.sha256:
        return None, "the model has external data or is not the file that was measured, and no image was published."
    if not mlflow.upload(run["artifact_uri"], "model/model.onnx", held):
        return None, "the server takes no files, and no image was published."
    return f"{run['artifact_uri']}/model", ""


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": name, "value": value} for name, value in values.items()]


def _part(mlflow: Mlflow, found: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = found.get(name)
    return part if isinstance(part, dict) else _strange(mlflow, name)


def _text(mlflow: Mlflow, found: Mapping[str, Any], name: str) -> str:
    value = found.get(name)
    return value if isinstance(value, str) and value else _strange(mlflow, name)


def _strange(mlflow: Mlflow, name: str) -> NoReturn:
    raise TrackingError(
        f"{quote(mlflow.uri)} answers without `{name}`, unlike an MLflow server.",
        fix="Check `mlflow-tracking-uri`: the address that MLFLOW_TRACKING_URI would have.",
    )
