"""The stages of a pipeline at GitLab, each a job of its own: build → test → publish.

Only files go from job to job (`gitlab_job.HANDED`). An engine is loaded only if its bytes are those that were recorded;
it is published only with evidence that speaks of it, of this commit, and of gates that hold.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_action import console, draft, errors, files, gpu, judge, pipeline, report, settings
from trt_action import gitlab_delivery as delivery
from trt_action.engine import kept
from trt_action.evidence import Evidence
from trt_action.gitlab_job import Job
from trt_action.inputs import quote
from trt_action.report import gathered
from trt_action.settings import Settings

if TYPE_CHECKING:
    from trt_action.console import Console
    from trt_action.publish.version import Version

BUILT = "built.json"
MAX_BUILT_BYTES = 1_000_000
_STOPPED = errors.InterruptedRunError.exit_code


def build(job: Job) -> int:
    """Build every model's engine into the cache that the next job gets. Returns the exit code."""
    if job.activity.kind in ("promote", "nothing"):
        return _nothing(job, "built")
    chosen, evidences = _each(job, lambda one, talk: pipeline.run(one, **_how(job, talk), parts=frozenset()))
    built = {
        one.display_name: {"sha256": evidence.head.engine.sha256, "bytes": evidence.head.engine.bytes}
        for one, evidence in zip(chosen, evidences, strict=False)
        if evidence.head and not evidence.error
    }
    record = {"commit": job.activity.measured_commit, "engines": built}
    files.write_atomic(job.handed / BUILT, json.dumps(record, indent=2) + "\n")
    for name, engine in built.items():
        job.say(f"{name}: engine {engine['sha256']}")
    failed = next((one.error for one in evidences if one.error), None)
    if failed:
        delivery.tell_error(job, failed)
    return failed.exit_code if failed else errors.EXIT_PASSED


def test(job: Job) -> int:
    """Measure and judge every model, and tell everyone who waits for it. Returns the exit code."""
    if job.activity.kind in ("promote", "nothing"):
        return _nothing(job, "measured")
    built = _built(job)

    def one_model(one: Settings, talk: Console) -> Evidence:
        keeper = draft.Keeper(job.kept(one.display_name)) if job.activity.kind == "publish" else None
        evidence = pipeline.run(one, **_how(job, talk), keep=keeper)
        if keeper is not None:
            keeper.finish(evidence)
        _compare_with_built(job, one.display_name, evidence, built)
        return evidence

    chosen, evidences = _each(job, one_model, write=True)
    return delivery.deliver(job, chosen, evidences)


def report_others(job: Job) -> int:
    """Tell in one place what other jobs have measured, such as the legs of a matrix. Returns the exit code.

    Raises:
        EvidenceError: there is none, or it cannot be trusted (`report.gathered`).
    """
    if job.activity.kind in ("promote", "nothing"):
        return _nothing(job, "reported")
    pattern = f"{job.shown(job.output([]))}/**/{kept.EVIDENCE}"
    return delivery.deliver(job, [], gathered.read([pattern], job.workspace, job.activity.commit, log=job.say))


def publish(job: Job) -> int:
    """Publish what the test job has measured, or give a release its tags. Returns the exit code.

    Raises:
        NotPublishedError: nothing was measured, another commit was, or a gate does not hold.
        TrtActionError: as `orders.publish_engines`, `orders.release`.
    """
    if job.activity.kind not in ("publish", "promote"):
        return _nothing(job, "published")
    from trt_action import gitlab_shipping

    if job.activity.kind == "promote":
        if (released := gitlab_shipping.promote(job)) is not None:
            delivery.shipped(job, released)
        return errors.EXIT_PASSED
    chosen = settings.load({}, job.settings_env, job.workspace)
    if all(one.backend == "openai-endpoint" for one in chosen):
        job.say("Nothing is published: a served language model has no engine; its server is there already.")
        return errors.EXIT_PASSED
    engines = gitlab_shipping.measured(job)
    if job.inputs.report_only and not all(_holds(engine.evidence) for engine in engines):
        job.say("Nothing is published: not every rule of this run holds; `report-only: true` keeps the job green.")
        return errors.EXIT_PASSED
    shipped = gitlab_shipping.publish(job, engines)
    delivery.shipped(job, shipped)
    images = [f"{one['image']}@{one['digest']}" for one in shipped.outputs.get("images", [])]
    by_name = {report.slug(one.display_name): one for one in chosen}
    known = [place for place, engine in enumerate(engines) if engine.folder.name in by_name]
    return delivery.record(
        job,
        [_with_series(engines[place], chosen) for place in known],
        [by_name[engines[place].folder.name] for place in known],
        images=[images[place] for place in known] if images else [],
        register=True,
    )


def _with_series(engine: Version, chosen: Sequence[Settings]) -> Evidence:
    """The evidence as the test job has left it among its results, whose report draws more than an image carries; the
    engine's own where that is not the same run."""
    one = next(one for one in chosen if report.slug(one.display_name) == engine.folder.name)
    try:
        whole = report.read_evidence(delivery.folder_of(one, chosen) / kept.EVIDENCE)
    except errors.TrtActionError:
        return engine.evidence
    return whole if kept.without_series(whole) == engine.evidence else engine.evidence


def _holds(evidence: Evidence) -> bool:
    return judge.exit_code(evidence, str(evidence.settings.get("on-inconclusive"))) == errors.EXIT_PASSED


def _nothing(job: Job, done: str) -> int:
    job.say(f"Nothing is {done} here: {job.activity.reason}.")
    return errors.EXIT_PASSED


def _how(job: Job, talk: Console) -> dict[str, Any]:
    return {"console": talk, "cwd": job.workspace, "source": job.source(), "auto_base": job.activity.base}


def _each(
    job: Job, run: Callable[[Settings, Console], Evidence], *, write: bool = False
) -> tuple[list[Settings], list[Evidence]]:
    """The evidence of every model, in order; also of an error, which readers must see. GPUs are checked first and held
    meanwhile."""
    chosen: list[Settings] = []
    evidences: list[Evidence] = []
    try:
        chosen = settings.load({}, job.settings_env, job.workspace)
        talk = console.console(sys.stdout)
        found = gpu.visible() if job.inputs.gpu or any(_wants_gpu(one) for one in chosen) else []
        if job.inputs.gpu:
            gpu.check_expected(job.inputs.gpu, found)
        locks = chosen[0].cache_folder() or job.handed
        with gpu.locked([one.uuid for one in found], locks, timeout=job.inputs.gpu_lock_timeout, log=job.say):
            for one in chosen:
                talk.note(one.display_name)
                talk.settings(one.effective(), one.sources)
                evidences.append(run(one, talk))
                if write:
                    report.write_evidence(evidences[-1], delivery.folder_of(one, chosen))
                if evidences[-1].error and evidences[-1].error.exit_code == _STOPPED:
                    break
    except errors.TrtActionError as error:
        evidences.append(_failed(job, chosen, error))
    except Exception as error:  # noqa: BLE001 - a bug must reach the merge request too
        job.say("".join(traceback.format_exception(error)))
        what = f"{type(error).__name__}: {str(error)[:500]}"
        bug = errors.InternalError(what, why="The details are in the log of this job.", fix="Please report it.")
        evidences.append(_failed(job, chosen, bug))
    return chosen, evidences


def _wants_gpu(one: Settings) -> bool:
    return one.backend.startswith("tensorrt") or one.device.startswith("cuda")


def _failed(job: Job, chosen: Sequence[Settings], error: errors.TrtActionError) -> Evidence:
    evidence = draft.stopped_early(chosen, job.source(), error)
    report.write_evidence(evidence, job.output(list(chosen)))
    return evidence


def _built(job: Job) -> dict[str, str]:
    """Name → digest of the engines that the build job made for this commit; empty where there was none."""
    path = job.handed / BUILT
    try:
        content = path.read_bytes() if path.stat().st_size <= MAX_BUILT_BYTES else b""
        record = json.loads(content or b"{}")
        if record.get("commit") != job.activity.measured_commit:
            return {}
        return {str(name): str(one["sha256"]) for name, one in record["engines"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _compare_with_built(job: Job, name: str, evidence: Evidence, built: dict[str, str]) -> None:
    """The measured engine is what counts, and what is published; a reader may wonder why it is not the built one."""
    if evidence.head is None or name not in built:
        return
    if evidence.head.engine.sha256 == built[name]:
        job.say(f"{name}: measured the engine of the build job, {built[name]}")
    else:
        job.say(
            f"{name}: the engine of the build job does not fit here (another host or other versions?); "
            f"{evidence.head.engine.sha256} was built and measured instead"
        )


def read_kept(job: Job) -> list[Path]:
    """The version folders that the test job has kept, by name.

    Raises:
        NotPublishedError: there is none.
    """
    folder = job.handed / "kept"
    found = sorted(one for one in folder.iterdir() if one.is_dir() and not one.is_symlink()) if folder.is_dir() else []
    if not found:
        raise errors.NotPublishedError(
            f"Nothing is published: {quote(job.shown(folder))} holds no engine.",
            why="The test job keeps what it has measured in pipelines that publish, and hands it over as an artifact.",
            fix="Let this job `needs:` the test job, and let that one keep `.trt-action/` in `artifacts: paths`.",
        )
    return found
