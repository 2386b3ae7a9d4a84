"""A loaded plan: inputs copied once, `run` as bare as Python allows, on a stream of its own."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from trt_action.engine import rooms
from trt_action.engine.backend import Array, DeviceTimes, Feeds, RawLayers, RuntimeOptions, Tensor, numpy_dtype
from trt_action.engine.cuda import Cuda, Graph
from trt_action.engine.device import Buffer, Steps, Timeline, freed_on_failure
from trt_action.engine.ort_session import check_feeds
from trt_action.engine.rooms import Fit, Fits, Rooms
from trt_action.engine.tensorrt import causes, loading, ports, profiling, sizes
from trt_action.engine.tensorrt.causes import Situation
from trt_action.engine.tensorrt.lifetime import let_go
from trt_action.engine.tensorrt.loading import Opened
from trt_action.engine.tensorrt.outputs import Growing, allocator
from trt_action.errors import BuildError, DataError
from trt_action.inputs import quote


class _Call:
    """Holds `execute_async_v3`, and with it the context: an exception that holds `run` must not hold the context."""

    __slots__ = ("execute",)

    def __init__(self) -> None:
        self.execute: Callable[[int], bool] = _refuse


class TensorRTSession:
    """See `backend.Session`. With `transfers`, `run` is: copy inputs from page-locked memory, compute, copy outputs there,
    wait; without, inputs are on the device already and outputs stay there until `fetch`.

    A CUDA graph holds the computing only, as trtexec's does; TensorRT for RTX captures it itself.
    """

    run: Callable[[], None]
    concurrent = False

    def __init__(self, trt: Any, gpu: Cuda, opened: Opened, options: RuntimeOptions, situation: Situation) -> None:
        self._trt, self._gpu, self._options, self._situation = trt, gpu, options, situation
        self._opened: Opened | None = opened
        self._inputs, self._outputs = ports.tensors(trt, opened.engine)
        self._context = loading.new_context(opened, situation)
        self._own_graph = options.cuda_graph and opened.runtime_config is None
        self._resources = contextlib.ExitStack()
        self._bound = contextlib.ExitStack()
        self._stream = gpu.stream()
        self._resources.callback(gpu.destroy_stream, self._stream)
        self._timeline = Timeline(gpu, self._stream)
        self._resources.callback(self._timeline.close)
        self._in: dict[str, Buffer] = {}
        self._sizes: dict[str, Array] = {}
        """Inputs and outputs that TensorRT reads and writes in the host's memory: their values decide shapes."""
        self._out: dict[str, Buffer] = {}
        self._growing: dict[str, Growing] = {}
        self._allocators: list[Any] = []
        self._rooms = Rooms(gpu)
        self._resources.callback(self._rooms.close)
        self._known = Fits(self._rooms)
        self._shapes: tuple[tuple[int, ...], ...] | None = None
        both = (*self._inputs, *self._outputs)
        self._steady = not self._own_graph and not any(self._on_host(tensor.name) for tensor in both)
        self._steps = Steps(_nothing, _unready, _nothing)
        self._call = _Call()
        self._upload: Callable[[], None] = _nothing
        self._download: Callable[[], None] = _nothing
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
        if not self._fits(feeds):
            self._rebind(feeds)
        for name, buffer in self._in.items():
            buffer.host[...] = feeds[name]
        self._upload()
        self._gpu.synchronize(self._stream)

    def fetch(self) -> dict[str, Array]:
        self._check_open()
        if not self._options.transfers:
            self._download()
            self._gpu.synchronize(self._stream)
        return {tensor.name: np.array(self._host(tensor.name)) for tensor in self._outputs}

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """See `backend.infer`. Buffers are as large as the largest inputs so far, so that other sizes cost a lookup and
        a call per input.

        The long way (`bind`, `run`, `fetch`) is taken where values decide about sizes, and with a CUDA graph of ours: it
        is recorded for one set of shapes.
        """
        self._check_open()
        shapes = tuple(feeds[tensor.name].shape for tensor in self._inputs)
        fit = (self._known.get(shapes) or self._fit(shapes)) if self._steady else None
        if fit is None:
            self.bind(feeds)
            self.run()
            return self.fetch()
        if shapes != self._shapes:
            self._set_shapes(shapes)
        return rooms.run(fit, feeds, lambda: self._gpu.synchronize(self._stream))

    def device_times(self, iterations: int) -> DeviceTimes | None:
        self._check_open()
        return self._timeline.times(
            self._steps, iterations, transfers=self._options.transfers, asynchronous=not self._growing
        )

    def layers(self, iterations: int) -> RawLayers | None:
        """In a context of its own: the one that is timed never has a profiler."""
        opened = self._check_open()
        context = loading.new_context(opened, self._situation)
        for tensor in self._inputs:
            self._require(context.set_input_shape(tensor.name, self._bound_input(tensor.name).shape))
        self._set_addresses(context)
        document = profiling.inspect(self._trt, opened.engine, context)
        runs = profiling.runs(self._trt, context, self._infer_in, iterations)
        return RawLayers("tensorrt-inspector", document, iterations, runs)

    def current(self) -> AbstractContextManager[None]:
        """Make this session's GPU current in another thread (`device.current`)."""
        return self._gpu.current()

    def compiled(self) -> bytes:
        """What TensorRT for RTX has compiled so far, to be kept beside the plan; empty for TensorRT."""
        return loading.compiled(self._check_open())

    def close(self) -> None:
        """Children before parents: TensorRT's objects use what they were made from until they are gone."""
        if self._opened is None:
            return
        let_go(sys.exception())  # who closes because of one must not hold the context by it
        self._gpu.synchronize(self._stream)
        opened, self._opened = self._opened, None
        self._release()
        self._known.clear()
        self._call.execute = _refuse
        self._context = None
        self._allocators = []
        opened.close()
        self._resources.close()

    def _make_run(self) -> Callable[[], None]:
        """A closure: nothing is looked up in a timed loop but the steps."""
        steps, synchronize, stream = self._steps, self._gpu.synchronize, self._stream

        def with_transfers() -> None:
            steps.upload()
            steps.compute()
            steps.download()
            synchronize(stream)

        def without() -> None:
            steps.compute()
            synchronize(stream)

        return with_transfers if self._options.transfers else without

    def _fit(self, shapes: tuple[tuple[int, ...], ...]) -> Fit | None:
        """An inference of these shapes; None where the sizes of outputs are not known before."""
        self._release()
        self._set_shapes(shapes)
        context, found = self._context, self._rooms
        inputs = {t.name: (s, numpy_dtype(t.dtype)) for t, s in zip(self._inputs, shapes, strict=True)}
        outputs = {t.name: (tuple(context.get_tensor_shape(t.name)), numpy_dtype(t.dtype)) for t in self._outputs}
        if any(-1 in shape for shape, _ in outputs.values()):
            self._steady = False
            return None
        found.make(inputs | outputs)
        for name in inputs | outputs:
            self._require(context.set_tensor_address(name, found.pointer(name)))
        views_in, views_out = found.views(inputs), found.views(outputs)
        fit = Fit(
            views_in,
            views_out,
            upload=found.copies(views_in, self._stream, to_device=True),
            compute=self._enqueue(context),
            download=found.copies(views_out, self._stream, to_device=False),
            moves=found.moves,
        )
        return self._known.put(shapes, fit)

    def _set_shapes(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        self._shapes = None
        for tensor, shape in zip(self._inputs, shapes, strict=True):
            if not self._context.set_input_shape(tensor.name, shape):
                raise self._out_of_profile(tensor, shape)
        sizes.infer_shapes(self._context, self._check_open().said)
        self._shapes = shapes

    def _on_host(self, name: str) -> bool:
        location = self._check_open().engine.get_tensor_location(name)
        return bool(location == self._trt.TensorLocation.HOST)

    def _fits(self, feeds: Feeds) -> bool:
        """Same shapes, and the same values where values are sizes: all buffers can stay."""
        if not self._in and not self._sizes:
            return False
        return all(
            np.array_equal(self._sizes[tensor.name], feeds[tensor.name])
            if tensor.name in self._sizes
            else self._in[tensor.name].host.shape == feeds[tensor.name].shape
            for tensor in self._inputs
        )

    def _rebind(self, feeds: Feeds) -> None:
        self._release()
        self._rooms.close()
        self._shapes = None
        with freed_on_failure(self._release):
            self._bind_all(feeds)

    def _bind_all(self, feeds: Feeds) -> None:
        opened, context = self._check_open(), self._context
        for tensor in self._inputs:
            array = feeds[tensor.name]
            if self._on_host(tensor.name):
                sizes.check_values(opened.engine, tensor, array)
                self._on_the_host(tensor, array.shape)[...] = array
            else:
                buffer = self._in[tensor.name] = Buffer(self._gpu, array.shape, array.dtype)
                self._bound.callback(buffer.free)
            if not context.set_input_shape(tensor.name, array.shape):
                raise self._out_of_profile(tensor, array.shape)
        for tensor in self._outputs:
            if self._on_host(tensor.name):  # written when shapes are inferred: never where an earlier one was
                self._on_the_host(tensor, sizes.fixed(tensor))[...] = 0
        for name, array in self._sizes.items():
            self._require(context.set_tensor_address(name, array.ctypes.data))
        sizes.infer_shapes(context, opened.said)
        for tensor in self._outputs:
            if tensor.name not in self._sizes:
                self._make_output(context, tensor)
        self._set_addresses(context)
        self._make_steps(context)

    def _on_the_host(self, tensor: Tensor, shape: tuple[int, ...]) -> Array:
        """Page-locked, because that is aligned as TensorRT asks for addresses, and kept: it is read in every inference."""
        dtype = numpy_dtype(tensor.dtype)
        raw = self._gpu.pinned(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
        self._bound.callback(self._gpu.free_pinned, raw)
        array = self._sizes[tensor.name] = raw.view(dtype).reshape(shape)
        return array

    def _make_output(self, context: Any, tensor: Tensor) -> None:
        dtype, shape = numpy_dtype(tensor.dtype), tuple(context.get_tensor_shape(tensor.name))
        if -1 not in shape:
            buffer = self._out[tensor.name] = Buffer(self._gpu, shape, dtype)
            self._bound.callback(buffer.free)
            return
        if self._options.cuda_graph:
            raise BuildError(
                f"Output {quote(tensor.name)} has a shape that is not known before the inference.",
                why="A CUDA graph replays one recording, with buffers of one size.",
                fix="Set `cuda-graph: false` for this model.",
            )
        growing = self._growing[tensor.name] = Growing(self._gpu, dtype)
        self._bound.callback(growing.free)

    def _set_addresses(self, context: Any) -> None:
        for name, array in self._sizes.items():
            self._require(context.set_tensor_address(name, array.ctypes.data))
        for name, buffer in (self._in | self._out).items():
            self._require(context.set_tensor_address(name, buffer.pointer))
        for name, growing in self._growing.items():
            made = allocator(self._trt, growing)
            self._allocators.append(made)
            self._require(context.set_output_allocator(name, made))

    def _make_steps(self, context: Any) -> None:
        gpu, stream = self._gpu, self._stream
        self._upload = gpu.copies([(b.pointer, b.host) for b in self._in.values()], stream, to_device=True)
        fixed = gpu.copies([(b.pointer, b.host) for b in self._out.values()], stream, to_device=False)
        growing = tuple(self._growing.values())

        def all_of_them() -> None:
            fixed()
            for output in growing:
                output.download(stream)

        self._download = all_of_them if growing else fixed
        self._steps.upload, self._steps.download = self._upload, self._download
        self._steps.compute = self._make_compute(context)

    def _make_compute(self, context: Any) -> Callable[[], None]:
        stream, enqueue = self._stream, self._enqueue(context)
        if not self._own_graph:
            return enqueue
        self._upload()
        enqueue()  # TensorRT finishes its own set-up in the first inference, which cannot be captured
        self._gpu.synchronize(stream)
        graph: Graph = self._gpu.capture(stream, enqueue)
        self._bound.callback(graph.close)
        launch = graph.launch

        def replay() -> None:
            launch(stream)

        return replay

    def _enqueue(self, context: Any) -> Callable[[], None]:
        call, stream, failed = self._call, self._stream, self._failed
        call.execute = context.execute_async_v3

        def enqueue() -> None:
            if not call.execute(stream):
                raise failed()

        return enqueue

    def _infer_in(self, context: Any) -> None:
        self._require(context.execute_async_v3(self._stream))
        self._gpu.synchronize(self._stream)

    def _require(self, accepted: bool) -> None:
        """TensorRT's False is never passed over: it would go on with an address of before."""
        if not accepted:
            raise self._failed()

    def _failed(self) -> Exception:
        """Why an inference was refused."""
        for growing in self._growing.values():
            if growing.failure is not None:
                return growing.failure
        said = self._check_open().said
        error = causes.found(said, self._situation)
        said.clear()
        return error

    def _bound_input(self, name: str) -> Array:
        return self._sizes[name] if name in self._sizes else self._in[name].host

    def _host(self, name: str) -> Array:
        if name in self._sizes:
            return self._sizes[name]
        return self._out[name].host if name in self._out else self._growing[name].host()

    def _out_of_profile(self, tensor: Tensor, shape: tuple[int, ...]) -> DataError:
        opened = self._check_open()
        opened.said.clear()  # this is said by us
        low, _, high = (list(bound) for bound in opened.engine.get_tensor_profile_shape(tensor.name, 0))
        return DataError(
            f"Input {quote(tensor.name)} has shape {list(shape)}; the engine was built for {low} to {high}.",
            fix="Give data in that range, or build with other `shapes`.",
        )

    def _release(self) -> None:
        self._steps.upload, self._steps.compute, self._steps.download = _nothing, _unready, _nothing
        self._bound.close()
        self._in, self._sizes, self._out, self._growing = {}, {}, {}, {}

    def _check_open(self) -> Opened:
        if self._opened is None:
            raise BuildError("An engine was used after it was closed.", fix="Please report this.")
        return self._opened


def _nothing() -> None:
    return None


def _refuse(stream: int) -> bool:
    return False


def _unready() -> None:
    raise BuildError(
        "An engine was used before its inputs were bound, or after it was closed.", fix="Please report this."
    )
