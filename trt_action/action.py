"""The door for the GitHub Action: environment → event → settings → pipeline → delivery → exit code.

The first line is printed before anything heavy is imported: whoever watches the log sees at once that it lives.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trt_action import __version__, errors, interruption

if TYPE_CHECKING:
    from trt_action.console import Console
    from trt_action.evidence import Evidence
    from trt_action.job import Job
    from trt_action.settings import Settings


def main() -> int:
    """Run the step. Returns its exit code; never raises, never shows a traceback."""
    interruption.on_signals(_words)
    env, started = os.environ, time.time()
    _first_line(env)
    _hide_environment()
    try:
        return _step(env, started)
    except errors.TrtActionError as error:
        return _tell(error)
    except KeyboardInterrupt as stop:
        return _tell(errors.interrupted(stop))
    except Exception as error:  # noqa: BLE001 - the outermost boundary: a person gets a message, the log gets the rest
        return _tell(_bug(error))
    finally:
        _leave(env, started)


def _first_line(env: Mapping[str, str]) -> None:
    names = ("GITHUB_EVENT_NAME", "GITHUB_REPOSITORY", "GITHUB_REF", "GITHUB_SHA")
    line = " · ".join([f"trt-action {__version__}", *(env[name] for name in names if env.get(name))])
    printable = "".join(c if c.isprintable() else " " for c in line)
    sys.stdout.write(printable.replace("::", ": :") + "\n")
    sys.stdout.flush()


def _hide_environment() -> None:
    from trt_action import process

    process.hide_environment()


def _step(env: Mapping[str, str], started: float) -> int:
    from trt_action.github import commands, credentials, event, inputs
    from trt_action.job import Job, read_payload

    for secret in inputs.secrets(env):
        commands.mask(secret)
    asked = inputs.read(env)
    decided = event.decide(
        env.get("GITHUB_EVENT_NAME", ""),
        read_payload(env),
        env,
        allow_untrusted_fork=asked.allow_untrusted_fork,
        activity=asked.activity,
    )
    activity = event.with_push(decided, asked.push)
    commands.plain(f"{activity.kind}: {activity.reason}")
    job = Job(env, asked, activity, started)
    if activity.kind == "nothing":
        return errors.EXIT_PASSED
    os.environ.update(credentials.for_git(asked.token, env.get("GITHUB_SERVER_URL", ""), env))
    from trt_action import delivery

    if activity.kind == "report":
        return delivery.report_others(job)
    if activity.kind == "promote":
        return delivery.promote(job)
    return _measure(job)


def _measure(job: Job) -> int:
    """Measure every model, here or in a container with a GPU, and deliver; also an error, which readers must see."""
    from trt_action import container, delivery, files, settings
    from trt_action.github import commands

    chosen: list[Settings] = []
    with files.work_folder() as kept:
        try:
            job.check_checkout()
            chosen = settings.load({}, job.env, job.workspace)
            if _needs_sibling(job, chosen):
                return container.run_sibling(job.inputs.gpus, job.env, log=commands.plain)
            evidences = _evidences(job, chosen, kept)
        except errors.TrtActionError as error:
            evidences = [_failed(job, chosen, error)]
        except Exception as error:  # noqa: BLE001 - a bug must reach the pull request too
            evidences = [_failed(job, chosen, _bug(error))]
        return delivery.deliver(job, chosen, evidences, kept)


def _wants_gpu(job: Job, chosen: Sequence[Settings]) -> bool:
    if job.inputs.gpus != "auto":
        return job.inputs.gpus != "none"
    asks = (one.backend.startswith("tensorrt") or one.device.startswith("cuda") for one in chosen)
    return job.inputs.gpu is not None or any(asks)


def _needs_sibling(job: Job, chosen: Sequence[Settings]) -> bool:
    """Whoever wants a GPU runs in a sibling, also where `nvidia` is the default runtime: all siblings of a host share
    the volume that holds the locks, and two runners there would not know of each other otherwise."""
    from trt_action import container, gpu

    if not _wants_gpu(job, chosen):
        return False
    if container.socket_is_there() and not container.is_sibling(job.env):
        return True
    if not gpu.visible():
        raise container.no_gpu(job.env)
    return False


def _evidences(job: Job, chosen: Sequence[Settings], kept: Path) -> list[Evidence]:
    """The evidence of every model, in order. GPUs are checked first and held meanwhile. What is to be published is kept
    in `kept`, each engine in a folder that is called as its place in `chosen`."""
    from trt_action import console, gpu
    from trt_action.github import commands

    found = gpu.visible() if _wants_gpu(job, chosen) else []
    if found:
        commands.plain(f"GPU: {gpu.described(found)}")
    if job.inputs.gpu:
        gpu.check_expected(job.inputs.gpu, found)
    talk = console.console(sys.stdout)
    uuids = [one.uuid for one in found]
    with gpu.locked(uuids, _lock_folder(job, chosen), timeout=job.inputs.gpu_lock_timeout, log=commands.plain):
        evidences: list[Evidence] = []
        for place, one in enumerate(chosen):
            evidences.append(_one(job, one, chosen, talk, kept / str(place)))
            if _was_stopped(evidences[-1]):
                break
        return evidences


def _lock_folder(job: Job, chosen: Sequence[Settings]) -> Path:
    """Where every run of this host looks: a sibling's volume, whatever `cache` says. Without a sibling the runs of one
    host share only what its owner mounts and names in TRT_ACTION_CACHE."""
    from trt_action import container

    if container.is_sibling(job.env):
        return Path(container.CACHE_FOLDER)
    return chosen[0].cache_folder() or job.workspace


def _was_stopped(evidence: Evidence) -> bool:
    return evidence.error is not None and evidence.error.exit_code == errors.InterruptedRunError.exit_code


def _one(job: Job, one: Settings, chosen: Sequence[Settings], talk: Console, kept: Path) -> Evidence:
    """The evidence of one model, written as soon as it is there."""
    from trt_action import delivery, draft, pipeline, report

    talk.note(one.display_name)
    talk.settings(one.effective(), one.sources)
    keeper = draft.Keeper(kept) if job.activity.kind == "publish" else None
    evidence = pipeline.run(one, console=talk, cwd=job.workspace, source=job.source(), auto_base=job.base, keep=keeper)
    if keeper is not None:
        keeper.finish(evidence)
    report.write_evidence(evidence, delivery.folder_of(one, chosen))
    return evidence


def _failed(job: Job, chosen: Sequence[Settings], error: errors.TrtActionError) -> Evidence:
    """The evidence of a run that ended before its pipeline began; written, so that a later job can report it."""
    from trt_action import delivery, draft, report

    evidence = draft.stopped_early(chosen, job.source(), error)
    report.write_evidence(evidence, delivery.folder_of(chosen[0], chosen) if chosen else job.default_output)
    return evidence


def _tell(error: errors.TrtActionError) -> int:
    """An error that no comment can carry."""
    from trt_action.console import clean
    from trt_action.github import commands

    text = " ".join(clean(part) for part in (error.what, error.why, error.fix) if part)
    commands.Annotations().add("error", text, title=error.title)
    return error.exit_code


def _bug(error: Exception) -> errors.TrtActionError:
    """The details go to the log of the step: the container and its files are gone after it."""
    from trt_action.github import commands

    commands.plain("".join(traceback.format_exception(error)))
    return errors.InternalError(
        f"{type(error).__name__}: {str(error)[:500]}",
        why="The details are in the log of this step.",
        fix="Please report it with that part of the log.",
    )


def _leave(env: Mapping[str, str], started: float) -> None:
    """Children are gone, and what lies in the workspace belongs to its owner, however the step ended."""
    from trt_action import ownership, process
    from trt_action.github import commands

    process.end_all()
    commands.forget_environment(env)
    for name in ("GITHUB_WORKSPACE", "HOME"):
        if env.get(name, "").startswith("/github/"):
            ownership.hand_over(Path(env[name]), since=started - 1)


def _words(number: int) -> str:
    return f"Stopped by {signal.Signals(number).name}: the job was cancelled."
