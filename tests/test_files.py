"""Files are whole or absent."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from trt_action import files
from trt_action.errors import StorageError


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "new folder" / "file"
    files.write_atomic(target, "old")
    files.write_atomic(target, b"new")
    assert target.read_bytes() == b"new"
    assert os.listdir(target.parent) == ["file"]  # noqa: PTH208 - hidden leftovers would show


@pytest.mark.parametrize("how", ["write", "copy", "replacing"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, how: str) -> None:
    target = tmp_path / "target"
    target.mkdir()  # cannot be replaced by a file
    (target / "inside").write_text("kept")
    source = tmp_path / "source"
    source.write_text("new")

    def attempt() -> None:
        if how == "write":
            files.write_atomic(target, "new")
        elif how == "copy":
            files.copy_atomic(source, target)
        else:
            with files.replacing(target) as temporary:
                temporary.write_text("new")

    with pytest.raises(StorageError, match="target"):
        attempt()
    assert (target / "inside").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


def fail_inside_replacing(path: Path) -> None:
    with files.replacing(path) as temporary:
        temporary.write_text("half")
        raise ValueError("mine")


def fail_inside_work_folder() -> None:
    with files.work_folder() as folder:
        (folder / "x").write_text("y")
        raise ValueError("mine")


def test_an_error_inside_replacing_is_not_renamed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"):
        fail_inside_replacing(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_the_work_folder_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ValueError, match="mine"):
        fail_inside_work_folder()
    assert list(tmp_path.iterdir()) == []


HOLDER = """
import sys
from trt_action import files
with files.work_folder() as folder:
    (folder / "engine").write_text("large")
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_run_left_goes_with_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    just_made = tmp_path / f"{files.WORK}justmade"  # by somebody who has not locked it yet
    just_made.mkdir(mode=0o700)
    named_alike = [tmp_path / f"{files.WORK}20261123", tmp_path / f"{files.WORK}1"]  # `--output` of somebody
    for folder, mode in zip(named_alike, (0o755, 0o700), strict=True):
        folder.mkdir(mode=mode)
        (folder / "evidence.json").write_text("{}")
    elsewhere = tmp_path / "kept"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("kept")
    (tmp_path / f"{files.WORK}linklink").symlink_to(elsewhere)
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout
            folder = Path(holder.stdout.readline().strip())
            with files.work_folder():
                assert (folder / "engine").exists()
        finally:
            holder.kill()
    assert (folder / "engine").exists()
    with files.work_folder() as mine:
        assert not folder.exists()
        assert mine.exists()
    assert just_made.exists()
    assert all((folder / "evidence.json").exists() for folder in named_alike)
    assert (elsewhere / "file").exists()
