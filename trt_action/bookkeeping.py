"""What every door does with `mlflow-tracking-uri` after a run. A server that fails changes no verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from trt_action import errors

if TYPE_CHECKING:
    from trt_action.evidence import Evidence
    from trt_action.recording import Target
    from trt_action.settings import Settings

Tell = Callable[[errors.TrtActionError, bool], None]
"""Shows a failure; True: it is an error and not only a warning."""


def keep(
    evidences: Sequence[Evidence],
    chosen: Sequence[Settings],
    env: Mapping[str, str],
    *,
    images: Sequence[str | None] = (),
    register: bool = True,
    log: Callable[[str], None],
    tell: Tell,
) -> int:
    """Record each run whose settings ask for it. Returns 0, or the exit code of the first failure that is required not
    to happen.

    Args:
        chosen: the settings of each evidence.
        images: what was published of each, `host/repository@sha256:…`.
        register: whether a run that passed may become a version of a registered model.
    """
    code = 0
    for place, (evidence, settings) in enumerate(zip(evidences, chosen, strict=False)):
        if settings.mlflow_tracking_uri is None or _was_stopped(evidence):
            continue
        image = images[place] if place < len(images) else None
        try:
            _one(evidence, settings, env, image, register, log)
        except errors.TrtActionError as error:
            tell(error, settings.mlflow_required)
            code = code or (error.exit_code if settings.mlflow_required else 0)
    return code


def _one(
    evidence: Evidence,
    settings: Settings,
    env: Mapping[str, str],
    image: str | None,
    register: bool,
    log: Callable[[str], None],
) -> None:
    recording = installed()
    target = recording.asked(settings, env)
    if target is not None:
        record(evidence, target, image=image, model=settings.model, register=register, log=log)


def record(
    evidence: Evidence,
    target: Target,
    *,
    image: str | None = None,
    model: Path | None = None,
    register: bool = True,
    log: Callable[[str], None],
) -> None:
    """Record one run and say where it is.

    Raises:
        TrackingError: see `recording.record`.
    """
    import requests

    recording = installed()
    with requests.Session() as session:
        done = recording.record(evidence, target, session, image=image, model=model, register=register, log=log)
    version = f", version {done.version} of {target.model}" if done.version else ""
    log(f"MLflow: {done.url}{version}")
    for note in done.notes:
        log(f"MLflow: {note}")


def installed() -> ModuleType:
    """The room, imported only now.

    Raises:
        SettingsError: its libraries are not installed.
    """
    try:
        from trt_action import recording
    except ImportError as error:
        raise errors.SettingsError(
            f"MLflow is asked for and needs the library `{error.name}`, which is not installed.",
            fix="`pip install 'trt-action[mlflow]'`.",
        ) from None
    return recording


def _was_stopped(evidence: Evidence) -> bool:
    return evidence.error is not None and evidence.error.exit_code == errors.InterruptedRunError.exit_code
