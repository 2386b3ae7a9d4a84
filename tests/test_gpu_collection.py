"""`make test-gpu` in its environment: without what only the server and publishing need."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.gpu.conftest import shareable

ROOT = Path(__file__).resolve().parents[1]
MISSING = ("orjson", "starlette", "uvicorn", "uvloop", "httptools", "nacl", "cryptography", "zstandard", "syft")


def test_the_tests_of_the_gpu_are_found_without_other_extras() -> None:
    recipe = (ROOT / "Makefile").read_text().partition("\ntest-gpu:")[2].partition("\n\n")[0]
    arguments = recipe.partition("-m pytest ")[2].replace("$(PYTEST_ARGS)", "").split()
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({MISSING})); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--collect-only", "-q"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "tests/gpu/test_tensorrt.py" in done.stdout


def test_the_report_does_not_tell_who_made_it() -> None:
    said = f"{ROOT}/tests/x.py: no {Path.home()}/.cache, no {tempfile.gettempdir()}/pytest-of-jane/pytest-0/engine.plan"
    assert shareable(said) == "./tests/x.py: no ~/.cache, no TMP/pytest/pytest-0/engine.plan"
