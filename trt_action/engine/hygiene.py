"""The state of the host while it measures: load, neighbours, throttling. Never part of an identity."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

SAMPLE_SECONDS = 0.15
HEAVY_SHARE = 0.2
"""A process that uses more than this of one CPU during the sample is a heavy neighbour."""

_SYS_CPU = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")
_SHOWN = 5


def sample() -> dict[str, Any]:
    """Load averages, governor, turbo, quota and throttling, steal time, swap, heavy other processes.

    Shares are of one CPU for processes, of all CPUs for steal; bytes in bytes; what the host hides is null.
    """
    steal_before = _steal()
    before = _cpu_seconds()
    start = time.monotonic()
    time.sleep(SAMPLE_SECONDS)
    elapsed = time.monotonic() - start
    heavy = _heavy(before, _cpu_seconds(), elapsed)
    return {
        "load_1min": round(os.getloadavg()[0], 2),
        "load_5min": round(os.getloadavg()[1], 2),
        "governor": _governor(),
        "turbo": _turbo(),
        "cgroup_throttled": _cpu_stat("nr_throttled"),
        "cgroup_throttled_usec": _cpu_stat("throttled_usec"),
        "thermal_throttles": _thermal_throttles(),
        "steal_share": _share(steal_before, _steal()),
        "swap_used_bytes": _swap_used(),
        "heavy_processes": len(heavy),
        "heavy_cpu": round(sum(share for share, _ in heavy), 2),
        "heavy_names": [name for _, name in heavy[:_SHOWN]],
        "sample_seconds": SAMPLE_SECONDS,
    }


def warnings(state: Mapping[str, Any], *, cpus: int, threads: int) -> list[str]:
    """In words, each with what to do. `cpus` this process may use, `threads` of one inference."""
    found: list[str] = []
    if threads > cpus:
        found.append(
            f"One inference uses {threads} threads on {cpus} CPUs, which makes it slower and its times erratic: "
            "leave `threads` at 0, or give the process more CPUs."
        )
    if heavy := state.get("heavy_processes"):
        names = ", ".join(f"`{name}`" for name in state.get("heavy_names", []) if name)
        found.append(
            f"{heavy} other {'process uses' if heavy == 1 else 'processes use'} {state['heavy_cpu']:g} CPUs of this host"
            + (f" ({names})" if names else "")
            + ": stop them, or measure on a runner that runs one job at a time."
        )
    elif (load := state.get("load_1min") or 0.0) > 0.7 * (os.cpu_count() or 1):
        found.append(
            f"The load of the last minute is {load:g} on {os.cpu_count()} CPUs: wait until other work has ended, "
            "or measure on a quieter runner."
        )
    if (governor := state.get("governor")) not in (None, "performance"):
        found.append(
            f"The CPU governor is `{governor}`, so the clock changes with the load: "
            "`sudo cpupower frequency-set -g performance`."
        )
    if (steal := state.get("steal_share") or 0.0) > 0.02:
        found.append(
            f"The hypervisor withheld {steal:.0%} of the CPU time: use a dedicated host, or expect wide intervals."
        )
    if state.get("cgroup_throttled"):
        found.append(
            f"This container's CPU quota has stopped it {state['cgroup_throttled']:,} times: "
            "raise or remove its CPU limit while measuring (`docker run --cpus`, `resources.limits.cpu`)."
        )
    if state.get("thermal_throttles"):
        found.append(
            f"The CPU has been slowed down for heat {state['thermal_throttles']:,} times since the start of the "
            "host: improve its cooling, or measure elsewhere."
        )
    if (swap := state.get("swap_used_bytes") or 0) > 1 << 30:
        found.append(f"{swap / 1e9:.1f} GB are swapped out: free memory, or the first runs will wait for the disk.")
    return found


def cpu_quota() -> float | None:
    """CPUs that the control group allows, e.g. 1.5; null if there is no limit. cgroup v2 `cpu.max`, v1 `cpu.cfs_*`."""
    if content := _cgroup("cpu.max", "cpu"):
        quota, _, period = content.partition(" ")
        return round(int(quota) / int(period or 100_000), 3) if quota.isdigit() else None
    quota_us, period_us = _number(_cgroup("cpu.cfs_quota_us", "cpu")), _number(_cgroup("cpu.cfs_period_us", "cpu"))
    return round(quota_us / period_us, 3) if quota_us and quota_us > 0 and period_us else None


def memory_limit() -> int | None:
    """Bytes that the control group allows; null if there is no limit."""
    limit = _number(_cgroup("memory.max", "memory") or _cgroup("memory.limit_in_bytes", "memory"))
    return limit if limit and limit < psutil.virtual_memory().total else None


def _cgroup(name: str, controller: str) -> str | None:
    """A file of this process's control group: at its own path, else at the root (as containers see it)."""
    own = {"": "", controller: ""}
    for line in (_read(Path("/proc/self/cgroup")) or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for key in controllers.split(","):
            own[key] = path.strip("/")
    folders = (
        _CGROUP / own[""],
        _CGROUP,
        _CGROUP / controller / own[controller],
        _CGROUP / controller,
    )
    return next((content for folder in folders if (content := _read(folder / name))), None)


def _cpu_stat(field: str) -> int | None:
    for line in (_cgroup("cpu.stat", "cpu") or "").splitlines():
        name, _, value = line.partition(" ")
        if name == field:
            return _number(value)
    return None


def _governor() -> str | None:
    """Of the CPUs that this process may use; several are joined by `/`."""
    files = (_SYS_CPU / f"cpu{cpu}" / "cpufreq" / "scaling_governor" for cpu in sorted(os.sched_getaffinity(0)))
    return "/".join(sorted({content for file in files if (content := _read(file))})) or None


def _turbo() -> bool | None:
    if (off := _read(_SYS_CPU / "intel_pstate" / "no_turbo")) is not None:
        return off == "0"
    if (on := _read(_SYS_CPU / "cpufreq" / "boost")) is not None:
        return on == "1"
    return None


def _thermal_throttles() -> int | None:
    counts = [_number(_read(file)) for file in _SYS_CPU.glob("cpu[0-9]*/thermal_throttle/*_throttle_count")]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _swap_used() -> int | None:
    fields = {}
    for line in (_read(Path("/proc/meminfo")) or "").splitlines():
        name, _, value = line.partition(":")
        fields[name] = value.split()
    try:
        return (int(fields["SwapTotal"][0]) - int(fields["SwapFree"][0])) * 1024
    except (KeyError, IndexError, ValueError):
        return None


def _steal() -> tuple[float, float]:
    """Stolen and total CPU seconds of the host."""
    times = psutil.cpu_times()
    return float(getattr(times, "steal", 0.0)), float(sum(times))


def _share(before: tuple[float, float], after: tuple[float, float]) -> float | None:
    total = after[1] - before[1]
    return round(max(0.0, after[0] - before[0]) / total, 4) if total > 0 else None


def _cpu_seconds() -> dict[tuple[int, float], tuple[float, str]]:
    """CPU seconds and name by (pid, start); names only of this user's processes, and never their arguments."""
    found = {}
    me = os.getuid()
    for process in psutil.process_iter():
        try:
            with process.oneshot():
                times = process.cpu_times()
                mine = process.uids().real == me
                found[(process.pid, process.create_time())] = (
                    times.user + times.system,
                    process.name() if mine else "",
                )
        except psutil.Error:
            continue
    return found


def _heavy(
    before: Mapping[tuple[int, float], tuple[float, str]],
    after: Mapping[tuple[int, float], tuple[float, str]],
    elapsed: float,
) -> list[tuple[float, str]]:
    """Share of one CPU and name of each heavy process that is not of this run, the heaviest first."""
    ours = _own_processes()
    found = []
    for identity, (seconds, name) in after.items():
        share = (seconds - before.get(identity, (seconds, ""))[0]) / elapsed
        if share > HEAVY_SHARE and identity[0] not in ours:
            found.append((round(share, 2), _plain(name)))
    return sorted(found, reverse=True)


def _own_processes() -> set[int]:
    """This process, its children, and the shells and runners that wait for it."""
    try:
        me = psutil.Process()
        return {me.pid, *(child.pid for child in me.children(recursive=True)), *(parent.pid for parent in me.parents())}
    except psutil.Error:
        return {os.getpid()}


def _plain(name: str) -> str:
    """A process chooses its own name: keep what is printable and cannot end a code span."""
    return "".join(c for c in name if c.isprintable() and c != "`")[:40]


def _number(text: str | None) -> int | None:
    try:
        return int(text) if text else None
    except ValueError:
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None
