"""The door as a user opens it: a subprocess, in folders of its own, so that whatever it leaves behind is seen."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

MARK = "DOOR_OF_A_TEST"
REPORT = {"comment.md", "evidence.json", "report.html", "summary.md"}


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """stderr with its line breaks undone: a wrapped sentence is still a sentence."""
        return " ".join(self.err.split())


@dataclass
class Door:
    """Runs `trt-action`; `cwd` holds a copy of the digits example, `tmp` and `home` should stay empty."""

    root: Path
    cache: Path
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for folder in (self.cwd, self.tmp, self.home):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def cwd(self) -> Path:
        return self.root / "work"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    @property
    def home(self) -> Path:
        return self.root / "home"

    def environment(self) -> dict[str, str]:
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("INPUT_", "TRT_ACTION_", "GITHUB_", "GITLAB_")) and name not in ("CI", "TERM")
        }
        return clean | {
            "TMPDIR": str(self.tmp),
            "HOME": str(self.home),
            "XDG_CACHE_HOME": str(self.home),
            "TRT_ACTION_CACHE": str(self.cache),
            MARK: str(self.root),
            **self.env,
        }

    def start(self, *arguments: object, **more: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "trt_action", *map(str, arguments)],
            cwd=self.cwd,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )

    def finish(self, process: subprocess.Popen[str], timeout: float = 120) -> Result:
        """Wait for the end; whatever the command was, these hold."""
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
        assert "Traceback" not in out + err, err
        assert self.children() == []
        assert self.left() == []
        return Result(process.returncode, out, err)

    def __call__(self, *arguments: object, timeout: float = 120, **more: Any) -> Result:
        return self.finish(self.start(*arguments, **more), timeout)

    def refused(self, code: int, *arguments: object, **more: Any) -> Result:
        """A command that must fail with `code`, and say what happened and what to do."""
        result = self(*arguments, **more)
        assert result.code == code, result.err
        assert f"(exit code {code})" in result.err
        assert "\n  What: " in result.err
        assert "\n  Next: " in result.err
        return result

    def children(self) -> list[str]:
        """Processes that carry this door's mark."""
        return [" ".join(process.cmdline()) for process in self.marked() if process.status() != psutil.STATUS_ZOMBIE]

    def marked(self) -> Iterable[psutil.Process]:
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == str(self.root):
                    yield process
            except psutil.Error:
                continue

    def left(self) -> list[str]:
        """What is in the temporary folder and in the home, which both were empty."""
        return sorted(
            str(path.relative_to(self.root)) for folder in (self.tmp, self.home) for path in folder.rglob("*")
        )


def evidence(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "evidence.json").read_text())
    return loaded


def files(folder: Path) -> set[str]:
    """Every file below `folder`, by relative path."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One engine cache for the whole session: every engine is built once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def door(tmp_path: Path, cache: Path, digits: Path) -> Door:
    return furnished(tmp_path, cache, digits)


def furnished(root: Path, cache: Path, digits: Path) -> Door:
    """A door whose work folder holds the digits example, with measuring cut to the shortest honest run."""
    door = Door(root, cache)
    for name in ("model.onnx", "base.onnx", "calibration.npz", "validation.npz"):
        shutil.copyfile(digits / name, door.cwd / name)
    (door.cwd / ".trt-action.yml").write_text(
        (digits / ".trt-action.yml")
        .read_text()
        .replace("measure-seconds: 1s", "measure-seconds: 0.2s\nmax-seconds: 3s")
    )
    return door


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, cache: Path, digits: Path) -> Door:
    return furnished(tmp_path_factory.mktemp("door"), cache, digits)


@pytest.fixture(scope="session")
def run(shared: Door) -> Result:
    """`trt-action run` once, into `out/`; many tests look at what it left."""
    return shared("run", "--output", "out", "--max-seconds", "10s")
