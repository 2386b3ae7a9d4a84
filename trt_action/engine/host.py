"""Identity of the measuring host, and its state right now: `fingerprint` and what to say about it.

Sources: proc(5), sysfs (Documentation/ABI/testing/sysfs-devices-system-cpu), cgroup v1 and v2 of the Linux kernel.
Nothing here is required: what a host hides is null.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from trt_action import __version__, engine
from trt_action.engine import devices, hygiene, nvml
from trt_action.engine.backend import RuntimeOptions
from trt_action.evidence import Fingerprint

_SYS_CPU = Path("/sys/devices/system/cpu")
_NOTABLE = (  # instruction sets that decide which kernels run; /proc/cpuinfo names, x86 and arm64
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "asimdhp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
)


def fingerprint(backend: str, options: RuntimeOptions) -> Fingerprint:
    """Hardware, software and runtime of this host (stable), and its hygiene (sampled for 0.15 s).

    `digest` covers the stable part: two runs on one host in one state of installation have the same.

    Raises:
        BackendUnavailableError: the backend's library is not installed.
    """
    runtime = engine.backend(backend).describe(options)
    gpu_identity, gpu_state = gpu(options)
    stable = {"hardware": {**hardware(), **gpu_identity}, "software": software(), "runtime": runtime}
    canonical = json.dumps(stable, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return Fingerprint(
        digest=hashlib.sha256(canonical.encode()).hexdigest(),
        hardware=stable["hardware"],
        software=stable["software"],
        runtime=stable["runtime"],
        hygiene={**hygiene.sample(), **gpu_state},
    )


def warnings(found: Fingerprint) -> list[str]:
    """What of the host's state makes its times doubtful, in words, each with what to do."""
    cpus = int(found.hardware.get("affinity_cpus") or 1)
    return hygiene.warnings(found.hygiene, cpus=cpus, threads=int(found.runtime.get("threads") or cpus))


def build_identity() -> dict[str, Any]:
    """The part of the hardware that can change the bytes of an engine: kernels and layouts follow the CPU."""
    cpu = _cpuinfo()
    return {
        "machine": platform.machine(),
        "cpu_model": cpu.get("model", ""),
        "cpu_flags_sha256": _flags_digest(cpu.get("flags", "")),
    }


def hardware() -> dict[str, Any]:
    """CPU, caches and memory; bytes in bytes."""
    cpu = _cpuinfo()
    flags = set(cpu.get("flags", "").split())
    return {
        "cpu_model": cpu.get("model") or platform.processor() or None,
        "cpu_flags_sha256": _flags_digest(cpu.get("flags", "")),
        "instruction_sets": [flag for flag in _NOTABLE if flag in flags],
        "machine": platform.machine(),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(logical=True),
        "affinity_cpus": len(os.sched_getaffinity(0)),
        "caches": _caches(),
        "memory_bytes": psutil.virtual_memory().total,
        "memory_limit_bytes": hygiene.memory_limit(),
        "cpu_quota": hygiene.cpu_quota(),
        "virtualized": "hypervisor" in flags if cpu.get("flags") else None,
        "hypervisor": _read(Path("/sys/hypervisor/type")) or _read(Path("/sys/class/dmi/id/sys_vendor")),
    }


def gpu(options: RuntimeOptions) -> tuple[dict[str, Any], dict[str, Any]]:
    """The measured GPU's identity and its state, each as `{"gpu": …}`; empty on the CPU.

    Raises:
        BackendUnavailableError: it cannot be used.
    """
    if options.gpu is None:
        return {}, {}
    device = devices.facts(options.gpu)
    told = {
        "number": device.number,
        "name": device.name,
        "uuid": device.uuid,
        "capability": device.capability,
        "memory_bytes": device.total_bytes,
        "cuda_driver": device.driver_cuda,
        "cuda_binding": device.binding,
    }
    found, why = nvml.find(device.uuid)
    if found is None:
        return {"gpu": {**told, "nvml": why}}, {}
    try:
        known = {name: value for name, value in found.identity().items() if value is not None}
        state = found.sample("before", 0.0).model_dump(exclude={"moment", "seconds"}, exclude_none=True)
        return {"gpu": {**told, **known, "uuid": device.uuid}}, {"gpu": state}
    finally:
        found.close()


def software() -> dict[str, Any]:
    return {
        "os": _os_name(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("numpy", "onnx", "onnxruntime")},
        **{name: found for name in ("onnxruntime-gpu", "cuda-bindings") if (found := _version(name))},
        "trt-action": __version__,
    }


def _cpuinfo() -> Mapping[str, str]:
    """`model` and `flags` of the first CPU of /proc/cpuinfo; arm64 has no model name there, but its part numbers."""
    fields: dict[str, str] = {}
    for line in (_read(Path("/proc/cpuinfo")) or "").splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    arm = " ".join(f"{name.removeprefix('CPU ')} {fields[name]}" for name in sorted(fields) if name.startswith("CPU "))
    return {
        "model": fields.get("model name") or (f"arm {arm}" if arm else ""),
        "flags": fields.get("flags") or fields.get("Features") or "",
    }


def _flags_digest(flags: str) -> str | None:
    return hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest() if flags else None


def _caches() -> list[str]:
    """Of the first CPU, e.g. `L1 Data 48K`."""
    found = []
    for index in sorted((_SYS_CPU / "cpu0" / "cache").glob("index*")):
        level, kind, size = (_read(index / name) for name in ("level", "type", "size"))
        found.append(f"L{level} {kind} {size}")
    return found


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()[:200_000] or None
    except OSError:
        return None
