"""What of this host is ready for a run on the CPU, and how to fix the rest. Data only; the command line prints it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from trt_action.engine import hygiene

Status = Literal["green", "amber", "red"]

PYTHON = (3, 11)
ONNX = (1, 21)
ONNXRUNTIME = (1, 32)
"""Below, the graph optimiser falsifies the accuracy of quantized models (docs/accuracy.md)."""

MEMORY_RED, MEMORY_AMBER = 1 << 30, 4 << 30
DISK_RED, DISK_AMBER = 256 << 20, 5 << 30


@dataclass(frozen=True)
class Check:
    """One line of `trt-action doctor`. Red: a run will fail. Amber: it runs, with a doubt. `fix` is empty if green."""

    name: str
    status: Status
    found: str
    fix: str = ""


def checks(output_dir: Path, cache_dir: Path | None) -> list[Check]:
    """Software, CPU, memory, disks, Git. Takes about 0.3 s. `cache_dir` None = the cache is off."""
    found = [_python(), _package("onnx", ONNX), _onnxruntime(), _cpus()]
    found += _hygiene()
    found += [_memory(), _folder("output folder", output_dir, needed_for="the report")]
    if cache_dir is None:
        found.append(Check("engine cache", "amber", "off", "Set `cache: auto`; every run builds anew without it."))
    else:
        found.append(_folder("engine cache", cache_dir, needed_for="built engines"))
    return [*found, *_git()]


def _python() -> Check:
    found = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info[:2] < PYTHON:
        return Check("python", "red", found, f"Use Python {_dotted(PYTHON)} or newer.")
    return Check("python", "green", found)


def _package(name: str, least: tuple[int, int]) -> Check:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "red", "not installed", f"`pip install '{name}>={_dotted(least)}'`")
    if _numbers(version) < least:
        return Check(name, "red", version, f"`pip install --upgrade '{name}>={_dotted(least)}'`")
    return Check(name, "green", version)


def _onnxruntime() -> Check:
    """By import: builds for GPUs have other package names, and a library that is installed may still not load."""
    fix = "`pip install 'trt-action[onnxruntime]'`"
    try:
        import onnxruntime
    except ImportError as error:
        return Check("onnxruntime", "red", f"not usable: {' '.join(str(error).split())[:200]}", fix)
    version = str(onnxruntime.__version__)
    if _numbers(version) < ONNXRUNTIME:
        why = f"{version}; accuracy of quantized models is wrong before {_dotted(ONNXRUNTIME)}"
        return Check("onnxruntime", "red", why, f"`pip install --upgrade 'onnxruntime>={_dotted(ONNXRUNTIME)}'`")
    return Check("onnxruntime", "green", version)


def _cpus() -> Check:
    usable, total, quota = len(os.sched_getaffinity(0)), os.cpu_count() or 1, hygiene.cpu_quota()
    found = f"{usable} of {total} usable"
    if quota is not None and quota < usable:
        return Check(
            "cpus",
            "amber",
            f"{found}, limited to {quota:g} by the container",
            "Give whole CPUs (`docker run --cpuset-cpus`): a quota stops the process in the middle of an inference.",
        )
    if usable < 2:
        return Check("cpus", "amber", found, "Two or more CPUs keep the system's own work away from the measured one.")
    return Check("cpus", "green", found)


def _hygiene() -> Iterator[Check]:
    state = hygiene.sample()
    cpus = len(os.sched_getaffinity(0))
    found = hygiene.warnings(state, cpus=cpus, threads=cpus)
    if not found:
        yield Check(
            "quiet host", "green", f"load {state['load_1min']:g}, governor {state['governor'] or 'not visible'}"
        )
    for text in found:
        what, _, fix = text.partition(": ")
        yield Check("quiet host", "amber", what, fix[:1].upper() + fix[1:])


def _memory() -> Check:
    free = psutil.virtual_memory().available
    limit = hygiene.memory_limit()
    found = f"{_gib(free)} free" + (f", limited to {_gib(limit)} by the container" if limit else "")
    usable = min(free, limit) if limit else free
    fix = "Give the runner more memory: calibration needs several times the size of the model."
    return Check("memory", _grade(usable, MEMORY_RED, MEMORY_AMBER), found, fix if usable < MEMORY_AMBER else "")


def _folder(name: str, path: Path, *, needed_for: str) -> Check:
    there = _nearest_folder(path)
    reason = _not_writable(there)
    if reason:
        status: Status = "amber" if "cache" in name else "red"
        return Check(name, status, f"{path}: {reason}", f"Choose a folder that can be written, for {needed_for}.")
    free = shutil.disk_usage(there).free
    fix = f"Free some space, or choose a folder on another disk, for {needed_for}."
    return Check(
        name, _grade(free, DISK_RED, DISK_AMBER), f"{path}: {_gib(free)} free", fix if free < DISK_AMBER else ""
    )


def _nearest_folder(path: Path) -> Path:
    """The folder itself, or the one in which it would be made."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - `resolve` would follow links that may be loops
    return next((folder for folder in (absolute, *absolute.parents) if os.path.lexists(folder)), Path("/"))


def _not_writable(folder: Path) -> str:
    """Why no file can be made there, by trying: permission bits do not tell of read-only mounts. Empty if it works."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _git() -> Iterator[Check]:
    git = _version_of("git", "--version")
    if git is None:
        yield Check("git", "amber", "not found", "Install git: without it there is no base but `--base PATH`.")
        return
    yield Check("git", "green", git)
    lfs = _version_of("git", "lfs", "version")
    if lfs is None:
        yield Check("git-lfs", "amber", "not found", "Install git-lfs if models are stored with it.")
    else:
        yield Check("git-lfs", "green", lfs)


def _version_of(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True, errors="replace")
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().splitlines()[0][:100] if done.stdout.strip() else None


def _grade(amount: int, red: int, amber: int) -> Status:
    return "red" if amount < red else "amber" if amount < amber else "green"


def _gib(amount: int) -> str:
    return f"{amount / 2**30:.1f} GiB"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
