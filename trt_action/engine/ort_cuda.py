"""ONNX Runtime's CUDA provider: its options, each one said, and the proof that it is the one that runs.

Sources: onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html; what its defaults do on an H200 was
measured (docs/gpu.md): `use_tf32` is on by default, which makes "fp32" twice as fast and 10 bits exact.
"""

from __future__ import annotations

import ctypes
import functools
from collections import Counter
from pathlib import Path
from typing import Any

from trt_action.engine.backend import RuntimeOptions
from trt_action.errors import BackendUnavailableError
from trt_action.inputs import quote_all

PROVIDER = "CUDAExecutionProvider"
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8")
ASSIGNMENT = "session.record_ep_graph_assignment_info"
"""Session entry (ONNX Runtime ≥ 1.24) that makes a session remember which provider got which node."""

INSTALL = (
    "`pip install onnxruntime-gpu` instead of `onnxruntime`, with CUDA and cuDNN of the versions that it names "
    "(onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html#requirements), or set `device: cpu`."
)


def available(ort: Any) -> bool:
    """Whether this build of the library has the provider; says nothing about the GPU."""
    return PROVIDER in ort.get_available_providers()


def check(ort: Any) -> None:
    """Raises:
    BackendUnavailableError: this ONNX Runtime has no CUDA provider.
    """
    if not available(ort):
        raise BackendUnavailableError(
            f"ONNX Runtime {ort.__version__} here has no CUDA provider.",
            why=f"This build has {quote_all(ort.get_available_providers())}.",
            fix=INSTALL,
        )


@functools.cache
def preload() -> None:
    """Load CUDA's and cuDNN's libraries from Python packages, where they are installed that way."""
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):  # since 1.21
        onnxruntime.preload_dlls()


def provider_options(options: RuntimeOptions, stream: int) -> dict[str, str]:
    """Every option that changes speed or numbers. `stream` 0 leaves the stream to ONNX Runtime (builds)."""
    chosen = {
        "device_id": str(options.gpu),
        "use_tf32": "1" if options.tf32 else "0",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "cudnn_conv_use_max_workspace": "1",
        "enable_cuda_graph": "1" if options.cuda_graph else "0",
    }
    return chosen | ({"user_compute_stream": str(stream)} if stream else {})


def verify(session: Any, ort: Any) -> None:
    """ONNX Runtime goes on without a provider that it cannot load; a run that was asked for a GPU does not.

    Raises:
        BackendUnavailableError: the CUDA provider is not the session's first.
    """
    found = session.get_providers()
    if found[:1] == [PROVIDER]:
        return
    raise BackendUnavailableError(
        f"ONNX Runtime {ort.__version__} did not load its CUDA provider and would have run on "
        f"{quote_all(found)} without a word.",
        why=_why_not_loaded(Path(ort.__file__).parent / "capi"),
        fix=f"Check the versions of CUDA and cuDNN: {INSTALL}",
    )


def on_other_providers(session: Any) -> list[str] | None:
    """Operators of the nodes that another provider got, sorted; None where this ONNX Runtime cannot tell.

    Copies between host and device that ONNX Runtime puts around them are not counted.
    """
    tell = getattr(session, "get_provider_graph_assignment_info", None)
    if tell is None:
        return None
    return sorted(node.op_type for part in tell() if part.ep_name != PROVIDER for node in part.get_nodes())


def placement_note(session: Any) -> str:
    """One sentence about nodes that do not run on the GPU; empty if there are none."""
    found = on_other_providers(session)
    if found is None:
        return "This version of ONNX Runtime does not tell which nodes run on the CPU."
    if not found:
        return ""
    kinds = ", ".join(f"{count} {name}" if count > 1 else name for name, count in Counter(found).most_common(8))
    some = "1 node runs" if len(found) == 1 else f"{len(found)} nodes run"
    return f"{some} on the CPU, not on the GPU ({kinds}); small ones that compute shapes belong there."


def _why_not_loaded(folder: Path) -> str:
    """The dynamic linker's words about the provider's library, which ONNX Runtime writes to its log only."""
    try:
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / "libonnxruntime_providers_cuda.so"))
    except OSError as error:
        return str(error)[:400]
    return "Its library loads; the reason is in the log of ONNX Runtime."
