"""May this engine serve on this host? Compares what the records say about the host that built and measured it."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_action import engine
from trt_action.engine import cuda
from trt_action.errors import BackendUnavailableError
from trt_action.inputs import quote
from trt_action.serve.folder import Served


@dataclass(frozen=True)
class Host:
    """What of a host decides whether an engine may serve there. `gpu` None: the engine runs on the CPU.

    `versions`: of the backends' libraries. `instruction_sets`: empty where the host hides them.
    """

    machine: str
    instruction_sets: frozenset[str]
    backend_version: str
    gpu: Gpu | None = None


@dataclass(frozen=True)
class Gpu:
    """`capability` as NVIDIA writes it (`9.0`); `cuda_driver` is the newest CUDA that the driver can run."""

    name: str
    capability: str
    cuda_driver: str


def here(served: Served) -> Host:
    """This host, as far as the engine needs it.

    Raises:
        BackendUnavailableError: the backend's library or its GPU is not there at all.
    """
    number = served.loadable.options.gpu
    if served.loadable.backend.startswith("tensorrt"):
        number = number or 0
    version = engine.backend(served.loadable.backend).version()
    gpu = None
    if number is not None:
        found = _opened(served.loadable.backend, number)
        gpu = Gpu(found.name(), ".".join(map(str, found.capability())), found.versions()["driver"])
    return Host(platform.machine(), instruction_sets(), version, gpu)


def _opened(backend: str, number: int) -> cuda.Cuda:
    """The engine decides that it runs on a GPU, so no setting of the server can help where there is none."""
    try:
        return cuda.cuda(number)
    except BackendUnavailableError as error:
        raise BackendUnavailableError(
            f"This engine of {backend} runs on an NVIDIA GPU, and there is none to use.",
            why=f"{error.what} {error.why}".strip(),
            fix="Serve it where `nvidia-smi` lists a GPU that it was built for (in a container: `--gpus all`); for a CPU, build "
            "the model with `backend: onnxruntime` and `device: cpu`.",
        ) from None


def check(served: Served, host: Host, *, refuse: bool) -> list[str]:
    """Refuse a host that the engine was not built for, or (`refuse` False) say what differs.

    Raises:
        BackendUnavailableError: it differs.
    """
    found = list(differences(served, host))
    if found and refuse:
        select = " (of an index of several GPUs, `trt-action select IMAGE` names the image for the one here)"
        raise BackendUnavailableError(
            f"The engine of {quote(served.place.model)} was not built for this host: {' '.join(found)}",
            why="An engine is compiled for one device and one version of its library; elsewhere it fails or computes "
            "something that nobody measured.",
            fix=f"Run it on the hardware and with the image that it was built for{select if host.gpu else ''}, or build one "
            "for this host; `--other-hardware warn` serves it at your own risk.",
        )
    return found


def differences(served: Served, host: Host) -> Iterator[str]:
    """What of the host is not what the engine was built for, one sentence each; nothing if it may serve."""
    backend = served.loadable.backend
    built = str(served.engine.get("backend_version", ""))
    if built and not _same_version(served, built, host.backend_version):
        yield f"It was built by {backend} {built}, here is {host.backend_version}."
    hardware = _hardware(served)
    machine = hardware.get("machine")
    if machine and machine != host.machine:
        yield f"It was built for {machine}, this is {host.machine}."
    gpu = hardware.get("gpu")
    if host.gpu is not None:
        yield from _gpu(served, gpu if isinstance(gpu, Mapping) else {}, host.gpu)
    else:
        wanted = hardware.get("instruction_sets")
        missing = (
            [str(name) for name in wanted if name not in host.instruction_sets] if isinstance(wanted, list) else []
        )
        if missing and host.instruction_sets:
            yield f"It was optimised for a CPU with {', '.join(missing)}, which this one lacks."


def _same_version(served: Served, built: str, found: str) -> bool:
    """A plan belongs to one version of TensorRT to the last number, unless it was built to be version compatible: then
    to the same or a later one. A saved graph belongs to a minor version of ONNX Runtime."""
    a, b = _numbers(built), _numbers(found)
    if served.loadable.backend == "onnxruntime":
        return a[:2] == b[:2]
    if served.loadable.options.tensorrt.version_compatible != "none":
        return a <= b
    return a == b


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split("+")[0].split(".")
    return tuple(int(part) for part in parts if part.isdigit())


def _hardware(served: Served) -> Mapping[str, Any]:
    fingerprint = served.evidence.get("fingerprint") if served.evidence is not None else None
    hardware = fingerprint.get("hardware") if isinstance(fingerprint, Mapping) else None
    return hardware if isinstance(hardware, Mapping) else {}


def _gpu(served: Served, built: Mapping[str, Any], found: Gpu) -> Iterator[str]:
    """A plan belongs to one model of GPU, unless it was built for more; every engine to the capability on which it was
    measured; and the driver must know the CUDA of the build."""
    name, capability, driver = (str(built.get(key) or "") for key in ("name", "capability", "cuda_driver"))
    wider = served.loadable.options.tensorrt.hardware_compatibility
    portable = served.loadable.backend == "tensorrt-rtx" or wider == "ampere-plus"
    if capability and not portable and capability != found.capability:
        yield f"It was built for compute capability {capability} ({name}), this is {found.capability} ({found.name})."
    elif wider == "ampere-plus" and _numbers(found.capability) < (8, 0):
        yield f"It was built for compute capability 8.0 and above, this is {found.capability} ({found.name})."
    elif served.loadable.backend == "tensorrt" and wider == "none" and name and name != found.name:
        yield f"It was built for {name}, this is {found.name}."
    if driver and _numbers(found.cuda_driver) < _numbers(driver):
        yield f"Its driver knew CUDA {driver}, the one here {found.cuda_driver}."


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
