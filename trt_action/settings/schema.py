"""The typed settings of one model, and the JSON Schema of the config file for editors."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from trt_action.settings import fields, units
from trt_action.settings.explain import no_model
from trt_action.settings.options import BY_NAME, OPTIONS
from trt_action.settings.rules import AccuracyDrop, LatencyRule, MinAccuracy, Rate
from trt_action.settings.values import Shapes

Source = Literal["default", "file", "env", "cli"]
MadePrecision = Literal["fp32", "tf32", "fp16", "bf16", "int8", "fp8", "int4"]
AskedPrecision = Literal["fp32", "tf32", "fp16", "bf16", "int8", "fp8", "int4", "auto"]

MAX_MODELS = 64


def kebab(name: str) -> str:
    """`max_latency_regression` → `max-latency-regression`."""
    return name.replace("_", "-")


def snake(name: str) -> str:
    """The inverse of `kebab`."""
    return name.replace("-", "_")


def option(name: str) -> Any:
    """A field with the default and the description of its row in the table of options."""
    row = BY_NAME[name]
    return Field(row.default, description=row.help, validate_default=True)


class Settings(BaseModel):
    """What is asked for one model. One field per row of the table in `options.py`.

    Percentages are fractions (2% → 0.02), durations seconds, sizes bytes, rates samples/s. After `load`, paths are
    absolute; a data source or a metric may be `<absolute path>.py:function`.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=kebab, populate_by_name=True, protected_namespaces=()
    )

    model: Annotated[Path | None, fields.path(optional=True)] = option("model")
    name: Annotated[str | None, fields.word(optional=True)] = option("name")
    base: Annotated[str, fields.word()] = option("base")
    base_precision: Annotated[MadePrecision | None, fields.choice("base-precision")] = option("base-precision")
    shapes: Annotated[Shapes | None, fields.shapes()] = option("shapes")
    batch_size: Annotated[int, fields.whole(1, 65_536)] = option("batch-size")

    precision: Annotated[AskedPrecision, fields.choice("precision")] = option("precision")
    keep_accuracy: Annotated[bool, fields.boolean()] = option("keep-accuracy")
    search_timeout: Annotated[float, fields.duration()] = option("search-timeout")
    search_max_error: Annotated[float, fields.percent(high="100")] = option("search-max-error")
    high_precision: Annotated[Literal["auto", "fp32", "fp16", "bf16"], fields.choice("high-precision")] = option(
        "high-precision"
    )
    toolchain: Annotated[Literal["auto", "onnxruntime", "modelopt"], fields.choice("toolchain")] = option("toolchain")
    modelopt_python: Annotated[Path | None, fields.path(optional=True)] = option("modelopt-python")
    calibration_data: Annotated[str | None, fields.text(optional=True)] = option("calibration-data")
    calibration_samples: Annotated[int, fields.whole(1, 1_000_000)] = option("calibration-samples")
    calibration_method: Annotated[Literal["minmax", "percentile", "entropy"], fields.choice("calibration-method")] = (
        option("calibration-method")
    )
    op_types: Annotated[tuple[str, ...], fields.names(fields.OPERATOR, "operators, e.g. `Conv`")] = option("op-types")
    exclude_nodes: Annotated[tuple[str, ...], fields.names(r".{1,1000}", "node names or globs")] = option(
        "exclude-nodes"
    )
    min_precision_share: Annotated[float, fields.percent(high="100")] = option("min-precision-share")
    validation_data: Annotated[str | None, fields.text(optional=True)] = option("validation-data")
    metric: Annotated[str, fields.metric()] = option("metric")
    metric_timeout: Annotated[float, fields.duration()] = option("metric-timeout")

    backend: Annotated[str, fields.choice("backend")] = option("backend")
    device: Annotated[str, fields.device()] = option("device")
    cuda_graph: Annotated[bool, fields.boolean()] = option("cuda-graph")
    transfers: Annotated[bool, fields.boolean()] = option("transfers")
    threads: Annotated[int, fields.whole(0, 1024)] = option("threads")
    graph_optimization: Annotated[str, fields.choice("graph-optimization")] = option("graph-optimization")
    memory_arena: Annotated[bool, fields.boolean()] = option("memory-arena")
    workspace: Annotated[str, fields.device_memory("auto")] = option("workspace")
    optimization_level: Annotated[int, fields.whole(0, 5)] = option("optimization-level")
    tiling: Annotated[str, fields.choice("tiling")] = option("tiling")
    aux_streams: Annotated[int | None, fields.whole(0, 64, optional=True)] = option("aux-streams")
    timing_iterations: Annotated[int, fields.whole(1, 1000)] = option("timing-iterations")
    timing_cache: Annotated[bool, fields.boolean()] = option("timing-cache")
    version_compatible: Annotated[str, fields.choice("version-compatible")] = option("version-compatible")
    hardware_compatibility: Annotated[str, fields.choice("hardware-compatibility")] = option("hardware-compatibility")
    weight_streaming: Annotated[str, fields.device_memory("none", "auto")] = option("weight-streaming")
    compute_capabilities: Annotated[tuple[str, ...], fields.capabilities()] = option("compute-capabilities")
    build_timeout: Annotated[float, fields.duration()] = option("build-timeout")
    cache: Annotated[Path | Literal["auto"] | None, fields.cache()] = option("cache")
    cache_size: Annotated[int, fields.size(zero=True)] = option("cache-size")

    endpoint: Annotated[str | None, fields.url(optional=True)] = option("endpoint")
    endpoint_image: Annotated[str | None, fields.text(optional=True)] = option("endpoint-image")
    base_endpoint: Annotated[str | None, fields.url(optional=True)] = option("base-endpoint")
    base_endpoint_image: Annotated[str | None, fields.text(optional=True)] = option("base-endpoint-image")
    endpoint_args: Annotated[str | None, fields.arguments()] = option("endpoint-args")
    base_endpoint_args: Annotated[str | None, fields.arguments()] = option("base-endpoint-args")
    endpoint_port: Annotated[int, fields.whole(1, 65_535)] = option("endpoint-port")
    endpoint_gpus: Annotated[str, fields.word()] = option("endpoint-gpus")
    endpoint_volumes: Annotated[
        tuple[str, ...], fields.names(r"/[^:]*:/[^:]*", "`HOST:CONTAINER` of absolute paths")
    ] = option("endpoint-volumes")
    endpoint_env: Annotated[
        tuple[str, ...], fields.names(r"[A-Za-z_][A-Za-z0-9_]*", "names of variables, without values")
    ] = option("endpoint-env")
    endpoint_start_timeout: Annotated[float, fields.duration()] = option("endpoint-start-timeout")
    endpoint_model: Annotated[str | None, fields.text(optional=True)] = option("endpoint-model")
    base_endpoint_model: Annotated[str | None, fields.text(optional=True)] = option("base-endpoint-model")
    endpoint_api: Annotated[Literal["chat", "completions"], fields.choice("endpoint-api")] = option("endpoint-api")
    prompts: Annotated[Path | None, fields.path(optional=True)] = option("prompts")
    concurrencies: Annotated[tuple[int, ...], fields.whole_numbers(1, 1024)] = option("concurrencies")
    requests: Annotated[int, fields.whole(1, 100_000)] = option("requests")
    max_output_tokens: Annotated[int, fields.whole(1, 100_000)] = option("max-output-tokens")
    ignore_eos: Annotated[bool, fields.boolean()] = option("ignore-eos")
    unique_prompts: Annotated[bool, fields.boolean()] = option("unique-prompts")
    quality: Annotated[Path | None, fields.path(optional=True)] = option("quality")
    request_timeout: Annotated[float, fields.duration()] = option("request-timeout")

    measure_seconds: Annotated[float, fields.duration(bare=True)] = option("measure-seconds")
    max_seconds: Annotated[float, fields.duration(bare=True)] = option("max-seconds")
    margin: Annotated[float, fields.percent(high="100")] = option("margin")
    tolerance: Annotated[float, fields.percent(high="100")] = option("tolerance")
    confidence: Annotated[float, fields.percent(low="50", high="100", inside=True)] = option("confidence")
    concurrency: Annotated[int, fields.whole(1, 1024)] = option("concurrency")
    layers: Annotated[bool, fields.boolean()] = option("layers")
    seed: Annotated[int, fields.whole(0, 2**32 - 1)] = option("seed")

    latency_threshold: Annotated[tuple[LatencyRule, ...], fields.latency_rules()] = option("latency-threshold")
    max_latency_regression: Annotated[float | None, fields.percent(optional=True)] = option("max-latency-regression")
    max_accuracy_drop: Annotated[AccuracyDrop | None, fields.accuracy_drop()] = option("max-accuracy-drop")
    min_accuracy: Annotated[MinAccuracy | None, fields.min_accuracy()] = option("min-accuracy")
    min_throughput: Annotated[Rate | None, fields.rate(optional=True)] = option("min-throughput")
    max_engine_size: Annotated[int | None, fields.size(optional=True)] = option("max-engine-size")
    max_memory: Annotated[int | None, fields.size(optional=True)] = option("max-memory")
    on_inconclusive: Annotated[Literal["pass", "fail"], fields.choice("on-inconclusive")] = option("on-inconclusive")

    output: Annotated[Path, fields.path()] = option("output")
    template: Annotated[Path | None, fields.path(optional=True)] = option("template")

    mlflow_tracking_uri: Annotated[str | None, fields.tracking_uri()] = option("mlflow-tracking-uri")
    mlflow_experiment: Annotated[str, fields.text()] = option("mlflow-experiment")
    mlflow_model: Annotated[str | None, fields.registered_name()] = option("mlflow-model")
    mlflow_alias: Annotated[str | None, fields.model_alias()] = option("mlflow-alias")
    mlflow_required: Annotated[bool, fields.boolean()] = option("mlflow-required")

    _sources: dict[str, Source] = PrivateAttr(default_factory=dict)
    _notes: tuple[str, ...] = PrivateAttr(default=())
    _config_file: Path | None = PrivateAttr(default=None)
    _cwd: Path | None = PrivateAttr(default=None)

    @property
    def sources(self) -> dict[str, Source]:
        """Where each setting came from, by kebab-case name, every row of the table."""
        return {row.name: self._sources.get(row.name, "default") for row in OPTIONS}

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about settings that have no effect in this combination: worth a warning, not an error."""
        return self._notes

    @property
    def config_file(self) -> Path | None:
        """The config file that was read, or None."""
        return self._config_file

    @property
    def display_name(self) -> str:
        """`name`, or the stem of the model's file, or what an endpoint is called."""
        if self.model is not None:
            return self.name or self.model.stem
        return self.name or self.endpoint_model or self.endpoint_image or self.endpoint or ""

    @property
    def model_file(self) -> Path:
        """`model`, which every backend but an endpoint has.

        Raises:
            SettingsError: none is named.
        """
        if self.model is None:
            raise no_model()
        return self.model

    @property
    def has_base_endpoint(self) -> bool:
        """Whether an endpoint is compared with another one."""
        return self.base != "none" and (self.base_endpoint is not None or self.base_endpoint_image is not None)

    def cache_folder(self) -> Path | None:
        """Folder of the engine cache, or None for no cache."""
        return default_cache_folder(os.environ) if self.cache == "auto" else self.cache

    def effective(self) -> dict[str, Any]:
        """Every setting by kebab-case name, JSON-able, as a person writes it; `load` reads it back to the same."""
        return {row.name: self._written(row.name, getattr(self, snake(row.name))) for row in OPTIONS}

    def _written(self, name: str, value: Any) -> Any:
        if name == "latency-threshold":
            texts = [str(rule) for rule in value]
            return texts if len(texts) > 1 else next(iter(texts), None)
        if name == "cache" and value is None:
            return False
        if value is None:
            return None
        if name in _PRINTERS:
            return _PRINTERS[name](value)
        if isinstance(value, tuple):
            return list(value)
        return self._short(str(value)) if isinstance(value, (Path, str)) else value

    def _short(self, text: str) -> str:
        """A path below the working folder as it is seen from there: a report should not name a runner's folders."""
        if self._cwd is None or not text.startswith("/"):
            return text
        path = Path(text)
        return str(path.relative_to(self._cwd)) if path.is_relative_to(self._cwd) else text


_PRINTERS: Mapping[str, Callable[[Any], Any]] = {
    "search-timeout": units.duration_text,
    "search-max-error": units.percent_text,
    "min-precision-share": units.percent_text,
    "metric-timeout": units.duration_text,
    "build-timeout": units.duration_text,
    "cache-size": units.size_text,
    "measure-seconds": units.duration_text,
    "max-seconds": units.duration_text,
    "margin": units.percent_text,
    "tolerance": units.percent_text,
    "confidence": units.percent_text,
    "max-latency-regression": units.percent_text,
    "max-accuracy-drop": str,
    "min-accuracy": str,
    "min-throughput": str,
    "endpoint-start-timeout": units.duration_text,
    "request-timeout": units.duration_text,
    "max-engine-size": units.size_text,
    "max-memory": units.size_text,
}


def default_cache_folder(env: Mapping[str, str]) -> Path | None:
    """`$TRT_ACTION_CACHE`, else `trt-action` in the user's cache folder (XDG base directories).

    None without a home: a folder that everybody can write is no place for engines, which are executable code.
    """
    named = env.get("TRT_ACTION_CACHE", "").strip()
    if named and named not in {"auto", "true", "false"}:
        return Path(named).absolute()
    for root in (env.get("XDG_CACHE_HOME", ""), env.get("HOME", "") and env["HOME"] + "/.cache"):
        if root.startswith("/"):
            return Path(root) / "trt-action"
    return None


def config_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of `.trt-action.yml`: one `model`, or `models` whose entries override the top level."""
    properties = Settings.model_json_schema(by_alias=True)["properties"]
    known = {name: _for_editor(name, piece) for name, piece in properties.items()}
    named = [{"required": [name]} for name in ("model", "endpoint", "endpoint-image")]
    entry = {"type": "object", "properties": known, "anyOf": named, "additionalProperties": False}
    models = {
        "type": "array",
        "description": "Several models: each entry needs `model` (or an endpoint) and overrides the keys of the top level; "
        "null takes a key of the top level back to its default.",
        "minItems": 1,
        "maxItems": MAX_MODELS,
        "items": entry,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "trt-action config file",
        "description": "`.trt-action.yml`, `.trt-action.yaml` or `.trt-action.toml`. "
        "Paths are relative to this file; the environment and the command line override it.",
        "type": "object",
        "properties": {**known, "models": models},
        "additionalProperties": False,
        "not": {"required": ["model", "models"]},
    }


def _for_editor(name: str, piece: Mapping[str, Any]) -> dict[str, Any]:
    """The piece with null allowed (= unset), and the default where there is one."""
    about = {"description": BY_NAME[name].help}
    if BY_NAME[name].default is not None:
        about["default"] = BY_NAME[name].default
    bare = {key: value for key, value in piece.items() if key not in {"title", "description", "default"}}
    return {**about, "anyOf": [bare, {"type": "null"}]}
