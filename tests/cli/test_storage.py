"""Disks that are full and folders that cannot be written: named as such, and nothing half-written stays."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import REPORT, Door, evidence, files
from tests.cli.test_failing_well import without_overriding_permissions

ACCURACY = ("accuracy", "--precision", "fp32", "--base", "none", "--validation-data", "validation.npz")
Mount = Callable[[Path, str], None]


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Mounts a tmpfs with the given options; gone after the test."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    mounted: list[Path] = []

    def mount(folder: Path, options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
        mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.root
@pytest.mark.parametrize("options", ["size=20k", "ro"], ids=["full", "read-only"])
def test_output(door: Door, mount: Mount, options: str) -> None:
    mount(door.cwd / "out", options)
    result = door.refused(8, *ACCURACY, "--output", "out")
    assert str(door.cwd / "out") in result.words
    assert files(door.cwd / "out") <= REPORT
    for name in files(door.cwd / "out"):
        assert (door.cwd / "out" / name).read_text().rstrip()[-1] in "}>)"


@pytest.mark.root
@pytest.mark.parametrize("size", ["8k", "400k", "2m"])
def test_temporary_folder_is_full(door: Door, mount: Mount, size: str) -> None:
    """At several sizes: another stage meets the end of the disk each time."""
    mount(door.tmp, f"size={size}")
    result = door.refused(8, "run", "--cache", "false", "--max-seconds", "1s", "--output", "out")
    assert "space" in result.words
    assert files(door.cwd / "out") <= REPORT


@pytest.mark.root
@pytest.mark.parametrize("options", ["size=200k", "ro"], ids=["full", "read-only"])
def test_a_cache_that_cannot_be_written_is_no_failure(door: Door, mount: Mount, options: str) -> None:
    mount(door.root / "cache", options)
    door.env["TRT_ACTION_CACHE"] = str(door.root / "cache")
    result = door("build", "--base", "none", "--output", "out")
    assert result.code == 0, result.err
    assert any("cache" in warning for warning in evidence(door.cwd / "out")["warnings"])
    assert files(door.cwd / "out") >= {"engine.json", "evidence.json"}


def test_folders_without_permission(door: Door) -> None:
    locked = door.cwd / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    more: dict[str, Any] = {"preexec_fn": without_overriding_permissions}
    assert "locked" in door.refused(8, *ACCURACY, "--output", "locked/out", **more).words
    door.env["TMPDIR"] = str(locked)
    assert door(*ACCURACY, "--output", "out", **more).code == 0, "the system's own temporary folder takes its place"


def test_an_output_that_is_a_file(door: Door) -> None:
    (door.cwd / "out").write_text("mine")
    assert "out" in door.refused(8, *ACCURACY, "--output", "out").words
    assert (door.cwd / "out").read_text() == "mine"
