"""`trt-action gitlab STAGE`: the jobs of a GitLab pipeline, each from the same image."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from trt_action import __version__

STAGES = {
    "build": "build the engines into the folder that goes to the next job",
    "test": "measure and judge them; note on the merge request, reports for GitLab",
    "report": "put what several test jobs have measured (a matrix) into one note",
    "publish": "publish what was measured (default branch), or give a release its tags (tag)",
}


def add(commands: Any) -> None:
    """Declare the command (`commands`: what `ArgumentParser.add_subparsers` returned)."""
    gitlab = commands.add_parser(
        "gitlab", help="the jobs of a GitLab pipeline: build, test, report, publish (docs/gitlab.md)"
    )
    stages = gitlab.add_subparsers(title="stages", metavar="STAGE", required=True)
    for name, text in STAGES.items():
        stages.add_parser(name, help=text).set_defaults(command=_run, stage=name)


def _run(arguments: argparse.Namespace) -> int:
    _first_line()
    from trt_action import process

    process.hide_environment()
    from trt_action import gitlab_stages
    from trt_action.gitlab_job import Job

    job = Job.of(dict(os.environ))
    job.say(f"{job.activity.kind}: {job.activity.reason}")
    run = {
        "build": gitlab_stages.build,
        "test": gitlab_stages.test,
        "report": gitlab_stages.report_others,
        "publish": gitlab_stages.publish,
    }
    return run[arguments.stage](job)


def _first_line() -> None:
    """Before anything heavy is imported: whoever watches the log sees at once that it lives."""
    names = ("CI_PIPELINE_SOURCE", "CI_PROJECT_PATH", "CI_COMMIT_REF_NAME", "CI_COMMIT_SHA")
    line = " · ".join([f"trt-action {__version__}", *(os.environ[name] for name in names if os.environ.get(name))])
    sys.stdout.write("".join(c if c.isprintable() else " " for c in line) + "\n")
    sys.stdout.flush()
