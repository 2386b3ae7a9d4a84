"""From a prepared ONNX graph to an engine, and from an engine to a session that runs.

`backend` is all that a measuring worker imports; the rest is loaded when it is first asked for, so that a worker's
start-up and memory hold nothing that serving would not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from trt_action.engine.backend import Backend
from trt_action.errors import BackendUnavailableError

if TYPE_CHECKING:
    from trt_action.engine.building import BuiltEngine, baseline, obtain, reference, runs_here, unoptimized
    from trt_action.engine.cache import Cache
    from trt_action.engine.devices import resolve_device
    from trt_action.engine.host import fingerprint, warnings

__all__ = [
    "BuiltEngine",
    "Cache",
    "backend",
    "baseline",
    "fingerprint",
    "obtain",
    "reference",
    "resolve_device",
    "runs_here",
    "unoptimized",
    "warnings",
]

BACKENDS = {
    "onnxruntime": "trt_action.engine.onnxruntime:OnnxRuntimeBackend",
    "tensorrt": "trt_action.engine.tensorrt.backend:TensorRTBackend",
    "tensorrt-rtx": "trt_action.engine.tensorrt.backend:TensorRTRtxBackend",
}
"""Where each backend's class is; imported when it is asked for."""

_ROOMS = {
    "building": ("BuiltEngine", "baseline", "obtain", "reference", "runs_here", "unoptimized"),
    "cache": ("Cache",),
    "devices": ("resolve_device",),
    "host": ("fingerprint", "warnings"),
}


def backend(name: str) -> Backend:
    """The backend of that name; its library is imported when it is first used.

    Raises:
        BackendUnavailableError: there is none of that name.
    """
    if name not in BACKENDS:
        raise BackendUnavailableError(f"There is no backend `{name}`.", fix=f"Use one of: {', '.join(BACKENDS)}.")
    module, _, kind = BACKENDS[name].partition(":")
    made: Backend = getattr(importlib.import_module(module), kind)()
    return made


def __getattr__(name: str) -> Any:
    for module, names in _ROOMS.items():
        if name in names:
            return getattr(importlib.import_module(f"trt_action.engine.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
