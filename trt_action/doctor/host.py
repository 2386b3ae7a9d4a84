"""Software, CPUs, memory, disks and Git: what every run needs."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from trt_action.doctor.line import Check, Status, gib, grade, line, numbers
from trt_action.engine import hygiene

PYTHON = (3, 11)
ONNX = (1, 21)

MEMORY_RED, MEMORY_AMBER = 1 << 30, 4 << 30
DISK_RED, DISK_AMBER = 256 << 20, 5 << 30


def lines(output: Path, cache: Path | None) -> Iterator[Check]:
    """Takes about 0.3 s. `output`: where reports go; `cache` None = the engine cache is off."""
    yield from (_python(), _package("onnx", ONNX), _cpus())
    yield from _quiet()
    yield from (_memory(), _folder("output folder", output, needed_for="the report"))
    if cache is None:
        fix = "Set HOME, or TRT_ACTION_CACHE to a folder of your own: every run builds anew without it."
        yield line("engine cache", "amber", "off: this user has no home folder", fix)
    else:
        yield _folder("engine cache", cache, needed_for="built engines")
    yield _folder("temporary folder", Path(tempfile.gettempdir()), needed_for="graphs and engines in the making")
    yield from _git()


def _python() -> Check:
    found = platform.python_version()
    if sys.version_info[:2] < PYTHON:
        return line("python", "red", found, f"Use Python {_dotted(PYTHON)} or newer.", sys.executable)
    return line("python", "green", found, private=sys.executable)


def _package(name: str, least: tuple[int, int]) -> Check:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return line(name, "red", "not installed", f"`pip install '{name}>={_dotted(least)}'`")
    if numbers(version) < least:
        return line(name, "red", version, f"`pip install --upgrade '{name}>={_dotted(least)}'`")
    return line(name, "green", version)


def _cpus() -> Check:
    usable, total, quota = len(os.sched_getaffinity(0)), os.cpu_count() or 1, hygiene.cpu_quota()
    found = f"{usable} of {total} usable"
    if quota is not None and quota < usable:
        return line(
            "cpus",
            "amber",
            f"{found}, limited to {quota:g} by the container",
            "Give whole CPUs (`docker run --cpuset-cpus`): a quota stops the process in the middle of an inference.",
        )
    if usable < 2:
        return line("cpus", "amber", found, "Two or more CPUs keep the system's own work away from the measured one.")
    return line("cpus", "green", found)


def _quiet() -> Iterator[Check]:
    state = hygiene.sample()
    cpus = len(os.sched_getaffinity(0))
    found = hygiene.warnings(state, cpus=cpus, threads=cpus)
    if not found:
        yield line("quiet host", "green", f"load {state['load_1min']:g}, governor {state['governor'] or 'not visible'}")
    for text in found:
        what, _, fix = text.partition(": ")
        yield line("quiet host", "amber", what, fix[:1].upper() + fix[1:])


def _memory() -> Check:
    free = psutil.virtual_memory().available
    limit = hygiene.memory_limit()
    found = f"{gib(free)} free" + (f", limited to {gib(limit)} by the container" if limit else "")
    usable = min(free, limit) if limit else free
    fix = "Give the runner more memory: calibration needs several times the size of the model."
    return line("memory", grade(usable, MEMORY_RED, MEMORY_AMBER), found, fix if usable < MEMORY_AMBER else "")


def _folder(name: str, path: Path, *, needed_for: str) -> Check:
    there = _nearest_folder(path)
    reason = _not_writable(there)
    if reason:
        status: Status = "amber" if "cache" in name else "red"
        return line(name, status, reason, f"Choose a folder that can be written, for {needed_for}.", str(path))
    free = shutil.disk_usage(there).free
    fix = f"Free some space, or choose a folder on another disk, for {needed_for}."
    state = grade(free, DISK_RED, DISK_AMBER)
    return line(name, state, f"{gib(free)} free", fix if free < DISK_AMBER else "", str(path))


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
        yield line("git", "amber", "not found", "Install git: without it there is no base but `--base PATH`.")
        return
    yield line("git", "green", git)
    lfs = _version_of("git", "lfs", "version")
    if lfs is None:
        yield line("git-lfs", "amber", "not found", "Install git-lfs if models are stored with it.")
    else:
        yield line("git-lfs", "green", lfs)


def _version_of(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True, errors="replace")
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().splitlines()[0][:100] if done.stdout.strip() else None


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
