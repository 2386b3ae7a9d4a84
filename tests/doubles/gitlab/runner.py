"""What GitLab Runner's docker executor does around a job: variables, checkout, script, artifacts, masks.

After https://docs.gitlab.com/runner/executors/docker/ and /ci/variables/#cicd-variable-precedence. `executor` is this host's
shell (fast) or Docker: there the image's entrypoint is what the job says, and the script comes by stdin. Every job gets a
fresh checkout and only the artifacts of the jobs that it needs; a variable of the project reaches a job only if its
protection and its environment scope allow it. One thing differs: the container shares this host's network.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.doubles.gitlab import ci

INSIDE = "/builds/acme/models"


@dataclass(frozen=True)
class Variable:
    """A variable of the project."""

    name: str
    value: str
    protected: bool = False
    masked: bool = False
    scope: str = "*"


@dataclass
class Done:
    """A job that has ended. `raw` is what it printed, `log` what GitLab shows."""

    exit_code: int
    raw: str
    log: str
    env: dict[str, str]
    workspace: Path
    artifacts: list[str] = field(default_factory=list)

    def dotenv(self, config: Mapping[str, Any]) -> dict[str, str]:
        """The variables of its dotenv report, as GitLab parses and checks it."""
        path = self.workspace / config["artifacts"]["reports"]["dotenv"]
        return read_dotenv(path.read_text()) if path.is_file() else {}


@dataclass
class Runner:
    """One project on one runner.

    Args:
        origin: the repository; every job clones it.
        folder: where checkouts and artifacts go.
        image: a local image that stands for the one that jobs name; None: this host's shell, with `path` first on PATH.
    """

    origin: Path
    folder: Path
    config: dict[str, Any]
    variables: Sequence[Variable] = ()
    image: str | None = None
    path: str = ""
    seconds: float = 600

    def pipeline(self, env: Mapping[str, str], *, protected: bool) -> dict[str, Done]:
        """Run the jobs of a pipeline; those after a failed one are not started."""
        done: dict[str, Done] = {}
        every = ci.jobs(self.config)
        chosen = {name: job for name, job in every.items() if ci.runs(job, env)}
        for name, job in chosen.items():
            needed = list(_needed(name, job, chosen))
            if all(done[one].exit_code == 0 for one in needed if one in done) and set(needed) <= set(done):
                given = {one: done[one] for one in needed}
                done[name] = self.job(name, job, env, given, protected=protected)
        return done

    def job(
        self, name: str, job: Mapping[str, Any], env: Mapping[str, str], needed: Mapping[str, Done], *, protected: bool
    ) -> Done:
        """One job. `needed`: the jobs whose artifacts and dotenv variables it gets."""
        workspace = self.folder / f"{name}-{uuid4().hex[:8]}"
        _checkout(self.origin, workspace, env["CI_COMMIT_SHA"])
        config = ci.jobs(self.config)
        passed: dict[str, str] = {}
        for one, before in needed.items():
            for relative in before.artifacts:
                _copy(before.workspace / relative, workspace / relative)
            if "dotenv" in config[one].get("artifacts", {}).get("reports", {}):
                passed |= before.dotenv(config[one])
        inside = INSIDE if self.image else str(workspace)
        variables = self._variables(name, job, env, passed, inside, protected=protected)
        raw, code = self._run(job, variables, workspace)
        log = raw
        for secret in [one.value for one in self.variables if one.masked] + [env["CI_JOB_TOKEN"]]:
            log = log.replace(secret, "[MASKED]")
        found = Done(code, raw, log, variables, workspace)
        artifacts = job.get("artifacts", {})
        if code == 0 or artifacts.get("when") == "always":
            found.artifacts = sorted(_matching(workspace, artifacts))
        return found

    def _variables(
        self,
        name: str,
        job: Mapping[str, Any],
        env: Mapping[str, str],
        passed: Mapping[str, str],
        inside: str,
        *,
        protected: bool,
    ) -> dict[str, str]:
        """Predefined, then the file's, then dotenv reports, then the project's; later ones win."""
        scope = (job.get("environment") or {}).get("name", "")
        predefined = {**env, "CI_JOB_NAME": name, "CI_PROJECT_DIR": inside, "CI_BUILDS_DIR": "/builds"}
        if scope:
            predefined |= {"CI_ENVIRONMENT_NAME": scope}
        project = {
            one.name: one.value
            for one in self.variables
            if (protected or not one.protected)
            and (one.scope == "*" or (scope and fnmatch.fnmatchcase(scope, one.scope)))
        }
        found = {**predefined, **{key: str(one) for key, one in job["variables"].items()}, **passed, **project}
        return {
            key: re.sub(r"\$\{?(\w+)\}?", lambda m: found.get(m[1], ""), text) if key in job["variables"] else text
            for key, text in found.items()
        }

    def _run(self, job: Mapping[str, Any], variables: Mapping[str, str], workspace: Path) -> tuple[str, int]:
        lines = [*job.get("before_script", []), *job["script"]]
        image = job["image"] if isinstance(job["image"], dict) else {"name": job["image"]}
        if self.image is None:
            command = ["bash"]
            env = {"PATH": f"{self.path}:{os.environ['PATH']}", "HOME": str(self.folder), **variables}
            script = _script(lines, str(workspace))
        else:
            entrypoint = image.get("entrypoint")
            command = [
                "docker",
                "run",
                "--rm",
                "--interactive",
                "--network",
                "host",
                "--volume",
                f"{workspace}:{INSIDE}",
            ]
            command += [word for key in variables for word in ("--env", key)]
            command += ["--entrypoint", entrypoint[0]] if entrypoint else []
            command += [self.image, "sh", "-c", "if [ -x /bin/bash ]; then exec /bin/bash; else exec /bin/sh; fi"]
            env = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **variables}
            script = _script(lines, INSIDE)
        done = subprocess.run(
            command, input=script, env=env, cwd=workspace, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", timeout=self.seconds, check=False,
        )  # fmt: skip
        return done.stdout, done.returncode


def _script(lines: Iterable[str], folder: str) -> str:
    """As the runner writes it: stops at the first line that fails, and shows each line before it runs."""
    shown = [f"echo {_quoted('$ ' + line)}\n{line}" for line in lines]
    return "\n".join(["set -eo pipefail", f"cd {_quoted(folder)}", *shown, "exit 0", ""])


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _needed(name: str, job: Mapping[str, Any], chosen: Mapping[str, Any]) -> Iterable[str]:
    """The jobs whose artifacts it gets; one that is not in the pipeline must be optional."""
    for one in job.get("needs", []):
        needed = one if isinstance(one, str) else one["job"]
        if needed in chosen:
            yield needed
        else:
            optional = not isinstance(one, str) and one.get("optional")
            assert optional, f"`{name}` needs `{needed}`, which is not in the pipeline"


def _checkout(origin: Path, workspace: Path, sha: str) -> None:
    for command in (
        ["git", "clone", "--quiet", "--no-checkout", str(origin), str(workspace)],
        ["git", "-C", str(workspace), "checkout", "--quiet", "--detach", sha],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr


def _matching(workspace: Path, artifacts: Mapping[str, Any]) -> set[str]:
    reports = list((artifacts.get("reports") or {}).values())
    found = set()
    for pattern in [*artifacts.get("paths", []), *reports]:
        for path in workspace.glob(pattern.rstrip("/")):
            inside = path.rglob("*") if path.is_dir() else [path]
            found |= {str(one.relative_to(workspace)) for one in inside if one.is_file()}
    return found


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def read_dotenv(text: str) -> dict[str, str]:
    """The rules of https://docs.gitlab.com/ci/yaml/artifacts_reports/#artifactsreportsdotenv."""
    assert len(text.encode()) <= 5_000
    found = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        assert equals, f"no assignment: {line!r}"
        assert re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII), name
        found[name] = value.strip()
    assert len(found) <= 20
    return found
