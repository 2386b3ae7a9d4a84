"""The GPU is watched from the first stage to the last measured inference, by the process that measures nothing itself."""

from __future__ import annotations

from typing import Any

from trt_action.draft import Draft
from trt_action.engine import devices, nvml
from trt_action.engine.backend import RuntimeOptions
from trt_action.process import Progress


def begin(draft: Draft, options: RuntimeOptions) -> None:
    """Before anything of this run is on the GPU; nothing on the CPU."""
    if options.gpu is None:
        return
    draft.watch, why = nvml.watch(devices.facts(options.gpu).uuid)
    if draft.watch is None:
        draft.warnings.append(f"Nobody watches the GPU for throttling and neighbours: {why}")


def looking(draft: Draft, progress: Progress, *, windows: bool = False) -> Progress:
    """Progress is told between two timed parts: the moment to look at the GPU. `windows`: the watch is asked about each
    of them (`measure.windows`), so that a GPU that slows down between them is no doubt."""

    def told(text: str, share: float | None) -> None:
        if draft.watch is not None:
            draft.watch.look(windows=windows)
        progress(text, share)

    return told


def conclude(draft: Draft) -> None:
    """What became of the GPU. A doubt takes the comparison's verdict back; `stopped` does the same when the verdict is
    computed from the pairs again."""
    if draft.watch is None:
        return
    draft.telemetry = draft.watch.finish()
    draft.watch = None
    draft.warnings += draft.telemetry.warnings
    doubt, comparison = draft.telemetry.doubt, draft.comparison
    if not doubt:
        return
    draft.warnings.append(doubt)
    if comparison is not None:
        limit_status = "not-checked" if comparison.limit is None else "inconclusive"
        taken_back: dict[str, Any] = {"verdict": "inconclusive", "p99_verdict": "inconclusive", "reason": doubt}
        taken_back |= {"limit_status": limit_status, "stopped": doubt, "more_pairs_needed": None}
        draft.comparison = comparison.model_copy(update=taken_back)
