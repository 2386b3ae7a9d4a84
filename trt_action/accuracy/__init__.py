"""Is it still right? Parity with the FP32 reference, and the task metric on labelled data.

`check` is loaded when it is first asked for: the inference child imports `accuracy.infer` and needs none of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trt_action.accuracy.checking import check
    from trt_action.accuracy.trials import Trials

__all__ = ["Trials", "check"]

_ROOMS = {"check": "checking", "Trials": "trials"}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(importlib.import_module(f"trt_action.accuracy.{_ROOMS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
