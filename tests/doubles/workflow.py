"""Runs the jobs of a workflow file step by step, as far as the example workflows go.

Expressions, `if`, matrix, `needs`, outputs and artifacts behave as GitHub documents them
(docs.github.com/actions, "Evaluate expressions", "Workflow syntax"); whatever else a workflow uses is an error here and
not skipped. The action itself runs through `runner.Runner`. actions/checkout finds its work done: the runner's workspace
is the checkout. upload-artifact and download-artifact copy, with the folder rules of their READMEs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.doubles.runner import Step

RunAction = Callable[[dict[str, str]], Step]
"""Runs the action under test with these inputs."""

CHECKOUT_INPUTS = {"lfs", "persist-credentials", "fetch-depth"}
_TOKEN = re.compile(r"\s*(&&|\|\||==|!=|!|\(|\)|'(?:[^']|'')*'|[A-Za-z_][\w.-]*)")


@dataclass
class Leg:
    """One job (one combination of its matrix): what its steps said."""

    name: str
    result: str = "success"
    steps: list[Step | str] = field(default_factory=list)
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def actions(self) -> list[Step]:
        """The runs of the action under test."""
        return [step for step in self.steps if isinstance(step, Step)]


class Workflow:
    """One run of a workflow. `change` may alter the inputs of the action, e.g. a registry that cannot be had here."""

    def __init__(
        self,
        path: Path,
        workspace: Path,
        artifacts: Path,
        run_action: RunAction,
        github: Mapping[str, Any],
        change: Callable[[dict[str, str]], dict[str, str]] = lambda inputs: inputs,
        secrets: Mapping[str, str] | None = None,
    ) -> None:
        self._jobs: dict[str, Any] = yaml.safe_load(path.read_text())["jobs"]
        self._workspace, self._artifacts = workspace, artifacts
        self._run_action, self._change = run_action, change
        self._github = github
        self._secrets = secrets or {}

    def run(self) -> dict[str, list[Leg]]:
        """Every job in the order of `needs`: its legs."""
        done: dict[str, list[Leg]] = {}
        for name, job in self._jobs.items():
            needs = [job["needs"]] if isinstance(job.get("needs"), str) else job.get("needs", [])
            results = {one: {"result": _worst(done[one])} for one in needs}
            green = all(one["result"] == "success" for one in results.values())
            context = {"github": self._github, "needs": results, "secrets": self._secrets}
            if not self._holds(job.get("if"), context, green=green):
                done[name] = [Leg(name, "skipped")]
                continue
            done[name] = [self._leg(name, job, {**context, "matrix": row}) for row in _rows(job)]
        return done

    def _leg(self, name: str, job: Mapping[str, Any], context: dict[str, Any]) -> Leg:
        leg = Leg(name)
        context["steps"] = {}
        for step in job["steps"]:
            if not self._holds(step.get("if"), context, green=leg.result == "success"):
                continue
            code = self._step(step, context, leg)
            if code:
                leg.result = "failure"
        return leg

    def _step(self, step: Mapping[str, Any], context: dict[str, Any], leg: Leg) -> int:
        inputs = {name: self._text(value, context) for name, value in step.get("with", {}).items()}
        if "run" in step:
            env = {name: self._text(value, context) for name, value in step.get("env", {}).items()}
            return self._shell(step["run"], env, leg)
        uses = step["uses"].partition("@")[0]
        if uses == "actions/checkout":
            assert set(inputs) <= CHECKOUT_INPUTS, inputs
        elif uses == "actions/upload-artifact":
            self._upload(inputs)
        elif uses == "actions/download-artifact":
            self._download(inputs)
        elif uses == "ORG/trt-action":
            result = self._run_action(self._change(inputs))
            leg.steps.append(result)
            context["steps"][step.get("id", "")] = {"outputs": result.outputs}
            return result.exit_code
        else:
            raise NotImplementedError(uses)
        return 0

    def _shell(self, script: str, env: Mapping[str, str], leg: Leg) -> int:
        """`bash -e {0}`, the default shell of a `run` step on Linux."""
        assert "${{" not in script, "expressions in scripts are an injection: use env"
        done = subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=self._workspace,
            env={"PATH": os.environ["PATH"], **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        leg.steps.append(done.stdout + done.stderr)
        return done.returncode

    def _upload(self, inputs: Mapping[str, str]) -> None:
        found = [path for path in self._workspace.glob(inputs["path"]) if path.is_file()]
        assert found, f"upload-artifact found nothing at {inputs['path']}"
        top = found[0].parent if len(found) == 1 else Path(os.path.commonpath(found))
        for path in found:
            target = self._artifacts / inputs["name"] / path.relative_to(top)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        for path in found:
            path.unlink()  # the next job gets a fresh workspace

    def _download(self, inputs: Mapping[str, str]) -> None:
        names = [inputs["name"]] if "name" in inputs else [p.name for p in self._artifacts.glob(inputs["pattern"])]
        for name in names:
            target = self._workspace / inputs["path"] / ("" if "name" in inputs else name)
            shutil.copytree(self._artifacts / name, target, dirs_exist_ok=True)

    def _holds(self, condition: object, context: Mapping[str, Any], *, green: bool) -> bool:
        """A condition without a status function means `success() && …`."""
        if condition is None:
            return green
        text = str(condition).strip().removeprefix("${{").removesuffix("}}")
        value = bool(_Expression(text, context).value())
        return value if re.search(r"\b(always|cancelled|failure)\(\)", text) else green and value

    def _text(self, value: object, context: Mapping[str, Any]) -> str:
        text = str(value).lower() if isinstance(value, bool) else str(value)
        return re.sub(r"\$\{\{(.*?)\}\}", lambda found: _plain(_Expression(found[1], context).value()), text)


class _Expression:
    """Names, strings, `==`, `!=`, `!`, `&&`, `||`, brackets, `always()` and `cancelled()`."""

    def __init__(self, text: str, context: Mapping[str, Any]) -> None:
        self._tokens = _tokens(text)
        self._context = context

    def value(self) -> Any:
        found = self._either()
        assert not self._tokens, f"not understood: {self._tokens}"
        return found

    def _either(self) -> Any:
        left = self._both()
        while self._take("||"):
            right = self._both()
            left = left or right
        return left

    def _both(self) -> Any:
        left = self._equal()
        while self._take("&&"):
            right = self._equal()
            left = left and right
        return left

    def _equal(self) -> Any:
        left = self._one()
        if self._take("=="):
            return left == self._one()
        if self._take("!="):
            return left != self._one()
        return left

    def _one(self) -> Any:
        if self._take("!"):
            return not self._one()
        if self._take("("):
            inside = self._either()
            assert self._take(")")
            return inside
        token = self._tokens.pop(0)
        if token.startswith("'"):
            return token[1:-1].replace("''", "'")
        if self._take("("):
            assert self._take(")")
            return {"always": True, "cancelled": False}[token]
        value: Any = self._context
        for part in token.split("."):
            value = value[part]
        return value

    def _take(self, token: str) -> bool:
        if self._tokens and self._tokens[0] == token:
            self._tokens.pop(0)
            return True
        return False


def _tokens(text: str) -> list[str]:
    found, end = [], 0
    while text[end:].strip():
        match = _TOKEN.match(text, end)
        assert match, f"not understood: {text[end:]}"
        found.append(match[1])
        end = match.end()
    return found


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _rows(job: Mapping[str, Any]) -> list[dict[str, Any]]:
    matrix = job.get("strategy", {}).get("matrix")
    if not matrix:
        return [{}]
    ((name, values),) = matrix.items()
    return [{name: value} for value in values]


def _worst(legs: list[Leg]) -> str:
    results = {leg.result for leg in legs}
    return next((one for one in ("failure", "skipped") if one in results), "success")
