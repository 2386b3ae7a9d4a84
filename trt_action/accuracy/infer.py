"""Run one engine over all samples in a child process; its outputs go to disk."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from trt_action import process
from trt_action.accuracy.store import Store, Writer
from trt_action.engine.backend import Array, Loadable
from trt_action.errors import MeasureError, TrtActionError
from trt_action.process import Channel, Message, Progress

_TELL_EVERY = 0.25  # seconds between two progress messages
_GRACE = 120.0  # seconds for loading and one batch beyond the child's own time limit


def outputs(
    loadable: Loadable,
    feeds: Path,
    out: Path,
    *,
    rows: list[int],
    batch: int | None,
    label: str,
    timeout: float,
    progress: Progress | None = None,
) -> Store:
    """Run a fresh child over the feeds.

    Args:
        feeds: folder of a `Store` with one chunk per inference and input, each at the measured shape.
        out: folder to be made, for the outputs.
        rows: how many leading rows of each inference are samples; the rest is padding and is cut.
        batch: rows of one inference; None for a model without a batch axis.
        timeout: seconds.

    Returns:
        One chunk per inference and output, axis 0 = samples. An output without the batch axis becomes one row per
        inference. Text outputs are left out.

    Raises:
        TrtActionError: what the child met, with `label` in front; `MeasureError` when time is up or it crashed.
    """
    request: Message = {
        "loadable": loadable.as_json(),
        "feeds": str(feeds),
        "out": str(out),
        "rows": rows,
        "batch": batch,
        "timeout": timeout,
    }
    try:
        process.call(
            "trt_action.accuracy.infer:serve", request, timeout=timeout + _GRACE, progress=progress, died=MeasureError
        )
    except TrtActionError as error:
        raise type(error)(f"Accuracy of {label}: {error.what}", why=error.why, fix=error.fix) from None
    return Store(out)


def serve(channel: Channel) -> None:
    """The child's side: one request, one answer."""
    request = channel.receive()
    if request is None:
        return
    from trt_action import engine

    loadable = Loadable.from_json(request["loadable"])
    session = engine.backend(loadable.backend).load(loadable)
    try:
        _run_all(session, request, channel)
    finally:
        session.close()
    channel.send({"done": True})


def _run_all(session: Any, request: Message, channel: Channel) -> None:
    feeds = Store(Path(request["feeds"]))
    wanted = [tensor.name for tensor in session.inputs if tensor.name in feeds.names]
    chunks = {name: feeds.chunks(name) for name in wanted}
    deadline = time.monotonic() + request["timeout"]
    done, told, total = 0, 0.0, sum(request["rows"])
    with Writer(Path(request["out"])) as writer:
        for rows in request["rows"]:
            session.bind({name: next(chunks[name]) for name in wanted})
            session.run()
            for name, output in session.fetch().items():
                if not output.dtype.hasobject:
                    writer.append(name, _samples(output, rows, request["batch"]))
            done += rows
            now = time.monotonic()
            if now > deadline and done < total:
                raise MeasureError(
                    f"only {done} of {total} samples were done within {request['timeout']:g} s.",
                    fix="Use fewer validation samples, a larger batch (`batch-size`), or a faster runner.",
                )
            if now - told >= _TELL_EVERY or done == total:
                told = now
                channel.progress(f"{done} of {total} samples", done / total)


def _samples(output: Array, rows: int, batch: int | None) -> Array:
    if batch is not None and output.ndim and output.shape[0] == batch:
        return output[:rows]
    return output[np.newaxis]
