"""Arrows point down the story: a room imports only rooms to its left, and heavy libraries stay in their room."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import trt_action

PACKAGE = Path(trt_action.__file__).parent
STORY = [
    "settings",
    "user_code",
    "user_function",
    "data",
    "model",
    "precision",
    "engine",
    "gpu",
    "measure",
    "layers",
    "accuracy",
    "llm",
    "judge",
    "search",
    "report",
    "serve",
    "publish",
    "recording",
    "history",
    "deploy",
    "github",
    "gitlab",
    "doctor",
]
GROUND = {
    "errors",
    "evidence",
    "gpu_records",
    "layer_records",
    "llm_records",
    "search_records",
    "records",
    "process",
    "interruption",
    "child",
    "files",
    "inputs",
    "arrays",
    "samples",
    "console",
    "container",
    "http",
    "rest",
    "discussion",
    "ownership",
    "__init__",
}
DOORS = {
    "cli",
    "commands",
    "action",
    "__main__",
    "job",
    "delivery",
    "shipping",
    "bookkeeping",
    "handing",
    "orders",
    "gitlab_job",
    "gitlab_stages",
    "gitlab_delivery",
    "gitlab_shipping",
    "results",
    "pipeline",
    "pair",
    "stages",
    "llm_stages",
    "recipes",
    "watching",
    "draft",
}
HOME = {
    "cuda": {"engine"},
    "pycuda": {"engine"},
    "pynvml": {"engine", "serve"},
    "onnxruntime": {"engine", "precision"},
    "onnx": {"model", "precision", "engine", "layers"},
}


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


def test_every_room_is_in_the_story() -> None:
    assert {room_of(path) for path in FILES} <= set(STORY) | GROUND | DOORS


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_to_its_left(path: Path) -> None:
    room = room_of(path)
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "trt_action" and rest:
            other = rest.split(".")[0]
            if other in GROUND or other == room or room in DOORS or other.startswith("_"):
                continue
            assert room in STORY, f"the ground floor ({room}) imports {other}"
            assert STORY.index(other) < STORY.index(room), f"{room} imports {other}, which comes later in the story"
        elif top in HOME:
            assert room in HOME[top], f"{room} imports {top}"


def test_files_stay_readable() -> None:
    long = {str(p.relative_to(PACKAGE)): n for p in FILES if (n := len(p.read_text().splitlines())) > 420}
    assert not long
