"""ONNX Runtime as a tool of this room: to calibrate, to fold constants, to check what was written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

ERRORS_ONLY = 3
"""ONNX Runtime's log severity; its warnings would stand in the child's last words when it dies."""


def session(model: Path, *, fold_into: Path | None = None, external: bool = False) -> Any:
    """An `InferenceSession` on the CPU without graph optimisation, one thread per CPU of the affinity mask.

    With `fold_into`, the basic level is applied and the result is written there (weights in `<name>.data` beside it
    if `external`).
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if fold_into is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(fold_into)
        if external:
            key = "session.optimized_model_external_initializers_file_name"
            options.add_session_config_entry(key, f"{fold_into.name}.data")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
