"""A model loaded on ONNX Runtime's CUDA provider: inputs and outputs in device memory of ours, on a stream of ours."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trt_action.engine import ort_cuda, rooms
from trt_action.engine.backend import Array, DeviceTimes, Feeds, RawLayers, RuntimeOptions, Tensor
from trt_action.engine.cuda import Cuda
from trt_action.engine.device import Buffer, Steps, Timeline
from trt_action.engine.ort_session import check_feeds, failures, inference_failed, profile, tensors
from trt_action.engine.rooms import Fit, Fits, Rooms
from trt_action.errors import BuildError

Open = Callable[[int, Path | None], Any]
"""Makes an `InferenceSession` on a stream; with a folder, one that writes its profile there."""

UNSYNCHRONIZED = "disable_synchronize_execution_providers"
"""Run option: `run_with_iobinding` returns when everything is enqueued. The copies out and the wait are ours."""


class OnnxRuntimeCudaSession:
    """See `backend.Session`. With `transfers`, `run` is: copy inputs from page-locked memory, compute, copy outputs
    there, wait. Without, inputs are on the device already and outputs stay there; `fetch` copies them.

    Outputs whose shapes follow from those of the inputs are bound to memory of ours; others are allocated by the first
    inference, and again when their size changes.
    """

    run: Callable[[], None]
    concurrent = False

    def __init__(self, ort: Any, gpu: Cuda, options: RuntimeOptions, open_session: Open) -> None:
        self._ort, self._gpu, self._options, self._open = ort, gpu, options, open_session
        self._resources = contextlib.ExitStack()
        self._buffers = contextlib.ExitStack()
        self._stream = gpu.stream()
        self._resources.callback(gpu.destroy_stream, self._stream)
        try:
            self._session = open_session(self._stream, None)
            self._inputs = tensors(self._session.get_inputs(), "input")
            self._outputs = tensors(self._session.get_outputs(), "output")
        except BaseException:
            self._session = None
            self._resources.close()
            raise
        self._timeline = Timeline(gpu, self._stream)
        self._resources.callback(self._timeline.close)
        self.notes = tuple(note for note in (ort_cuda.placement_note(self._session),) if note)
        self._binding = self._session.io_binding()
        self._in: dict[str, Buffer] = {}
        self._out: dict[str, Buffer] = {}
        self._rooms = Rooms(gpu)
        self._resources.callback(self._rooms.close)
        self._fits = Fits(self._rooms)
        self._graphs = 0
        self._run_options: Any = None
        self._known_sizes = True
        self._steps = Steps(_nothing, self._check_open, _nothing)
        self.run = self._make_run()

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self._inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return self._outputs

    def bind(self, feeds: Feeds) -> None:
        self._check_open()
        check_feeds(self._inputs, feeds)
        if not self._in or any(self._in[name].host.shape != feeds[name].shape for name in feeds):
            self._rebind(feeds)
        for name, buffer in self._in.items():
            buffer.host[...] = feeds[name]
        self._upload()
        self._gpu.synchronize(self._stream)
        if len(self._out) < len(self._outputs):
            self._guarded(self._discover)

    def fetch(self) -> dict[str, Array]:
        self._check_open()
        self._download()
        self._gpu.synchronize(self._stream)
        return {tensor.name: np.array(self._out[tensor.name].host) for tensor in self._outputs}

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """See `backend.infer`. Buffers are as large as the largest inputs so far, so that other sizes cost a lookup.

        Outputs whose sizes follow from the values take the long way: `bind`, `run`, `fetch`.
        """
        self._check_open()
        shapes = tuple(feeds[tensor.name].shape for tensor in self._inputs)
        try:
            fit = self._fits.get(shapes) or self._fit(shapes, feeds)
            if fit is not None:
                return rooms.run(fit, feeds, lambda: self._gpu.synchronize(self._stream))
        except failures(self._ort) as error:
            if "output OrtValue provided" not in str(error):
                raise inference_failed(self._ort, error) from None
            self._known_sizes = False
        self.bind(feeds)
        self.run()
        return self.fetch()

    def device_times(self, iterations: int) -> DeviceTimes | None:
        self._check_open()
        # A replayed graph is waited for inside ONNX Runtime: its host time is no enqueue time.
        return self._timeline.times(
            self._steps,
            iterations,
            transfers=self._options.transfers,
            asynchronous=not self._options.cuda_graph,
        )

    def layers(self, iterations: int) -> RawLayers | None:
        self._check_open()
        feeds = {name: np.array(buffer.host) for name, buffer in self._in.items()}

        def watched(folder: Path) -> OnnxRuntimeCudaSession:
            plain = replace(self._options, cuda_graph=False)  # a replayed graph has no layers
            return OnnxRuntimeCudaSession(self._ort, self._gpu, plain, lambda stream, _: self._open(stream, folder))

        return profile(watched, feeds, iterations)

    def end_profiling(self) -> str:
        """Path of the profile, for a session that was opened with one."""
        return str(self._session.end_profiling())

    def current(self) -> AbstractContextManager[None]:
        """Make this session's GPU current in another thread (`device.current`)."""
        return self._gpu.current()

    def close(self) -> None:
        if self._session is None:
            return
        self._gpu.synchronize(self._stream)
        self._session = self._binding = None
        self._in, self._out = {}, {}
        self._fits.clear()
        self._steps.upload = self._steps.compute = self._steps.whole = self._check_open
        self._buffers.close()
        self._resources.close()

    def _make_run(self) -> Callable[[], None]:
        """A closure: nothing is looked up in a timed loop but the steps."""
        steps, synchronize, stream, recover = self._steps, self._gpu.synchronize, self._stream, self._recover
        caught, waits = failures(self._ort), self._options.cuda_graph

        def with_transfers() -> None:
            steps.upload()
            try:
                steps.whole()
            except caught as error:
                recover(error)
            steps.download()
            synchronize(stream)

        def without() -> None:
            try:
                steps.whole()
            except caught as error:
                recover(error)
            if waits:
                synchronize(stream)

        return with_transfers if self._options.transfers else without

    def _rebind(self, feeds: Feeds) -> None:
        self._buffers.close()
        self._in, self._out = {}, {}
        self._binding = self._session.io_binding()
        gpu, number = self._gpu, self._options.gpu
        inputs: dict[str, Buffer] = {}
        for tensor in self._inputs:
            shape, dtype = feeds[tensor.name].shape, np.dtype(tensor.dtype)
            buffer = inputs[tensor.name] = self._buffer(shape, dtype)
            self._binding.bind_input(tensor.name, "cuda", number, dtype.type, shape, buffer.pointer)
        sizes = _sizes(self._inputs, feeds)
        known = {tensor.name: _resolved(tensor, sizes) for tensor in self._outputs}
        for tensor in self._outputs:
            output_shape, dtype = known[tensor.name], np.dtype(tensor.dtype)
            if output_shape is None:
                self._refuse_in_graph(tensor)
                self._binding.bind_output(tensor.name, "cuda", number)
            else:
                buffer = self._out[tensor.name] = self._buffer(output_shape, dtype)
                self._binding.bind_output(tensor.name, "cuda", number, dtype.type, output_shape, buffer.pointer)
        self._in = inputs  # not before all is well: `bind` takes it for bound
        self._run_options = self._new_run_options()
        self._upload = gpu.copies([(b.pointer, b.host) for b in self._in.values()], self._stream, to_device=True)
        self._follow_outputs()
        call, binding, chosen = self._session.run_with_iobinding, self._binding, self._run_options
        self._steps.upload = self._upload
        self._steps.compute = lambda: call(binding, chosen)
        # Without run options ONNX Runtime waits for the GPU itself, and is 50 µs faster all the same (docs/gpu.md).
        self._steps.whole = self._steps.compute if self._options.cuda_graph else lambda: call(binding)

    def _fit(self, shapes: tuple[tuple[int, ...], ...], feeds: Feeds) -> Fit | None:
        """An inference of these shapes; None where the sizes of outputs are not known before."""
        sizes = _sizes(self._inputs, feeds)
        known = {tensor.name: _resolved(tensor, sizes) for tensor in self._outputs}
        if not self._known_sizes or None in known.values():
            return None
        wanted_in = {t.name: (feeds[t.name].shape, np.dtype(t.dtype)) for t in self._inputs}
        wanted_out = {t.name: (known[t.name] or (), np.dtype(t.dtype)) for t in self._outputs}
        found, number = self._rooms, self._options.gpu
        found.make(wanted_in | wanted_out)
        binding = self._session.io_binding()
        for name, (shape, dtype) in wanted_in.items():
            binding.bind_input(name, "cuda", number, dtype.type, shape, found.pointer(name))
        for name, (shape, dtype) in wanted_out.items():
            binding.bind_output(name, "cuda", number, dtype.type, shape, found.pointer(name))
        call, chosen = self._session.run_with_iobinding, self._new_run_options()
        views_in, views_out = found.views(wanted_in), found.views(wanted_out)
        return self._fits.put(
            shapes,
            Fit(
                views_in,
                views_out,
                upload=found.copies(views_in, self._stream, to_device=True),
                compute=(lambda: call(binding, chosen)) if self._options.cuda_graph else (lambda: call(binding)),
                download=found.copies(views_out, self._stream, to_device=False),
                moves=found.moves,
            ),
        )

    def _buffer(self, shape: tuple[int, ...], dtype: np.dtype[Any], pointer: int | None = None) -> Buffer:
        buffer = Buffer(self._gpu, shape, dtype, pointer)
        self._buffers.callback(buffer.free)
        return buffer

    def _follow_outputs(self) -> None:
        pairs = [(buffer.pointer, buffer.host) for buffer in self._out.values()]
        self._download = self._gpu.copies(pairs, self._stream, to_device=False)
        self._steps.download = self._download

    def _new_run_options(self) -> Any:
        chosen = self._ort.RunOptions()
        chosen.add_run_config_entry(UNSYNCHRONIZED, "1")
        if (
            self._options.cuda_graph
        ):  # a graph holds the addresses that it was recorded with: other buffers, other graph
            self._graphs += 1
            chosen.add_run_config_entry("gpu_graph_id", str(self._graphs))
        return chosen

    def _discover(self) -> None:
        """One inference that allocates the outputs whose shapes are not known; they are followed where they lie."""
        self._session.run_with_iobinding(self._binding, self._run_options)
        self._gpu.synchronize(self._stream)
        for tensor, value in zip(self._outputs, self._binding.get_outputs(), strict=True):
            pointer, shape = int(value.data_ptr()), tuple(value.shape())
            known = self._out.get(tensor.name)
            if known is None or (known.pointer, known.host.shape) != (pointer, shape):
                self._out[tensor.name] = self._buffer(shape, np.dtype(tensor.dtype), pointer)
        self._follow_outputs()

    def _recover(self, error: Exception) -> None:
        """An output's shape changed with the values of the inputs: let the runtime allocate it anew, and run again."""
        if "output OrtValue provided" not in str(error):
            raise inference_failed(self._ort, error) from None
        for tensor in self._outputs:
            self._refuse_in_graph(tensor)
            self._binding.bind_output(tensor.name, "cuda", self._options.gpu)
        self._guarded(self._discover)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except failures(self._ort) as error:
            raise inference_failed(self._ort, error) from None

    def _refuse_in_graph(self, tensor: Tensor) -> None:
        if self._options.cuda_graph:
            raise BuildError(
                f"Output `{tensor.name[:100]}` has a shape that is not known before the inference.",
                why="A CUDA graph replays one recording, with buffers of one size.",
                fix="Set `cuda-graph: false` for this model.",
            )

    def _check_open(self) -> None:
        if self._session is None:
            raise BuildError("An engine was used after it was closed.", fix="Please report this.")


def _nothing() -> None:
    return None


def _sizes(inputs: tuple[Tensor, ...], feeds: Feeds) -> dict[str, int]:
    """What the symbolic dimensions of the inputs stand for."""
    pairs = ((dim, size) for tensor in inputs for dim, size in zip(tensor.shape, feeds[tensor.name].shape, strict=True))
    return {dim: size for dim, size in pairs if isinstance(dim, str)}


def _resolved(tensor: Tensor, sizes: dict[str, int]) -> tuple[int, ...] | None:
    """The shape of an output, if it follows from the inputs'."""
    found = [sizes.get(dim) if isinstance(dim, str) else dim for dim in tensor.shape]
    return None if any(size is None for size in found) else tuple(size for size in found if size is not None)
