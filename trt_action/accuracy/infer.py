"""Run engines over all samples in child processes; their outputs go to disk."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from trt_action import process
from trt_action.accuracy.store import Store, Writer
from trt_action.engine.backend import Array, Loadable
from trt_action.errors import MeasureError, TrtActionError
from trt_action.process import Channel, Message, Progress

_TELL_EVERY = 0.25  # seconds between two progress messages
_GRACE = 120.0  # seconds for loading and one batch beyond the child's own time limit


@dataclass(frozen=True)
class Feeds:
    """What one model is fed with.

    `folder` holds a `Store` with one chunk per inference and input, each at the measured shape. `rows`: how many
    leading rows of each inference are samples; the rest is padding. `batch`: rows of one inference; None for a model
    without a batch axis.
    """

    folder: Path
    rows: list[int]
    batch: int | None


class Children:
    """One child per backend, kept from engine to engine: starting Python and importing the runtime takes longer than
    a small model takes for all samples. Use as a context manager."""

    def __init__(self) -> None:
        self._running: dict[str, process.Child] = {}

    def outputs(
        self, loadable: Loadable, feeds: Feeds, out: Path, *, label: str, timeout: float, progress: Progress | None
    ) -> Store:
        """Run one engine over the feeds. If it fails, its child ends with it and the next engine gets another.

        Args:
            out: folder to be made, for the outputs.
            timeout: seconds.

        Returns:
            One chunk per inference and output, axis 0 = samples, padding cut. An output without the batch axis becomes
            one row per inference. Text outputs are left out.

        Raises:
            TrtActionError: what the child met, with `label` in front; `MeasureError` when time is up or it crashed.
        """
        request: Message = {
            "loadable": loadable.as_json(),
            "feeds": str(feeds.folder),
            "out": str(out),
            "rows": feeds.rows,
            "batch": feeds.batch,
            "timeout": timeout,
        }
        try:
            self._child(loadable.backend).request(request, timeout=timeout + _GRACE, progress=progress)
        except TrtActionError as error:
            self._running.pop(loadable.backend).kill()
            raise type(error)(f"Accuracy of {label}: {error.what}", why=error.why, fix=error.fix) from None
        return Store(out)

    def _child(self, backend: str) -> process.Child:
        if backend not in self._running:
            self._running[backend] = process.Child("trt_action.accuracy.infer:serve", died=MeasureError)
        return self._running[backend]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        for child in self._running.values():
            child.__exit__(exc_type, exc, tb)


def serve(channel: Channel) -> None:
    """The child's side: one answer per request, until the parent has no more."""
    while (request := channel.receive()) is not None:
        _serve_one(request, channel)


def _serve_one(request: Message, channel: Channel) -> None:
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
