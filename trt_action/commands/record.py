"""`trt-action record EVIDENCE…`: runs that were measured earlier, or elsewhere, into MLflow."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_action import errors
from trt_action.commands import images
from trt_action.settings.options import BY_NAME

if TYPE_CHECKING:
    from trt_action.settings import Settings

NAMES = tuple(name for name in BY_NAME if name.startswith("mlflow-") and name != "mlflow-required")


def add(commands: Any) -> None:
    """Declare the command (`commands`: what `ArgumentParser.add_subparsers` returned)."""
    record = commands.add_parser("record", help="runs, from their evidence, into MLflow")
    record.add_argument("evidence", nargs="+", metavar="EVIDENCE", help="evidence.json of a run")
    for name in NAMES:
        row = BY_NAME[name]
        record.add_argument(f"--{name}", dest=name, metavar=row.metavar, help=row.help)
    record.add_argument(
        "--image", metavar="IMAGE", help="what was published of it, HOST/REPOSITORY@DIGEST: the version's source"
    )
    record.add_argument(
        "--onnx", metavar="FILE", help="without an image: the model that was measured, which is uploaded"
    )
    record.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    from trt_action import bookkeeping, report

    settings = _settings(arguments)
    evidences = [report.read_evidence(Path(path)) for path in arguments.evidence]
    image = _image(arguments.image)
    if len(evidences) > 1 and (image or arguments.onnx):
        raise errors.SettingsError(
            "`--image` and `--onnx` belong to one run, and several are named.", fix="Record them one by one."
        )
    target = bookkeeping.installed().asked(settings, os.environ)
    model = Path(arguments.onnx) if arguments.onnx else None
    for evidence in evidences:
        bookkeeping.record(evidence, target, image=image, model=model, log=images.note)
    return 0


def _settings(arguments: argparse.Namespace) -> Settings:
    """What is asked, from flags and the environment; a config file is about runs that are to be made."""
    from pydantic import ValidationError

    from trt_action.settings import Settings, explain

    places: dict[str, str] = {}
    given: dict[str, str] = {}
    for name in NAMES:
        variable = f"TRT_ACTION_{name.upper().replace('-', '_')}"
        typed, set_ = getattr(arguments, name), os.environ.get(variable, "")
        if typed or set_:
            given[name], places[name] = typed or set_, "command line" if typed else f"environment variable {variable}"
    if "mlflow-tracking-uri" not in given:
        raise errors.SettingsError(
            "No MLflow server is named.", fix="Give `--mlflow-tracking-uri`, or set TRT_ACTION_MLFLOW_TRACKING_URI."
        )
    try:
        return Settings.model_validate({"model": "recorded.onnx", **given})
    except ValidationError as error:
        raise explain.refused(error, lambda key: places.get(key, "default")) from error


def _image(text: str | None) -> str | None:
    if text is None:
        return None
    image = images.reference(text)
    if not image.digest:
        raise errors.SettingsError(
            f"`--image {text[:200]}` has no digest.",
            why="A tag may point to something else tomorrow.",
            fix="Write HOST/REPOSITORY@sha256:…, as `trt-action publish` prints it.",
        )
    return f"{image.name}@{image.digest}"
