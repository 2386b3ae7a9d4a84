"""What `backend: openai-endpoint` needs, and what has no meaning with it or without it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from trt_action.errors import SettingsError
from trt_action.settings.llm_options import ENDPOINT, LLM_OPTIONS
from trt_action.settings.schema import Settings

_OF_MODELS = (
    "base-precision", "shapes", "precision", "keep-accuracy", "calibration-data", "validation-data", "metric", "device",
    "cuda-graph", "threads", "concurrency", "measure-seconds",
)  # fmt: skip
_UNCHECKED = ("max-engine-size", "max-memory")
_TYPED = {"env", "cli"}
"""In a config file, a setting may wait for the backend that the command line names."""


def check(s: Settings) -> None:
    """Raises: SettingsError: nothing to judge, two of what there can be one of, or a rule of the other kind."""
    if s.backend == ENDPOINT:
        _check_sides(s)
        _check_rules(s)
        return
    if s.model is None:
        if s.endpoint or s.endpoint_image:
            raise SettingsError(
                f"An endpoint is named, and `backend` is `{s.backend}`, which needs a `model`.",
                fix=f"Set `backend: {ENDPOINT}` to judge the endpoint.",
            )
        s.model_file  # noqa: B018 - raises: nothing is named
    for rule in s.latency_threshold:
        if rule.metric or rule.concurrency:
            raise SettingsError(
                f"`latency-threshold: {rule}` is about an endpoint, and `backend` is `{s.backend}`.",
                fix=f"Write for example `p99 < 50ms`, or set `backend: {ENDPOINT}`.",
            )
    if s.min_throughput is not None and s.min_throughput.of == "tokens":
        raise SettingsError(
            f"`min-throughput: {s.min_throughput}` counts tokens, and `backend: {s.backend}` counts samples.",
            fix=f"Write for example `min-throughput: 2000/s`, or set `backend: {ENDPOINT}`.",
        )


def _check_sides(s: Settings) -> None:
    if s.model is not None and s.sources["model"] != "file":
        raise SettingsError(
            f"Both a `model` and `backend: {ENDPOINT}` are given: a served model is judged by its API alone.",
            fix="Leave `model` out, or choose the backend that compiles it.",
        )
    for one, other, role in (
        ("endpoint", "endpoint-image", "head"),
        ("base-endpoint", "base-endpoint-image", "base"),
    ):
        if _given(s, one) and _given(s, other):
            raise SettingsError(f"Both `{one}` and `{other}` say what {role} is.", fix="Leave one of them out.")
    if not (s.endpoint or s.endpoint_image):
        raise SettingsError(
            f"`backend: {ENDPOINT}` and no endpoint is named.",
            fix="Set `endpoint: http://HOST:PORT/v1`, or `endpoint-image: IMAGE` to have one started.",
        )
    if s.base not in {"auto", "none"}:
        raise SettingsError(
            f"`base: {s.base}` names a model, and `backend` is `{ENDPOINT}`.",
            fix="Name what head is compared with by `base-endpoint` or `base-endpoint-image`.",
        )
    if s.prompts is None and s.quality is None:
        raise SettingsError(
            f"`backend: {ENDPOINT}` with neither `prompts` nor `quality`: there is nothing to ask.",
            fix="Set `prompts: FILE` to measure, `quality: FILE` to check answers, or both (docs/llm.md).",
        )


def _check_rules(s: Settings) -> None:
    for rule in s.latency_threshold:
        if rule.concurrency and rule.concurrency not in s.concurrencies:
            raise SettingsError(
                f"`latency-threshold: {rule}` is about {rule.concurrency} requests in flight, which are not measured.",
                fix=f"Add {rule.concurrency} to `concurrencies`.",
            )
    if s.min_throughput is not None and s.min_throughput.of != "tokens":
        raise SettingsError(
            f"`min-throughput: {s.min_throughput}` of an endpoint could mean requests or tokens.",
            fix=f"Write `min-throughput: {str(s.min_throughput).removesuffix('/s')}tok/s` for output tokens.",
        )


def notes(s: Settings) -> Iterator[str]:
    """Sentences about settings without effect."""
    if s.backend != ENDPOINT:
        unused = [row.name for row in LLM_OPTIONS if s.sources[row.name] in _TYPED]
        yield from (f"`{name}` has no effect: `backend` is `{s.backend}`." for name in unused[:1])
        return
    yield from (
        f"`{name}` has no effect: `backend` is `{ENDPOINT}`." for name in _OF_MODELS if s.sources[name] in _TYPED
    )
    yield from (f"`{name}` is not checked: an endpoint does not tell." for name in _UNCHECKED if _given(s, name))
    if s.base == "none" and (s.base_endpoint or s.base_endpoint_image):
        yield "The base endpoint is not asked: `base` is `none`."
    if s.quality is None:
        for name in filter(partial(_given, s), ("min-accuracy", "max-accuracy-drop")):
            yield f"`{name}` is not checked: there is no `quality` file, unless prompts have an `expected` answer."
    if s.max_latency_regression is not None and not (s.base_endpoint or s.base_endpoint_image):
        yield "`max-latency-regression` is not checked: there is no `base-endpoint`."


def _given(s: Settings, name: str) -> bool:
    return getattr(s, name.replace("-", "_")) is not None
