"""The libraries that compile and run engines: are they here, do they load, and do they fit the driver and the GPU?

Which driver runs which CUDA: https://docs.nvidia.com/deploy/cuda-compatibility/ (minor versions are compatible).
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator, Mapping

from trt_action import engine
from trt_action.doctor.gpus import Seen
from trt_action.doctor.line import Check, Status, line, numbers, refused
from trt_action.engine import devices, trial
from trt_action.engine.backend import RuntimeOptions
from trt_action.engine.devices import Device
from trt_action.errors import BackendUnavailableError, TrtActionError
from trt_action.precision import modelopt

ONNXRUNTIME = (1, 32)
"""Below, the graph optimiser falsifies the accuracy of quantized models (docs/accuracy.md)."""

TENSORRT = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
DRIVERS = {12: "525.60", 13: "580.65"}
"""Oldest driver for Linux by CUDA's major version."""


def lines(seen: Seen, backend: str | None, device: str) -> Iterator[Check]:
    """`backend`, `device`: what was asked for; None, `auto`: whatever is usable."""
    yield _onnxruntime()
    on_gpu = device.startswith("cuda") and backend in (None, "onnxruntime")
    if on_gpu or (seen.visible and device != "cpu"):
        yield _onnxruntime_cuda(seen, device, "red" if on_gpu else "amber")
    for name in TENSORRT:
        if name == backend or seen.visible or _package(TENSORRT[name]):
            yield from _tensorrt(name, seen, asked=name == backend, device=device)


def _onnxruntime() -> Check:
    """By import: builds for GPUs have other package names, and a library that is installed may still not load."""
    try:
        version = engine.backend("onnxruntime").version()
    except BackendUnavailableError as error:
        return refused("onnxruntime", error, "red", "`pip install 'trt-action[onnxruntime]'`")
    if numbers(version) < ONNXRUNTIME:
        least = ".".join(map(str, ONNXRUNTIME))
        found = f"{version}; accuracy of quantized models is wrong before {least}"
        return line("onnxruntime", "red", found, f"`pip install --upgrade 'onnxruntime>={least}'`")
    return line("onnxruntime", "green", version)


def _onnxruntime_cuda(seen: Seen, device: str, lacking: Status) -> Check:
    """One inference on the GPU: a provider that is installed may still not load, and then says so in a log only."""
    name = "onnxruntime cuda"
    if not devices.onnxruntime_has_cuda():
        found = "this build of ONNX Runtime has no CUDA provider"
        return line(name, lacking, found, "`pip install onnxruntime-gpu` instead of `onnxruntime` (docs/gpu.md).")
    if not seen.visible:
        return line(name, lacking, "no GPU to try it on", "Run on a host with an NVIDIA GPU, or set `device: cpu`.")
    try:
        provider = trial.onnxruntime_computes(devices.resolve_device("onnxruntime", device))
    except TrtActionError as error:
        return refused(name, error, lacking, "See docs/gpu.md for the versions of CUDA and cuDNN that it needs.")
    return line(name, "green", f"{provider} computes")


def _tensorrt(name: str, seen: Seen, *, asked: bool, device: str) -> Iterator[Check]:
    """Installed, of a CUDA that the driver runs, and made for this GPU."""
    lacking: Status = "red" if asked else "amber"
    chosen = engine.backend(name)
    try:
        version = chosen.version()
    except BackendUnavailableError as error:
        yield refused(name, error, lacking, f"`pip install 'trt-action[{name}]'`")
        return
    built_for = _package(TENSORRT[name])
    yield line(name, "green", version + (f", for CUDA {built_for}" if built_for else ""))
    if built_for and seen.cuda_of_driver:
        yield _match(name, built_for, seen.cuda_of_driver, lacking)
    number = seen.opened.number if isinstance(seen.opened, Device) else 0
    try:
        chosen.check_host(RuntimeOptions(device=f"cuda:{number}"), measures=True)
    except TrtActionError as error:
        # Without a GPU the line of the GPU is red already; TensorRT for RTX builds there.
        if seen.visible:
            yield refused(f"{name} here", error, lacking, "See docs/tensorrt.md.")
        elif name == "tensorrt-rtx":
            yield line(f"{name} here", "green", "no GPU: `trt-action build` works, measuring does not")
        return
    yield line(f"{name} here", "green", "builds and runs")


def _match(name: str, built_for: int, driver: str, lacking: Status) -> Check:
    title = f"{name} and driver"
    if numbers(driver)[:1] >= (built_for,):
        return line(title, "green", f"the library is for CUDA {built_for}, the driver runs CUDA {driver}")
    least = DRIVERS.get(built_for)
    fix = f"Update the driver{f' to {least} or newer' if least else ''}, or install the library's build for CUDA {driver}."
    return line(title, lacking, f"the library is for CUDA {built_for}, the driver runs CUDA {driver} at most", fix)


def _package(stem: str) -> int | None:
    """CUDA's major version in the name of the library's package: `tensorrt_cu13` → 13; None: there is none."""
    found = re.compile(rf"{stem}[-_]cu(\d+)(?:[-_]libs)?", re.IGNORECASE)
    for package in importlib.metadata.distributions():
        name = package.metadata["Name"]
        if name and (match := found.fullmatch(name)):
            return int(match[1])
    return None


def modelopt_lines(env: Mapping[str, str]) -> Iterator[Check]:
    """Asks its interpreter, where one is installed: a second or two."""
    tool = modelopt.find(None, env)
    if tool is not None:
        yield line("modelopt", "green", tool.version, private=str(tool.python))
        return
    found = "not installed: int8 and fp8 by ONNX Runtime's quantizer; int4 and `calibration-method: entropy` need it"
    yield line("modelopt", "amber", found, f"`{modelopt.install_command(env)}` (about 2 GB), if you want them.")
