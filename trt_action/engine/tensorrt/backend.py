"""The two backends: `tensorrt` and `tensorrt-rtx`; see `backend.Backend`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from trt_action import files
from trt_action.engine import cuda, devices
from trt_action.engine.backend import Array, BuildContext, Loadable, RuntimeOptions, Session, Tensor, numpy_dtype
from trt_action.engine.cuda import Cuda
from trt_action.engine.devices import Device
from trt_action.engine.tensorrt import building, library, loading, targets
from trt_action.engine.tensorrt.building import Gpu
from trt_action.engine.tensorrt.causes import Situation
from trt_action.engine.tensorrt.library import Flavour
from trt_action.engine.tensorrt.lifetime import closed_on_failure
from trt_action.engine.tensorrt.session import TensorRTSession
from trt_action.errors import BackendUnavailableError
from trt_action.inputs import quote

PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8", "fp8", "int4")


class TensorRTBackend:
    """TensorRT: builds and runs on the GPU that is there."""

    flavour: ClassVar[Flavour] = library.TENSORRT
    name = library.TENSORRT.backend

    def version(self) -> str:
        return str(library.load(self.flavour).__version__)

    def check_precision(self, precision: str, options: RuntimeOptions | None = None) -> None:
        if precision not in PRECISIONS:
            raise BackendUnavailableError(
                f"The {self.name} backend cannot run precision {quote(precision)}.",
                fix=f"Use one of {', '.join(PRECISIONS)}.",
            )
        targets.check_computes(precision, options.tensorrt.compute_capabilities if options else ())

    def check_host(self, options: RuntimeOptions, *, measures: bool) -> None:
        if not measures and not self.flavour.built_on_the_gpu:
            targets.check_known(library.load(self.flavour), options.tensorrt.compute_capabilities)
            return
        found = self._device(options)  # before the library: without a GPU, installing that would not help
        trt = library.load(self.flavour)
        self._check_runs_on(trt, found.name, _numbers(found.capability), options)
        targets.check_known(trt, options.tensorrt.compute_capabilities)

    def files(self, engine: Path) -> list[str]:
        return loading.names(engine)

    def identity(self, options: RuntimeOptions) -> dict[str, Any]:
        """TensorRT times kernels on the GPU; TensorRT for RTX compiles its kernels there, and keeps them with the plan."""
        gpu = self._compiling_device(options)
        return {
            "tf32": options.tf32,
            "options": options.tensorrt.of_the_plan(),
            "gpu": {"name": gpu.name, "capability": gpu.capability, "driver": gpu.driver_cuda} if gpu else None,
        }

    def build(self, prepared: Path, out_dir: Path, options: RuntimeOptions, context: BuildContext) -> Path:
        trt = library.load(self.flavour)
        gpu = self._cuda(options) if self.flavour.built_on_the_gpu else None
        here = Gpu(gpu.name(), gpu.versions()["driver"], gpu.memory()[0]) if gpu else None
        plan = building.build(trt, self.flavour, prepared, out_dir, options, context, here)
        if self._compiling_device(options) is not None and not self.flavour.built_on_the_gpu:
            self._compile(trt, plan, options, context)
        return plan

    def load(self, loadable: Loadable) -> Session:
        trt = library.load(self.flavour)
        contents = loading.read(loadable)
        return self._open(trt, loadable.path.name, contents, loadable.options)

    def describe(self, options: RuntimeOptions) -> dict[str, Any]:
        return {
            "backend": self.name,
            "backend_version": self.version(),
            "device": options.device,
            "tf32": options.tf32,
            "cuda_graph": options.cuda_graph,
            "transfers": options.transfers,
            "tensorrt": options.tensorrt.as_json(),
        }

    def _open(self, trt: Any, name: str, contents: loading.Contents, options: RuntimeOptions) -> TensorRTSession:
        gpu = self._cuda(options)
        self._check_runs_on(trt, gpu.name(), gpu.capability(), options)
        opened = loading.open_engine(trt, self.flavour, name, contents, options, gpu.name())
        with closed_on_failure(opened):
            return TensorRTSession(trt, gpu, opened, options, Situation(self.flavour.title, name, "run"))

    def _compile(self, trt: Any, plan: Path, options: RuntimeOptions, context: BuildContext) -> None:
        """Run the plan once on this GPU, and keep the kernels that were compiled for it beside the plan."""
        context.progress("compiling kernels for this GPU", None)
        session = self._open(trt, plan.name, loading.Contents(plan.read_bytes(), b""), options)
        try:
            session.bind({tensor.name: _example(tensor, context) for tensor in session.inputs})
            session.run()
            compiled = session.compiled()
        finally:
            session.close()
        if compiled:
            files.write_atomic(plan.with_name(loading.JIT_CACHE), compiled)

    def _check_runs_on(self, trt: Any, gpu: str, capability: tuple[int, int], options: RuntimeOptions) -> None:
        targets.check_runs_on(trt, self.flavour.title, gpu, capability, options.tensorrt.compute_capabilities)

    def _compiling_device(self, options: RuntimeOptions) -> Device | None:
        """The GPU whose kernels go into the engine's files; None where there is none that this library runs on. Who
        only builds for other GPUs needs none, nor a driver that works; who measures was refused before."""
        if not self.flavour.built_on_the_gpu and not devices.visible():
            return None
        try:
            found = devices.facts(options.gpu or 0)
            self._check_runs_on(library.load(self.flavour), found.name, _numbers(found.capability), options)
        except BackendUnavailableError:
            return None
        return found

    def _device(self, options: RuntimeOptions) -> Device:
        """The GPU, asked from a child process.

        Raises:
            BackendUnavailableError: there is none, or it cannot be used.
        """
        try:
            if not devices.visible():
                raise cuda.no_driver("This host has no device files of an NVIDIA GPU (`/dev/nvidia*`).")
            return devices.facts(options.gpu or 0)
        except BackendUnavailableError as error:
            raise _needs_gpu(self.flavour, error) from None

    def _cuda(self, options: RuntimeOptions) -> Cuda:
        """The GPU, opened in this process: a worker's or a builder's."""
        try:
            return cuda.cuda(options.gpu or 0)
        except BackendUnavailableError as error:
            raise _needs_gpu(self.flavour, error) from None


class TensorRTRtxBackend(TensorRTBackend):
    """TensorRT for RTX: builds anywhere, compiles and runs on GeForce and RTX GPUs."""

    flavour = library.RTX
    name = library.RTX.backend


def _needs_gpu(flavour: Flavour, error: BackendUnavailableError) -> BackendUnavailableError:
    why = f"{error.what} {error.why}".strip()
    if flavour.built_on_the_gpu:
        return BackendUnavailableError(
            f"The {flavour.backend} backend needs an NVIDIA GPU, to build as well as to run, and there is none to use.",
            why=f"A plan is made by timing kernels on the GPU that it will run on. {why}",
            fix="Run on a machine with that GPU; without one, `backend: onnxruntime` measures on the CPU and "
            "`trt-action build --backend tensorrt-rtx` builds.",
        )
    return BackendUnavailableError(
        f"Measuring with the {flavour.backend} backend needs a GPU that it supports, and there is none to use.",
        why=why,
        fix="`trt-action build` works without one; to measure, run on a machine with a GeForce or RTX GPU.",
    )


def _example(tensor: Tensor, context: BuildContext) -> Array:
    """Zeros at the measured shape; sizes as they are measured."""
    known = context.shapes.get(tensor.name, {})
    shape = [int(dim or 1) for dim in known.get("opt", tensor.shape)]
    if values := known.get("values"):
        return np.array(values["opt"], numpy_dtype(tensor.dtype)).reshape(shape)
    return np.zeros(shape, numpy_dtype(tensor.dtype))


def _numbers(capability: str) -> tuple[int, int]:
    """`8.9` → (8, 9)."""
    major, _, minor = capability.partition(".")
    return int(major), int(minor)
