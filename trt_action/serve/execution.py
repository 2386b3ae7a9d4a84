"""One run of an engine for one or several requests: put together, computed, taken apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from trt_action.engine.backend import Array, Session, infer
from trt_action.errors import DataError, TrtActionError
from trt_action.inputs import quote
from trt_action.serve.refusal import RefusedError

if TYPE_CHECKING:
    from trt_action.serve.batching import Call

Infer = Callable[[Mapping[str, Array]], dict[str, Array]]
Executed = tuple[int, int, int, int]
"""Rows, and nanoseconds of input, inference and output."""


def execute(engine: Infer, calls: Sequence[Call], pad_to: int | None) -> list[Executed]:
    """Answer `calls` with one run; each gets its `outputs` or its `error`, and its times.

    If a run for several fails, each is tried alone: a request answers only for itself.
    """
    started = time.perf_counter_ns()
    for call in calls:
        call.started = started
        call.batch = len(calls)
    try:
        return [_run(engine, calls, pad_to)]
    except Exception as error:  # noqa: BLE001 - the boundary of the engine's thread: the error belongs to the request
        if len(calls) > 1:
            return [done for call in calls for done in execute(engine, [call], pad_to)]
        calls[0].error = _told(error)
        calls[0].merged = calls[0].merged or started
        calls[0].computed = time.perf_counter_ns()
        return []


def _run(engine: Infer, calls: Sequence[Call], pad_to: int | None) -> Executed:
    rows = sum(call.rows for call in calls)
    feeds = _merge(calls, rows, pad_to)
    merged = time.perf_counter_ns()
    for call in calls:
        call.merged = merged
    outputs = engine(feeds)
    computed = time.perf_counter_ns()
    alone = len(calls) == 1 and (pad_to is None or rows == pad_to)
    if not alone:
        _check_rows(outputs, pad_to or rows)
    first = 0
    for call in calls:
        last = first + call.rows
        call.outputs = outputs if alone else {name: array[first:last] for name, array in outputs.items()}
        call.computed = computed
        first = last
    return rows, merged - calls[0].started, computed - merged, time.perf_counter_ns() - computed


def _merge(calls: Sequence[Call], rows: int, pad_to: int | None) -> Mapping[str, Array]:
    """Feeds of all calls along axis 0. Padding repeats the last row: values that the model is known to take."""
    missing = 0 if pad_to is None else pad_to - rows
    if len(calls) == 1 and not missing:
        return calls[0].feeds
    merged: dict[str, Array] = {}
    for name in calls[0].feeds:
        parts: list[Array] = [call.feeds[name] for call in calls]
        if missing:
            parts.append(np.repeat(parts[-1][-1:], missing, axis=0))
        merged[name] = np.concatenate(parts)
    return merged


def _check_rows(outputs: Mapping[str, Array], rows: int) -> None:
    """Raises:
    DataError: an output has not one row per row of the inputs, so that nobody knows whose is whose.
    """
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != rows:
            raise DataError(f"Output {quote(name)} has shape {list(array.shape)} for {rows} rows.")


def _told(error: Exception) -> RefusedError:
    """What the client hears: an engine's own words about its inputs, nothing of what happened inside."""
    if isinstance(error, DataError):
        return RefusedError(400, error.what, "model")
    if isinstance(error, TrtActionError):
        return RefusedError(500, error.title, "model")
    return RefusedError(500, f"The inference failed ({type(error).__name__}).", "internal")


def bare(session: Session) -> Infer:
    """The shortest way to one inference of `session`: what `engine.backend.infer` does, looked up once."""
    direct: Infer | None = getattr(session, "infer", None)
    return direct if direct is not None else partial(infer, session)
