"""How a job's results reach GitLab: files for its reports, the note on the merge request, a commit status, the log.

What cannot be delivered is told and changes no verdict: the exit code comes from the evidence.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trt_action import console, errors, files, judge, report, results
from trt_action.discussion import CommentResult, worth_starting
from trt_action.draft import error_info
from trt_action.evidence import ErrorInfo, Evidence
from trt_action.gitlab import note, status
from trt_action.gitlab_job import Job
from trt_action.report.headline import headline, overall
from trt_action.results import Shipped, Written
from trt_action.settings import Settings

JUNIT, METRICS, OUTPUTS, PUBLISHED = "junit.xml", "metrics.txt", "outputs.env", "published.env"
"""Beside the evidence: for `artifacts: reports: junit`, `metrics` and `dotenv`."""

PREFIX = "TRT_RESULT_"
"""Of variables in a dotenv report. Not `TRT_ACTION_`: a later job would take `TRT_ACTION_TAGS` for a setting."""

MAX_DOTENV_BYTES = 5_000
"""GitLab refuses the report above 5 KB, or with more than 20 variables on some plans."""
_PLAIN = re.compile(r"[\w./:@+,=~-]{0,1000}", re.ASCII)
_DOTENV = ("outcome", "verdict", "p50-ms", "p99-ms", "speedup", "accuracy", "accuracy-drop", "engine", "comment-url")
_DOTENV_PUBLISHED = ("image", "digest", "tags")


def deliver(job: Job, chosen: Sequence[Settings], evidences: Sequence[Evidence]) -> int:
    """Everything that a test job owes its readers. Returns the exit code.

    Raises:
        StorageError: the workspace cannot be written.
    """
    rules = [one.on_inconclusive for one in chosen[: len(evidences)]]
    rules += ["pass"] * (len(evidences) - len(rules))
    code = judge.exit_code_of_all(evidences, rules)
    template, template_code = _files(job, chosen, evidences)
    code = code or template_code
    stopped = code == errors.InterruptedRunError.exit_code
    result = _STOPPED if stopped else _note(job, evidences, template)
    job.say(result.reason + (f" {result.url}" if result.url else ""))
    if job.inputs.status and not stopped:
        _status(job, evidences)
    for one in evidences:
        if one.error:
            tell_error(job, one.error)
        for warning in one.warnings:
            job.say(f"! {warning}")
        console.console(sys.stdout).show(report.terminal(one))
    _outputs(job, chosen, evidences, result.url)
    # what will be published is recorded by the publishing job, which knows the image
    here = [
        (evidence, one)
        for evidence, one in zip(evidences, chosen, strict=False)
        if code or job.activity.kind != "publish" or evidence.llm
    ]
    recorded = record(job, [evidence for evidence, _ in here], [one for _, one in here])
    code = code or recorded
    if job.inputs.report_only and code in (errors.EXIT_GATE_FAILED, errors.EXIT_INCONCLUSIVE):
        job.say(f"! A gate does not hold (exit code {code}); `report-only: true` keeps the job green.")
        return errors.EXIT_PASSED
    return code


_STOPPED = CommentResult(None, False, "No note: the job was stopped before its end.")


def record(
    job: Job,
    evidences: Sequence[Evidence],
    chosen: Sequence[Settings],
    *,
    images: Sequence[str] = (),
    register: bool = False,
) -> int:
    """The runs in MLflow, if the settings name a server; not a fork's, whose settings are its own. Returns the exit code."""
    from trt_action import bookkeeping

    if not job.activity.trusted:
        return errors.EXIT_PASSED

    def tell(error: errors.TrtActionError, required: bool) -> None:
        job.say(f"{'Error' if required else '!'} Not recorded in MLflow: {error.what} {error.fix}".strip())

    return bookkeeping.keep(evidences, chosen, job.env, images=images, register=register, log=job.say, tell=tell)


def folder_of(one: Settings, chosen: Sequence[Settings]) -> Path:
    """Where the evidence of one of the models goes."""
    return one.output if len(chosen) == 1 else chosen[0].output / report.slug(one.display_name)


def tell_error(job: Job, error: ErrorInfo) -> None:
    """What, why and next step, in the log."""
    job.say(f"{error.title} (exit code {error.exit_code})")
    for label, text in (("What", error.what), ("Why", error.why), ("Next", error.fix)):
        if text:
            job.say(f"  {label}: {text}")


def shipped(job: Job, done: Shipped) -> None:
    """What was published or promoted: the log, a file to read, and variables for later jobs; nothing of nothing.

    Raises:
        StorageError: the workspace cannot be written.
    """
    if not done.summary:
        return
    folder = job.output([])
    job.say(done.summary)
    files.write_atomic(folder / "published.md", done.summary)
    files.write_atomic(folder / PUBLISHED, dotenv({name: done.outputs.get(name) for name in _DOTENV_PUBLISHED}))


def dotenv(values: Mapping[str, Any]) -> str:
    """Lines of a dotenv report. A value that is more than one plain word does not go in: GitLab takes one line, expands
    `$`, and a later job's shell would read the rest; of several lines the first one that fits is taken."""
    lines: list[str] = []
    for name, value in values.items():
        text = "" if value is None else str(value)
        first = next((line for line in text.splitlines() if _PLAIN.fullmatch(line)), "")
        lines.append(f"{PREFIX}{name.upper().replace('-', '_')}={first}")
    while len("\n".join(lines).encode()) >= MAX_DOTENV_BYTES:
        lines.pop()
    return "\n".join([*lines, ""])


def _files(job: Job, chosen: Sequence[Settings], evidences: Sequence[Evidence]) -> tuple[Path | None, int]:
    """Note, summary, report and GitLab's reports. A broken template of the user's is an error of its own, and the
    results are shown without it: (usable template, exit code)."""
    folder = job.output(list(chosen))
    template, code = (chosen[0].template if chosen else None), 0
    try:
        report.write(evidences, folder, template=template)
    except errors.SettingsError as error:
        tell_error(job, error_info(error))
        template, code = None, error.exit_code
        report.write(evidences, folder)
    files.write_atomic(folder / JUNIT, report.junit(evidences))
    files.write_atomic(folder / METRICS, report.metrics(evidences))
    return template, code


def _outputs(job: Job, chosen: Sequence[Settings], evidences: Sequence[Evidence], url: str | None) -> None:
    values = results.outputs(evidences, Written(()), url)
    files.write_atomic(job.output(list(chosen)) / OUTPUTS, dotenv({name: values[name] for name in _DOTENV}))


def _note(job: Job, evidences: Sequence[Evidence], template: Path | None) -> CommentResult:
    """The note on the merge request of this pipeline."""
    merge_request = job.activity.merge_request
    if merge_request is None:
        return CommentResult(None, False, "No note: this pipeline belongs to no merge request.")
    if job.inputs.comment == "false":
        return CommentResult(None, False, "No note: `comment: false`.")
    if not job.activity.trusted:
        return CommentResult(None, False, _fork(job))
    if job.inputs.token is None:
        return CommentResult(None, False, _TOKENLESS)
    body = report.comment(evidences, template=template, budget=note.BUDGET, comment_id=job.inputs.comment_id)
    create = job.inputs.comment != "changes-only" or worth_starting(evidences)
    run = note.run_of(job.env)
    try:
        with job.client(job.say) as client:
            assert client is not None  # noqa: S101 - there is a token
            return note.upsert(client, merge_request, job.inputs.comment_id, body, run=run, create=create)
    except (errors.GitLabError, errors.SettingsError) as error:
        return CommentResult(None, False, f"No note: {error.what} {error.fix}".strip())


_TOKENLESS = (
    "No note: there is no token. CI_JOB_TOKEN may not write notes; give the job TRT_ACTION_GITLAB_TOKEN, a project access "
    "token with the scope `api` (docs/gitlab.md). The results are in the job's artifacts."
)


def _fork(job: Job) -> str:
    text = "No note: the merge request comes from a fork, and its jobs use no secret. The results are in the artifacts."
    if job.inputs.token is not None:
        text += " ! A token of this project is visible to this job, and so to the fork's code: protect the variable."
    return text


def _status(job: Job, evidences: Sequence[Evidence]) -> None:
    """The optional commit status."""
    project, pipeline = job.env.get("CI_PROJECT_ID", ""), job.env.get("CI_PIPELINE_ID", "")
    if job.inputs.token is None or not job.activity.trusted or not project.isdecimal():
        job.say("No commit status: there is no token, or the merge request comes from a fork.")
        return
    identity = job.inputs.comment_id
    try:
        with job.client(job.say) as client:
            assert client is not None  # noqa: S101 - there is a token
            said = status.publish(
                client,
                int(project),
                job.activity.commit,
                judge.overall(evidences),
                str(headline(evidences[0]) if len(evidences) == 1 else overall(evidences)),
                name="trt-action" if identity == "default" else f"trt-action ({identity})",
                pipeline=int(pipeline) if pipeline.isdecimal() else None,
                target_url=job.env.get("CI_JOB_URL"),
            )
    except (errors.GitLabError, errors.SettingsError) as error:
        said = f"The commit status could not be set: {error.what}"
    job.say(said)
