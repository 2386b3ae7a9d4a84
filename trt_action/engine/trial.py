"""One small inference in a child process: whether ONNX Runtime can use a device at all, proven and not assumed."""

from __future__ import annotations

from trt_action import process
from trt_action.engine.backend import RuntimeOptions
from trt_action.errors import BackendUnavailableError

SECONDS = 120.0


def onnxruntime_computes(device: str) -> str:
    """Which provider has computed, e.g. `CUDAExecutionProvider`.

    Args:
        device: `cpu` or `cuda:N`.

    Raises:
        TrtActionError: the library or the device cannot be used; says why.
    """
    options = RuntimeOptions(threads=1, device=device)
    answer = process.call(
        "trt_action.engine.worker:trial",
        {"options": options.as_json()},
        timeout=SECONDS,
        died=BackendUnavailableError,
    )
    return str(answer["provider"])
