"""From a version folder to a model that may answer: guard, load, self-test, warm-up. Blocks; runs beside the loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from trt_action import engine
from trt_action.engine.backend import Array, Session
from trt_action.errors import BuildError
from trt_action.inputs import quote
from trt_action.serve import folder, guard, selftest
from trt_action.serve.batching import Batcher, Limits
from trt_action.serve.engines import ENGINE, EngineThread
from trt_action.serve.execution import Infer, bare
from trt_action.serve.flags import Options
from trt_action.serve.folder import Place, Served
from trt_action.serve.model import Model
from trt_action.serve.stats import Stats
from trt_action.serve.tensors import Port, port

WARM_UP_RUNS = 5
WARM_UP_SECONDS = 1.0

Say = Callable[[str], None]


def load(place: Place, options: Options, say: Say, stats: Stats) -> Model:
    """Everything up to a model that is ready; on a failure nothing of it stays loaded.

    Args:
        say: told what a person who starts the server should know.
        stats: where its requests are counted.

    Raises:
        BackendUnavailableError: this host is not one that the engine was built for.
        BuildError: the engine is damaged, cannot be loaded, or fails its self-test.
        EvidenceError, StorageError, DataError: the folder is not as it should be.
    """
    served = folder.read(place)
    for difference in guard.check(served, guard.here(served), refuse=options.other_hardware == "refuse"):
        say(f"Warning: the engine was not built for this host: {difference}")
    threads = [EngineThread(f"{ENGINE}-{place.model}-{n}") for n in range(options.instances)]
    sessions: list[Session] = []
    try:
        for thread in threads:
            shared = next((one for one in sessions if getattr(one, "concurrent", False)), None)
            sessions.append(shared or thread.ask(partial(_open, served)))
        return _ready(served, options, list(zip(threads, sessions, strict=True)), say, stats)
    except BaseException:
        _close(list(zip(threads, sessions, strict=False)), threads)
        raise


def _open(served: Served) -> Session:
    return engine.backend(served.loadable.backend).load(served.loadable)


def _ready(
    served: Served, options: Options, engines: list[tuple[EngineThread, Session]], say: Say, stats: Stats
) -> Model:
    session = engines[0][1]
    bound = served.loadable.backend != "onnxruntime"  # it takes any size of an open axis, TensorRT those of the profile
    largest = options.max_batch if options.max_batch and not bound else None
    inputs = {
        tensor.name: port(tensor, served.profile.get(tensor.name), lower_bounds=bound, max_batch=largest)
        for tensor in session.inputs
    }
    outputs = {tensor.name: port(tensor, None, lower_bounds=False, max_batch=None) for tensor in session.outputs}
    infers = [(thread, bare(session)) for thread, session in engines]
    feeds = _self_test(served, inputs, infers, say)
    rows, pad_to = _batch(served, options, inputs, outputs, infers[0], feeds, say)
    if pad_to is not None:
        inputs = {name: replace(port, low=(1, *port.low[1:])) for name, port in inputs.items()}
    inline = all(getattr(session, "concurrent", False) for _, session in engines)
    limits = Limits(rows, pad_to, options.max_queue, int(options.inline_below * 1e6) if inline else 0)
    return Model(
        served,
        inputs,
        outputs,
        Batcher(infers, limits, stats),
        stats,
        limits,
        close=partial(_close, engines, [thread for thread, _ in engines]),
    )


def _self_test(
    served: Served, inputs: Mapping[str, Port], infers: list[tuple[EngineThread, Infer]], say: Say
) -> dict[str, Array]:
    """Run every engine on the recorded inputs (or on zeros), compare, and warm up. Returns those inputs."""
    expected: dict[str, Array] = {}
    if served.self_test is not None:
        feeds, expected = selftest.recorded(served.self_test)
        for name, wanted in inputs.items():
            if name not in feeds or feeds[name].dtype != wanted.stored or feeds[name].ndim != len(wanted.shape):
                raise BuildError(
                    f"The self-test in {quote(served.place.path)} does not fit input {quote(name)}.",
                    fix="Build the folder again.",
                )
    else:
        opt = {name: _opt(served, port) for name, port in inputs.items()}
        feeds = selftest.example(inputs, opt)
        say("Warning: the folder has no self-test; the engine is only checked to run.")
    for thread, infer in infers:
        outputs = thread.ask(partial(infer, feeds))
        selftest.check(outputs, expected, str(served.engine.get("precision")))
        thread.ask(partial(_warm_up, infer, feeds))
    return feeds


def _warm_up(infer: Infer, feeds: Mapping[str, Array]) -> None:
    until = time.monotonic() + WARM_UP_SECONDS
    for _ in range(WARM_UP_RUNS):
        if time.monotonic() < until:
            infer(feeds)


def _opt(served: Served, port: Port) -> tuple[int, ...]:
    profile = served.profile.get(port.name)
    return tuple(
        size if size >= 0 else (profile.opt[axis] if profile and axis < len(profile.opt) else 1)
        for axis, size in enumerate(port.shape)
    )


def _batch(
    served: Served,
    options: Options,
    inputs: Mapping[str, Port],
    outputs: Mapping[str, Port],
    engine: tuple[EngineThread, Infer],
    feeds: Mapping[str, Array],
    say: Say,
) -> tuple[int, int | None]:
    """Rows of one run, and the fixed number of rows that requests are filled up to.

    Rows share a run only if axis 0 is open on every input and output (or fixed to one size, with `pad_batches`), no input
    holds sizes, and the engine was seen to keep them apart.
    """
    first = [port.shape[0] if port.shape else 0 for port in (*inputs.values(), *outputs.values())]
    thread, infer = engine
    if not inputs or not options.batching or any(port.values is not None for port in inputs.values()):
        return 1, None  # sizes are of a whole run
    if set(first) == {-1}:
        rows, pad_to = min(port.high[0] for port in inputs.values()), None
        lowest = max(port.low[0] for port in inputs.values())
        probe = 0 if lowest > 1 else min(rows, 4)
    elif options.pad_batches and len(set(first)) == 1 and first[0] > 1:
        return _fixed(served, first[0], engine, feeds, say)
    else:
        return 1, None
    if rows < 2:
        return rows, None
    if probe < 2 or not thread.ask(partial(selftest.rows_are_independent, infer, feeds, probe)):
        say(f"Note: {served.place.model} is not batched: its rows are not independent of each other.")
        return 1, None
    thread.ask(partial(_warm, infer, feeds, rows))
    return rows, pad_to


def _fixed(
    served: Served, rows: int, engine: tuple[EngineThread, Infer], feeds: Mapping[str, Array], say: Say
) -> tuple[int, int | None]:
    thread, infer = engine
    if thread.ask(partial(selftest.rows_may_move, infer, feeds)):
        return rows, rows
    say(f"Note: {served.place.model} is not padded: its rows are not independent of each other.")
    return 1, None


def _warm(infer: Infer, feeds: Mapping[str, Array], rows: int) -> None:
    """Run the largest batch once: memory for it is taken now and not under load."""
    infer({name: np.repeat(array[:1], rows, axis=0) for name, array in feeds.items()})


def _close(engines: list[tuple[EngineThread, Session]], threads: list[EngineThread]) -> None:
    closed: set[int] = set()
    for thread, session in engines:
        if id(session) not in closed:
            thread.ask(session.close)
            closed.add(id(session))
    for thread in threads:
        thread.end()
