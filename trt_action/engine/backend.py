"""What a backend is. Nobody outside this room imports onnxruntime, tensorrt or CUDA."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from trt_action.engine.tensorrt_options import TensorRTOptions

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]

MAX_THREADS = 1_024


@dataclass(frozen=True)
class Tensor:
    """An input or output of a session. `shape` holds ints, symbolic names, or None."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True)
class RuntimeOptions:
    """Settings of the runtime that change speed; they land in the fingerprint and in the cache key.

    `threads` 0 = one per CPU of the affinity mask. `graph_optimization` applies to the build of the engine
    (and to loading a plain ONNX file).
    """

    threads: int = 0
    graph_optimization: str = "all"  # disabled | basic | extended | all
    memory_arena: bool = True
    spinning: bool = False
    device: str = "cpu"
    """`cpu` or `cuda:N`, counted among the GPUs that the process may see; never `auto` (engine.resolve_device)."""
    tf32: bool = False
    """Float32 matrix products in TF32 (10 bits of mantissa). Off: what is called fp32 is fp32."""
    cuda_graph: bool = False
    """Record the inference once as a CUDA graph and replay it: less work for the CPU."""
    transfers: bool = True
    """On a GPU: copies of inputs and outputs between host and device are a part of `run`."""
    tensorrt: TensorRTOptions = field(default_factory=TensorRTOptions)

    @property
    def gpu(self) -> int | None:
        """The number of the GPU, or None on the CPU."""
        return None if self.device == "cpu" else int(self.device.partition(":")[2] or 0)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "tensorrt": self.tensorrt.as_json()}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> RuntimeOptions:
        """The inverse of `as_json`; fields that an older record lacks have their default.

        Raises:
            TypeError, ValueError: the record, which may be a stranger's, is none of these options.
        """
        made = cls(**{**record, "tensorrt": TensorRTOptions.from_json(record.get("tensorrt", {}))})
        for one in fields(cls):
            if type(getattr(made, one.name)) is not type(getattr(_DEFAULTS, one.name)):
                raise TypeError(f"{one.name} has another type")
        levels = ("disabled", "basic", "extended", "all")
        known_device = re.fullmatch(r"cpu|cuda(:\d{1,4})?", made.device, re.ASCII) is not None
        if not known_device or made.graph_optimization not in levels or not 0 <= made.threads <= MAX_THREADS:
            raise ValueError("device, graph_optimization or threads is out of range")
        return made


_DEFAULTS = RuntimeOptions()


@dataclass(frozen=True)
class Loadable:
    """Everything a worker process needs to load one engine; crosses to the child as JSON."""

    backend: str
    path: Path
    options: RuntimeOptions = field(default_factory=RuntimeOptions)
    prepared: bool = True
    """True: `path` is an engine of the backend. False: a plain ONNX file (the reference), to be optimised at load."""
    sha256: str | None = None
    """Of the engine's files (`building.digest`), as whoever built it recorded it. TensorRT loads nothing without it."""

    def as_json(self) -> dict[str, Any]:
        return {
            "backend": self.backend,
            "path": str(self.path),
            "options": self.options.as_json(),
            "prepared": self.prepared,
            "sha256": self.sha256,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Loadable:
        options = RuntimeOptions.from_json(record["options"])
        return cls(record["backend"], Path(record["path"]), options, record["prepared"], record.get("sha256"))


def _nothing(*_: object) -> None:
    """Who does not listen."""


@dataclass(frozen=True)
class BuildContext:
    """What a build knows besides graph and options.

    `name`: what messages call the model; empty = its file's name. `shapes`: `min`, `opt` and `max` of every input, and of one
    that holds sizes its `values`, likewise. `cache`: a folder for what makes later builds faster, or None.
    `progress`: as `process.Progress`. `warn`: a sentence for the report.
    """

    precision: str = "fp32"
    name: str = ""
    shapes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cache: Path | None = None
    progress: Callable[[str, float | None], None] = _nothing
    warn: Callable[[str], None] = _nothing


@dataclass(frozen=True)
class RawLayers:
    """What a backend's own tools say about the layers of a loaded engine, as it came; `trt_action.layers` reads it.

    - `tensorrt-inspector`: `document` is the JSON of the engine inspector (`get_engine_information`, read with the
      context whose input shapes are set), `runs` one tuple per inference of the profiler's reports, in their order:
      (layer's name, ms). A layer that is reported twice in one inference stays two entries.
    - `onnxruntime-profiler`: `document` is the profile's JSON, which holds the times as well; `runs` is empty.

    `iterations` counts the inferences that count: the last so many of them, those before were warm-up.
    """

    source: Literal["tensorrt-inspector", "onnxruntime-profiler"]
    document: str
    iterations: int
    runs: tuple[tuple[tuple[str, float], ...], ...] = ()
    note: str = ""
    """What a reader of the times must know, in a sentence."""


@dataclass(frozen=True)
class DeviceTimes:
    """Times of consecutive inferences as trtexec takes them, ns, one per inference. Queueing is in none of them.

    `h2d_ns`, `compute_ns`, `d2h_ns`: between CUDA events on the session's stream; 0 where nothing is copied.
    `enqueue_ns`: of the host, to hand the inference to the GPU; empty where the runtime waits for the GPU meanwhile.
    `wall_ns`: of the host, from the first copy in to the last one out; recording the events included (2 to 4 µs).
    """

    h2d_ns: list[int]
    compute_ns: list[int]
    d2h_ns: list[int]
    enqueue_ns: list[int]
    wall_ns: list[int]


class Session(Protocol):
    """A loaded engine. `run` is the timed call: one inference on the bound inputs, complete when it returns."""

    @property
    def inputs(self) -> tuple[Tensor, ...]: ...
    @property
    def outputs(self) -> tuple[Tensor, ...]: ...

    def bind(self, feeds: Feeds) -> None:
        """Copy inputs where `run` reads them and let outputs be allocated once.

        Raises:
            DataError: a name, dtype or shape does not fit.
        """

    def run(self) -> None:
        """One inference. No allocation of ours, no checks."""

    def fetch(self) -> dict[str, Array]:
        """Copies of the outputs of the last `run`, by name."""

    def device_times(self, iterations: int) -> DeviceTimes | None:
        """`iterations` inferences back to back like `run`, with CUDA events around their parts. None on the CPU."""

    def layers(self, iterations: int) -> RawLayers | None:
        """A pass of its own over the bound inputs with the backend's profiler on: profiling slows small layers down
        several times, so none of its times is ever a latency. None: the backend has no profiler.

        Raises:
            BuildError, DataError, OutOfMemoryError: as `load` and `run`.
        """

    def close(self) -> None: ...


def infer(session: Session, feeds: Feeds) -> dict[str, Array]:
    """Outputs of one inference by name: `bind`, `run` and `fetch` in one call.

    A session that can do better has an `infer(feeds)` of its own, which skips the checks of `bind`: the caller has made
    them. One that says `concurrent = True` takes its `infer` from several threads at the same time; any other belongs
    to the thread that loaded it.

    Raises:
        DataError: the engine fails on these inputs.
    """
    direct: Callable[[Feeds], dict[str, Array]] | None = getattr(session, "infer", None)
    if direct is not None:
        return direct(feeds)
    session.bind(feeds)
    session.run()
    return session.fetch()


class Backend(Protocol):
    """One way to compile and run a model."""

    name: str

    def version(self) -> str:
        """Version of the runtime library, e.g. `1.32.0`.

        Raises:
            BackendUnavailableError: the library is not installed.
        """

    def check_precision(self, precision: str, options: RuntimeOptions | None = None) -> None:
        """Before any work is done for it.

        Raises:
            BackendUnavailableError: the backend cannot run this precision, on any model.
        """

    def check_host(self, options: RuntimeOptions, *, measures: bool) -> None:
        """Before any work is done: can this host build for this backend, and, if the run `measures`, run it too?

        Raises:
            BackendUnavailableError: no; with the reason and what would do.
        """

    def build(self, prepared: Path, out_dir: Path, options: RuntimeOptions, context: BuildContext) -> Path:
        """Compile; called in a child process. Returns the engine file inside `out_dir`.

        Raises:
            BuildError: with the backend's own words.
        """

    def load(self, loadable: Loadable) -> Session:
        """Load an engine (or a plain ONNX file).

        Raises:
            BuildError: the file is not loadable here.
        """

    def files(self, engine: Path) -> list[str]:
        """The files that an engine consists of, all in one folder: the one to load first.

        Raises:
            BuildError: they cannot be found out.
        """

    def identity(self, options: RuntimeOptions) -> dict[str, Any]:
        """What of this host and of the options decides the bytes that `build` writes: a part of the cache key."""

    def describe(self, options: RuntimeOptions) -> dict[str, Any]:
        """For the fingerprint: versions, providers, device; plain JSON values."""


def numpy_dtype(name: str) -> np.dtype[Any]:
    """numpy dtype for a tensor's `dtype` name, bfloat16 included (through ml_dtypes)."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)  # type: ignore[no-any-return, unused-ignore]
    return np.dtype(object if name == "string" else name)
