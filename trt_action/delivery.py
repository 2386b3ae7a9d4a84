"""How a run's results reach the workflow and the pull request: files, summary, comment, check, annotations, outputs.

What cannot be delivered is told and changes no verdict: the exit code comes from the evidence.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from trt_action import console, errors, judge, report, results
from trt_action.console import clean
from trt_action.draft import error_info
from trt_action.evidence import Evidence
from trt_action.github import checks, commands, report_job
from trt_action.github import comment as comments
from trt_action.github.comment import CommentResult, Run
from trt_action.job import Job, read_payload
from trt_action.report import gathered
from trt_action.report.headline import headline, overall
from trt_action.results import Shipped, Written
from trt_action.settings import Settings

SMALLEST_SUMMARY = 1_000
"""Bytes; with less room left in the step's summary, nothing is added."""


def deliver(job: Job, chosen: Sequence[Settings], evidences: Sequence[Evidence], kept: Path) -> int:
    """Everything that a measuring step owes its readers. Returns the exit code.

    Args:
        chosen: the settings of each evidence; empty if they could not be read.
        kept: where the engines lie that may be published, called as their place in `chosen`.

    Raises:
        StorageError: the workspace or the runner's files cannot be written.
    """
    notes = commands.Annotations()
    code = exit_code(evidences, chosen)
    files, template, template_code = _files(job, chosen, evidences, notes)
    code = code or template_code
    _summary(job, evidences)
    result = _comment(job, evidences, template) if code != errors.InterruptedRunError.exit_code else _STOPPED
    _tell_comment(job, result, notes)
    _check(job, evidences)
    config = chosen[0].config_file if chosen else None
    for one in evidences:
        results.annotate(notes, one, job.workspace, config, report_only=job.inputs.report_only)
    with commands.foreign():
        for one in evidences:
            console.console(sys.stdout).show(report.terminal(one))
    shipped, shipping_code = _publish(job, evidences, kept, notes, code)
    _outputs(evidences, files, result.url, shipped)
    recording_code = _record(job, chosen, evidences, shipped, notes, published=not (code or shipping_code))
    return _report_only(job, code, notes) or shipping_code or recording_code


_STOPPED = CommentResult(None, False, "No comment: the run was stopped before its end.")


def folder_of(one: Settings, chosen: Sequence[Settings]) -> Path:
    """Where the evidence of one of the models goes."""
    return one.output if len(chosen) == 1 else chosen[0].output / report.slug(one.display_name)


def exit_code(evidences: Sequence[Evidence], chosen: Sequence[Settings]) -> int:
    """An error's own code before 1, 1 before 3, 3 before 0; each model by its own `on-inconclusive`."""
    rules = [one.on_inconclusive for one in chosen[: len(evidences)]] or ["pass"] * len(evidences)
    return judge.exit_code_of_all(evidences, rules)


def _files(
    job: Job, chosen: Sequence[Settings], evidences: Sequence[Evidence], notes: commands.Annotations
) -> tuple[Written, Path | None, int]:
    """Comment, summary and report beside the evidence. A broken template of the user's is an error of its own, and
    the results are shown without it: (files, usable template, exit code)."""
    folder = chosen[0].output if chosen else job.default_output
    template, code = (chosen[0].template if chosen else None), 0
    try:
        written = report.write(evidences, folder, template=template)
    except errors.SettingsError as error:
        results.annotate_error(notes, error_info(error), job.workspace)
        template, code = None, error.exit_code
        written = report.write(evidences, folder)
    folders = [folder_of(one, chosen) for one in chosen[: len(evidences)]] or [folder]
    files = Written(tuple(job.shown(place / "evidence.json") for place in folders), job.shown(written["report"]))
    return files, template, code


def _summary(job: Job, evidences: Sequence[Evidence]) -> None:
    budget = commands.summary_budget(job.env)
    if job.inputs.summary and budget > SMALLEST_SUMMARY:
        commands.summary(report.summary(evidences, budget=budget), job.env)


def _comment(job: Job, evidences: Sequence[Evidence], template: Path | None) -> CommentResult:
    """The comment on the pull request of this event."""
    pull = job.activity.pull_request
    if pull is None:
        return CommentResult(None, False, "No comment: this event belongs to no pull request.")
    if job.inputs.comment == "false":
        return CommentResult(None, False, "No comment: `comment: false`.")
    client = job.client(commands.plain)
    if client is None:
        return CommentResult(None, False, "No comment: there is no token (`github-token`).")
    body = report.comment(evidences, template=template, budget=comments.BUDGET, comment_id=job.inputs.comment_id)
    create = job.inputs.comment != "changes-only" or comments.worth_starting(evidences)
    try:
        return comments.upsert(
            client,
            job.repository,
            pull.number,
            job.inputs.comment_id,
            body,
            head_sha=pull.head_sha,
            run=job.run(),
            create=create,
        )
    except errors.GitHubError as error:
        return CommentResult(None, False, f"No comment: {error.what} {error.fix}".strip())


def _tell_comment(job: Job, result: CommentResult, notes: commands.Annotations) -> None:
    where = f" {result.url}" if result.url else ""
    commands.plain(result.reason + where)
    if result.posted or job.activity.pull_request is None or job.inputs.comment == "false":
        return
    if not job.activity.can_write:
        commands.plain(
            "The token of a fork's or Dependabot's pull request may only read. The job summary holds the results; to "
            "have a comment, upload the evidence and report it from a `workflow_run` workflow (README, Forks)."
        )
    if job.inputs.comment == "true":
        notes.add("warning", clean(result.reason), title="No comment")


def _check(job: Job, evidences: Sequence[Evidence]) -> None:
    """The optional check run or commit status."""
    kind, commit = job.inputs.check_run, job.activity.commit
    client = job.client(commands.plain)
    if kind == "false" or client is None or not commit:
        return
    try:
        result = checks.publish(
            client,
            job.repository,
            kind=kind,
            sha=commit,
            outcome=judge.overall(evidences),
            title=str(headline(evidences[0]) if len(evidences) == 1 else overall(evidences)),
            summary=report.summary(evidences, budget=checks.SUMMARY_BYTES),
            run_url=job.run_url,
            trusted=job.activity.trusted or job.activity.kind != "report",
            name="trt-action" if job.inputs.comment_id == "default" else f"trt-action ({job.inputs.comment_id})",
        )
    except errors.GitHubError as error:
        commands.plain(f"The check could not be set: {error.what}")
    else:
        commands.plain(result.reason)


def _outputs(
    evidences: Sequence[Evidence], files: Written, comment_url: str | None, shipped: Shipped | None = None
) -> None:
    for name, value in results.outputs(evidences, files, comment_url, shipped).items():
        commands.output(name, value)


def _publish(
    job: Job, evidences: Sequence[Evidence], kept: Path, notes: commands.Annotations, code: int
) -> tuple[Shipped, int]:
    """The images of a run that held: (what is there now, exit code). A run that did not hold publishes nothing."""
    if job.activity.kind != "publish":
        return Shipped(), 0
    if code or any(one.error for one in evidences):
        commands.plain("Nothing is published: not every rule of this run holds.")
        return Shipped(), 0
    from trt_action import shipping

    try:
        shipped = shipping.ship(job, evidences, [kept / str(place) for place in range(len(evidences))])
    except errors.TrtActionError as error:
        results.annotate_error(notes, error_info(error), job.workspace)
        return Shipped(), error.exit_code
    return _hand_on(job, shipped, notes)


def _hand_on(job: Job, shipped: Shipped, notes: commands.Annotations) -> tuple[Shipped, int]:
    """Deploy what is there now, if the inputs say where: (what to tell, exit code). The image stays, come what may."""
    code = 0
    if job.inputs.deploy.anything:
        from trt_action import handing

        def keep(so_far: Shipped) -> None:
            nonlocal shipped
            shipped = so_far

        try:
            handing.after(job, shipped, keep)
        except errors.TrtActionError as error:
            results.annotate_error(notes, error_info(error), job.workspace)
            code = error.exit_code
    _add_to_summary(job, shipped.summary)
    return shipped, code


def _record(
    job: Job,
    chosen: Sequence[Settings],
    evidences: Sequence[Evidence],
    shipped: Shipped,
    notes: commands.Annotations,
    *,
    published: bool,
) -> int:
    """The runs in MLflow, if the settings name a server. Only what is published becomes a version of a registered model;
    a fork's run, whose settings are its own, is not recorded."""
    from trt_action import bookkeeping

    if not job.activity.trusted:
        if any(one.mlflow_tracking_uri for one in chosen):
            commands.plain("Nothing is recorded in MLflow: this is a fork's run.")
        return 0

    def tell(error: errors.TrtActionError, required: bool) -> None:
        text = clean(f"{error.what} {error.fix}".strip())
        notes.add("error" if required else "warning", text, title="Not recorded in MLflow")

    return bookkeeping.keep(
        evidences,
        chosen,
        job.env,
        images=[f"{one['image']}@{one['digest']}" for one in shipped.outputs.get("images", [])],
        register=published and job.activity.kind == "publish",
        log=commands.plain,
        tell=tell,
    )


def promote(job: Job) -> int:
    """Activity `promote`: release tags for what was measured. Returns the exit code.

    Raises:
        SettingsError, VerificationError, RegistryError, GitError: see `shipping.release`.
    """
    from trt_action import shipping

    shipped, code = _hand_on(job, shipping.release(job), commands.Annotations())
    _outputs([], Written(()), None, shipped)
    return code


def _add_to_summary(job: Job, text: str) -> None:
    if text and job.inputs.summary and commands.summary_budget(job.env) > len(text.encode()):
        commands.summary(text, job.env)


def _report_only(job: Job, code: int, notes: commands.Annotations) -> int:
    if job.inputs.report_only and code in (errors.EXIT_GATE_FAILED, errors.EXIT_INCONCLUSIVE):
        text = f"A gate does not hold (exit code {code}); `report-only: true` keeps the job green."
        notes.add("warning", text, title="report-only")
        return errors.EXIT_PASSED
    return code


def report_others(job: Job) -> int:
    """Activity `report`: the evidence of other jobs becomes one comment. Returns the exit code.

    Raises:
        SettingsError, EvidenceError, GitHubError: see `github.report_job.run`.
        StorageError: the runner's files cannot be written.
    """
    template = job.env.get("INPUT_TEMPLATE", "").strip()
    result = report_job.run(
        job.client(commands.plain),
        job.inputs,
        job.activity,
        job.repository,
        folder=job.workspace,
        run=_run_of_evidence(job),
        on_inconclusive=job.inputs.on_inconclusive,
        template=job.workspace / template if template else None,
        log=commands.plain,
    )
    for note in result.notes:
        commands.plain(note)
    _summary(job, result.evidences)
    _check(job, result.evidences)
    paths = gathered.find(job.inputs.evidence, job.workspace)
    url = next((one.url for one in result.comments if one.url), None)
    _outputs(result.evidences, Written(tuple(job.shown(path) for path in paths)), url)
    notes = commands.Annotations()
    for one in result.evidences:
        results.annotate(notes, one, job.workspace, None, report_only=job.inputs.report_only)
    return _report_only(job, result.exit_code, notes)


def _run_of_evidence(job: Job) -> Run:
    """For `workflow_run` the run that measured, so that a late report of an old run does not win."""
    measured = read_payload(job.env).get("workflow_run")
    if not isinstance(measured, dict):
        return job.run()
    numbers = {"GITHUB_RUN_ID": measured.get("id"), "GITHUB_RUN_ATTEMPT": measured.get("run_attempt")}
    try:
        started = datetime.fromisoformat(str(measured.get("run_started_at"))).timestamp()
    except ValueError:
        started = job.started
    return comments.run_of({name: str(value) for name, value in numbers.items()}, started)
