"""A loaded version of a model: what it takes and gives, its queue, its counters, and an end that waits for its requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from trt_action.serve import refusal
from trt_action.serve.batching import Batcher, Call, Limits
from trt_action.serve.decode import Decoder
from trt_action.serve.engines import beside
from trt_action.serve.folder import Served
from trt_action.serve.refusal import RefusedError
from trt_action.serve.stats import Stats
from trt_action.serve.tensors import Port, check_values

PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan", "tensorrt-lean": "tensorrt_plan"}
"""Triton's names of platforms, which clients know; every other backend keeps its own name."""


class Model:
    """One version, loaded. Requests hold it while they run, so a swap never changes it under them."""

    def __init__(
        self,
        served: Served,
        inputs: Mapping[str, Port],
        outputs: Mapping[str, Port],
        batcher: Batcher,
        stats: Stats,
        limits: Limits,
        *,
        close: Callable[[], None],
    ) -> None:
        self.served = served
        self.name = served.place.model
        self.version = served.place.version
        self.inputs = inputs
        self.outputs = outputs
        self.decoder = Decoder(inputs, outputs)
        self._holding_sizes = tuple(port for port in inputs.values() if port.values is not None)
        self.batcher = batcher
        self.stats = stats
        self.limits = limits
        self.in_flight = 0
        self._close = close
        self._empty = asyncio.Event()

    def infer(self, call: Call, ended: Callable[[], None], *, alone: bool = False) -> None:
        """Run `call` and call `ended`; then its outputs, or its error, and its times are in it. `alone`: `Batcher.put`.

        Raises:
            RefusedError: the queue is full.
        """
        self.in_flight += 1
        call.ended = partial(self._ended, ended)
        try:
            self.batcher.put(call, alone=alone)
        except RefusedError:
            self._leave()
            raise

    def _ended(self, ended: Callable[[], None]) -> None:
        try:
            ended()
        finally:
            self._leave()

    def _leave(self) -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self._empty.set()

    def call(
        self, feeds: Mapping[str, Any], *, arrived: int, timeout: float, gone: Callable[[], bool] | None = None
    ) -> Call:
        """A request for this model. `timeout`: seconds from now.

        Raises:
            RefusedError: the model is batched, and the inputs have different numbers of rows: beside others in one run,
                a row of one request would meet the row of another. Or an input holds sizes that are out of range.
        """
        for port in self._holding_sizes:
            check_values(port, feeds[port.name])
        rows = 1
        if self.limits.rows > 1:
            rows, *others = (array.shape[0] for array in feeds.values())
            if any(other != rows for other in others):
                raise refusal.bad("The inputs have different numbers of rows (axis 0).")
        return Call(feeds, rows, arrived=arrived, deadline=time.monotonic() + timeout, gone=gone)

    async def retire(self) -> None:
        """Wait for the requests in flight, then free the engines."""
        while self.in_flight:
            self._empty.clear()
            await self._empty.wait()
        await beside(self._close)

    def metadata(self) -> dict[str, Any]:
        """As the protocol's model metadata."""
        backend = str(self.served.engine.get("backend"))
        return {
            "name": self.name,
            "versions": [self.version],
            "platform": PLATFORMS.get(backend, backend),
            "inputs": [port.metadata() for port in self.inputs.values()],
            "outputs": [port.metadata() for port in self.outputs.values()],
        }

    def config(self) -> dict[str, Any]:
        """As Triton's model configuration, the parts that have a meaning here. `max_batch_size` is 0 for a model that
        is not batched: then `dims` hold all axes."""
        batched = self.limits.rows > 1 and self.limits.pad_to is None
        backend = str(self.served.engine.get("backend"))

        def tensor(port: Port) -> dict[str, Any]:
            dims = list(port.shape[1:] if batched else port.shape)
            return {"name": port.name, "data_type": _config_type(port.datatype), "dims": dims}

        return {
            "name": self.name,
            "platform": PLATFORMS.get(backend, backend),
            "backend": backend,
            "version_policy": {"latest": {"num_versions": 1}},
            "max_batch_size": self.limits.rows if batched else 0,
            "input": [tensor(port) for port in self.inputs.values()],
            "output": [tensor(port) for port in self.outputs.values()],
            "instance_group": [{"name": self.name, "count": self.batcher.engines, "kind": "KIND_AUTO"}],
            **({"dynamic_batching": {}} if batched else {}),
        }


def _config_type(datatype: str) -> str:
    """Triton's configuration calls BYTES a string."""
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
