"""One engine for one model and recipe: from the cache, or prepared, built in a child process and cached."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_action import engine, process
from trt_action.engine import cache as caches
from trt_action.engine import devices, onnx_files
from trt_action.engine.backend import Loadable, RuntimeOptions
from trt_action.engine.cache import Cache, Entry, Facts, FileRecord
from trt_action.errors import BackendUnavailableError, BuildError, OutOfMemoryError, StorageError
from trt_action.evidence import Engine
from trt_action.inputs import quote

if TYPE_CHECKING:
    from trt_action.data import Dataset
    from trt_action.model import Model
    from trt_action.precision import Recipe
    from trt_action.process import Progress

PREPARED = "prepared.onnx"
_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class BuiltEngine:
    """`prepared` is the ONNX graph that the engine was built from, kept beside it."""

    loadable: Loadable
    record: Engine
    prepared: Path
    notes: tuple[str, ...] = ()
    """What the build warned of, for the report."""


@dataclass(frozen=True)
class _Place:
    """Where a build lies, in the work folder or in the cache; `records` of the engine's files at least."""

    engine: Path
    prepared: Path
    facts: Facts
    records: Mapping[str, FileRecord]


class _BuildDiedError(BuildError):
    """The building child did not survive; told apart from what it reported."""


def obtain(
    model: Model,
    recipe: Recipe,
    calibration: Dataset | None,
    *,
    backend: str,
    options: RuntimeOptions,
    cache: Cache,
    work_dir: Path,
    timeout: float,
    progress: Progress | None = None,
) -> BuiltEngine:
    """The engine of `model` in the asked precision. A parallel run that builds the same one is waited for.

    Args:
        calibration: representative inputs, for precisions that need them.
        work_dir: this call's own folder; it holds the engine if it cannot be cached, so it must outlive the result.
        timeout: seconds for waiting on a parallel run, and again for preparing and building.

    Raises:
        BackendUnavailableError: the backend is not installed or cannot run this precision.
        PrecisionError: the precision cannot be made, or was not achieved.
        BuildError: the backend refused, crashed, or the time limit was reached.
        OutOfMemoryError: the build was killed for memory.
        StorageError: `work_dir` cannot be written.
    """
    chosen = engine.backend(backend)
    version = chosen.version()
    chosen.check_precision(recipe.precision, options)
    material = _material(model, recipe, calibration, backend, version, options)
    key = caches.key_of(material)

    def waiting() -> None:
        if progress is not None:
            progress("a parallel run builds the same engine: waiting for it", None)

    with cache.claim(key, timeout=timeout, waiting=waiting) as claim:
        if claim.entry is not None:
            here = _in_cache(claim.entry)
        else:
            here = _build(model, recipe, calibration, backend, options, cache.folder, work_dir, timeout, progress)
            if (entry := cache.put(claim, _files(here), material, here.facts)) is not None:
                _discard(here)
                here = _in_cache(entry)
    record = Engine(
        backend=backend,
        backend_version=version,
        precision=recipe.precision,
        achieved_precision=here.facts.achieved_precision,
        recipe=recipe.as_json(),
        calibration_sha256=calibration.sha256 if calibration is not None else None,
        sha256=digest(here.records, here.facts.engine),
        bytes=sum(here.records[name].bytes for name in here.facts.engine),
        build_seconds=here.facts.build_seconds,
        from_cache=claim.entry is not None,
        cache_key=key,
        built_on=material["identity"].get("gpu"),
    )
    loadable = Loadable(backend, here.engine, options, prepared=True, sha256=record.sha256)
    return BuiltEngine(loadable, record, here.prepared, tuple(here.facts.notes))


def reference(model: Model) -> Loadable:
    """FP32 ONNX Runtime on the CPU with graph optimisation off: what accuracy is judged against."""
    return Loadable("onnxruntime", model.path, RuntimeOptions(graph_optimization="disabled"), prepared=False)


def baseline(model: Model, options: RuntimeOptions, *, threads_on_cpu: int = 0) -> Loadable:
    """FP32 ONNX Runtime as people run it: what the speed-up is over. On the same GPU (true FP32, no CUDA graph) where
    ONNX Runtime has its CUDA provider, else on the CPU.

    Args:
        threads_on_cpu: where a GPU's `options` have another device here; 0: one per CPU.
    """
    device = options.device if devices.onnxruntime_has_cuda() else "cpu"
    threads = options.threads if device == options.device else threads_on_cpu
    plain = replace(options, device=device, threads=threads, tf32=False, cuda_graph=False)
    return Loadable("onnxruntime", model.path, plain, prepared=False)


def unoptimized(built: BuiltEngine) -> Loadable:
    """The prepared graph with graph optimisation off: what the change of precision alone costs in accuracy."""
    options = built.loadable.options
    threads = options.threads if options.gpu is None else 0
    options = replace(options, graph_optimization="disabled", device="cpu", threads=threads, cuda_graph=False)
    return Loadable("onnxruntime", built.prepared, options, prepared=False)


def runs_here(built: BuiltEngine) -> bool:
    """An engine can be built for a GPU that is not here: then nobody can say what it answers."""
    try:
        engine.backend(built.loadable.backend).check_host(built.loadable.options, measures=True)
    except BackendUnavailableError:
        return False
    return True


def _material(
    model: Model, recipe: Recipe, calibration: Dataset | None, backend: str, version: str, options: RuntimeOptions
) -> dict[str, Any]:
    """Everything that decides the engine's bytes. What acts when it is loaded (threads, arena, …) is not here."""
    return {
        "model": model.info.sha256,
        "shapes": _ranges(model),
        "recipe": recipe.as_json(),
        "calibration": calibration.sha256 if calibration is not None else None,
        "backend": {"name": backend, "version": version},
        "identity": engine.backend(backend).identity(options),
        "code": _code_digest(backend),
    }


def _ranges(model: Model) -> dict[str, Any]:
    return {name: shape.model_dump(exclude_none=True) for name, shape in model.info.shapes.items()}


def _code_digest(backend: str) -> str:
    """Over this product's own code that writes graphs: an engine of an older version of it is not reused."""
    here = Path(__file__)
    own = [here.with_name("onnxruntime.py")] if backend == "onnxruntime" else (here.parent / "tensorrt").glob("*.py")
    sources = [*sorted((_ROOT / "precision").rglob("*.py")), here, *sorted(own)]
    digest = hashlib.sha256()
    for source in sources:
        digest.update(str(source.relative_to(_ROOT)).encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()


def _build(
    model: Model,
    recipe: Recipe,
    calibration: Dataset | None,
    backend: str,
    options: RuntimeOptions,
    cache: Path | None,
    work_dir: Path,
    timeout: float,
    progress: Progress | None,
) -> _Place:
    from trt_action import precision

    start = time.monotonic()
    prepared_dir, engine_dir = work_dir / "prepared", work_dir / "engine"
    _fresh(prepared_dir)
    _fresh(engine_dir)
    prepared = precision.prepare(model, recipe, calibration, prepared_dir, timeout=timeout, progress=progress)
    left = max(1.0, timeout - (time.monotonic() - start))
    notes: list[str] = []
    main = compile_in_child(
        prepared.path,
        backend,
        options,
        engine_dir,
        timeout=left,
        precision=recipe.precision,
        name=model.info.path,
        shapes=_ranges(model),
        cache=cache,
        progress=progress,
        notes=notes,
    )
    facts = Facts(
        engine=[main.name, *sorted(path.name for path in engine_dir.iterdir() if path != main)],
        prepared=PREPARED,
        achieved_precision=prepared.proof,
        build_seconds=round(time.monotonic() - start, 3),
        notes=notes,
    )
    return _Place(main, prepared.path, facts, _records(engine_dir, facts.engine))


def compile_in_child(
    prepared: Path,
    backend: str,
    options: RuntimeOptions,
    out_dir: Path,
    *,
    timeout: float,
    precision: str = "fp32",
    name: str = "",
    shapes: Mapping[str, Any] | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
    notes: list[str] | None = None,
) -> Path:
    """`Backend.build` where a crash costs nothing but the build.

    Args:
        timeout: seconds.
        precision, name, shapes, cache: see `backend.BuildContext`.
        notes: receives what the backend warns of.

    Raises:
        BuildError, BackendUnavailableError, OutOfMemoryError, StorageError: as the backend says.
        BuildError: the child crashed or the time limit was reached.
    """
    request = {
        "backend": backend,
        "prepared": str(prepared.absolute()),
        "out_dir": str(out_dir.absolute()),
        "options": options.as_json(),
        "precision": precision,
        "name": name,
        "shapes": dict(shapes or {}),
        "cache": str(cache.absolute()) if cache else None,
    }
    phase = ""

    def told(text: str, share: float | None) -> None:
        nonlocal phase
        phase = text
        if progress is not None:
            progress(text, share)

    try:
        answer = process.call(
            "trt_action.engine.worker:build", request, timeout=timeout, progress=told, died=_BuildDiedError
        )
    except _BuildDiedError as error:
        level = "`graph-optimization: basic`" if backend == "onnxruntime" else "`optimization-level: 2`"
        raise BuildError(
            f"The build by {backend} did not end well: {error.what}",
            why=_during(phase, error.why),
            fix="Raise `build-timeout` if it was too short; if the backend crashes on this model, try another "
            f"precision, {level}, or another version of it.",
        ) from None
    except OutOfMemoryError as error:
        if not error.killed:
            raise
        smaller = "" if backend == "onnxruntime" else "a smaller `workspace`, "
        raise OutOfMemoryError(
            f"The build by {backend} was killed by the system (SIGKILL), most likely because memory ran out.",
            why=_during(phase, error.why),
            fix=f"Give the runner more memory, or use a smaller maximum shape or batch, {smaller}or fewer parallel jobs; "
            "`dmesg` on the host names the process that was killed.",
        ) from None
    if notes is not None:
        notes += answer["notes"]
    return Path(answer["engine"])


def _during(phase: str, why: str) -> str:
    return f"It ended during: {phase}. {why}" if phase else why


def _files(built: _Place) -> dict[str, Path]:
    """Every file of a build, by its name in the cache. External data keep theirs: the graph refers to them."""
    _, *external = onnx_files.names(built.prepared)
    return (
        {name: built.engine.parent / name for name in built.facts.engine}
        | {name: built.prepared.parent / name for name in external}
        | {built.facts.prepared: built.prepared}
    )


def _in_cache(entry: Entry) -> _Place:
    facts = entry.facts
    return _Place(entry.folder / facts.engine[0], entry.folder / facts.prepared, facts, entry.files)


def _discard(built: _Place) -> None:
    """The cache has it: the copy in the work folder would only take space."""
    shutil.rmtree(built.engine.parent, ignore_errors=True)
    shutil.rmtree(built.prepared.parent, ignore_errors=True)


def _records(folder: Path, names: list[str]) -> dict[str, FileRecord]:
    try:
        return {name: caches.file_record(folder / name) for name in names}
    except OSError as error:
        raise StorageError(f"The engine in {quote(folder)} cannot be read: {error}.") from None


def digest(records: Mapping[str, FileRecord], names: list[str]) -> str:
    """sha256 of the engine's file; of several files, of what `sha256sum` prints for them (docs/evidence.md)."""
    if len(names) == 1:
        return records[names[0]].sha256
    listing = "".join(f"{records[name].sha256}  {name}\n" for name in sorted(names))
    return hashlib.sha256(listing.encode()).hexdigest()


def _fresh(folder: Path) -> None:
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    except OSError as error:
        raise StorageError(
            f"The work folder {quote(folder)} cannot be made: {error.strerror or error}.",
            fix="Check permissions and free space of the temporary folder (`$TMPDIR`).",
        ) from None
