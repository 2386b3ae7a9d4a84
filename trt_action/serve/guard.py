"""May this engine serve on this host? Compares what the records say about the host that built and measured it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trt_action import engine
from trt_action.errors import BackendUnavailableError
from trt_action.inputs import quote
from trt_action.serve.folder import Served


def differences(served: Served) -> list[str]:
    """What of this host is not what the engine was built for, one sentence each; empty if it may serve.

    Raises:
        BackendUnavailableError: the backend's library or its hardware is not there at all.
    """
    found = [_version(served)]
    if served.evidence is not None:
        fingerprint = served.evidence.get("fingerprint")
        hardware = fingerprint.get("hardware") if isinstance(fingerprint, Mapping) else None
        if isinstance(hardware, Mapping):
            found += [_machine(hardware), _instructions(hardware)]
    return [sentence for sentence in found if sentence]


def check(served: Served, *, refuse: bool) -> list[str]:
    """Refuse a host that the engine was not built for, or (`refuse` False) say what differs.

    Raises:
        BackendUnavailableError: it differs.
    """
    found = differences(served)
    if found and refuse:
        raise BackendUnavailableError(
            f"The engine of {quote(served.place.model)} was not built for this host: {' '.join(found)}",
            why="An engine is compiled for one device and one version of its library; elsewhere it fails or computes "
            "something that nobody measured.",
            fix="Run it on the hardware and with the image that it was built for, or build one for this host; "
            "`--other-hardware warn` serves it at your own risk.",
        )
    return found


def _version(served: Served) -> str:
    """Saved graphs and plans belong to one version of their library; a patch of ONNX Runtime changes neither."""
    backend, built = served.loadable.backend, str(served.engine.get("backend_version", ""))
    here = engine.backend(backend).version()
    significant = 2 if backend == "onnxruntime" else 4
    if built and _numbers(built)[:significant] != _numbers(here)[:significant]:
        return f"it was built by {backend} {built}, here is {here}."
    return ""


def _numbers(version: str) -> list[str]:
    return version.split("+")[0].split(".")


def _machine(hardware: Mapping[str, Any]) -> str:
    built, here = hardware.get("machine"), platform.machine()
    return f"it was built for {built}, this is {here}." if built and built != here else ""


def _instructions(hardware: Mapping[str, Any]) -> str:
    """Layouts in a saved graph follow the instruction sets of the CPU that optimised it."""
    built, here = hardware.get("instruction_sets"), instruction_sets()
    missing = [str(name) for name in built if name not in here] if isinstance(built, list) and here else []
    return f"this CPU lacks {', '.join(missing)}." if missing else ""


def instruction_sets(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Flags of the first CPU; empty where the host hides them."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()
