"""What `trt-action serve` can be told, by flag or by environment (`TRT_ACTION_SERVE_<FLAG>`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_action.errors import SettingsError
from trt_action.inputs import nearest, quote

ENVIRONMENT = "TRT_ACTION_SERVE_"
TOKEN = ENVIRONMENT + "TOKEN"
"""The clients' token itself; it is no flag, as flags show in lists of processes."""
NAMED = 5
"""Unknown variables that one line names."""


@dataclass(frozen=True)
class Flag:
    """One flag: its type, default, unit and help. Bounds are inclusive."""

    name: str
    default: Any
    help: str
    metavar: str = ""
    low: float = 0
    high: float = 1e12
    choices: tuple[str, ...] = ()

    @property
    def attribute(self) -> str:
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        return ENVIRONMENT + self.attribute.upper()


FLAGS = (
    Flag("host", "0.0.0.0", "address to listen on", "ADDRESS"),  # noqa: S104 - a container's own network
    Flag("port", 8000, "port of HTTP; 0 = any free one", "N", high=65_535),
    Flag("grpc-port", 0, "port of gRPC; 0 = none", "N", high=65_535),
    Flag("model-control-mode", "none", "who may load and unload models while serving: nobody, the repository API, or "
         "whoever adds a version folder", choices=("none", "explicit", "poll")),
    Flag("poll-interval", 15.0, "seconds between two looks for new version folders (mode poll)", "SECONDS", low=0.05),
    Flag("instances", 1, "engines that work side by side", "N", low=1, high=256),
    Flag("max-batch", 0, "rows of one run; 0 = as many as the engine's profile says", "N", high=65_536),
    Flag("batching", True, "put waiting requests into one run where the model allows it"),
    Flag("pad-batches", False, "fill requests up to a fixed batch size with copies of their last row"),
    Flag("max-queue", 256, "requests that wait for an engine, per model; more are answered 503", "N", low=1),
    Flag("inline-below", 1.0, "milliseconds: an engine whose runs take less runs on the event loop, without a change "
         "of thread", "MS"),
    Flag("request-timeout", 60.0, "seconds that a request may wait for an engine, unless it asks for less", "SECONDS",
         low=0.001),
    Flag("hang-timeout", 300.0, "seconds that one run of an engine may take; after that liveness says no, so that the "
         "orchestrator restarts the server; 0 = any", "SECONDS"),
    Flag("max-body-bytes", 256_000_000, "bytes of a request, also after decompression", "N", low=1),
    Flag("max-json-bytes", 32_000_000, "bytes of the JSON part of a request", "N", low=1),
    Flag("max-inflight-bytes", 2_000_000_000, "bytes of all requests that are being read or computed; more are "
         "answered 503", "N", low=1),
    Flag("max-header-bytes", 32_768, "bytes of the request line and headers", "N", low=256),
    Flag("max-connections", 1_024, "connections at the same time; more are closed at once", "N", low=1),
    Flag("idle-timeout", 75.0, "seconds that a connection stays open without a request", "SECONDS", low=0.05),
    Flag("read-timeout", 20.0, "seconds that the headers of a request may take, and again each further megabyte of "
         "its body", "SECONDS", low=0.05),
    Flag("drain-seconds", 30.0, "seconds for requests in flight to end after SIGTERM", "SECONDS"),
    Flag("drain-delay", 0.0, "seconds after SIGTERM during which requests are still taken while readiness says no",
         "SECONDS"),
    Flag("access-log", "json", "one line per request, to stdout", choices=("json", "text", "off")),
    Flag("token-file", "", "file with the token that clients must send (`Authorization: Bearer …`)", "PATH"),
    Flag("tls-certificate", "", "PEM file with the certificate chain", "PATH"),
    Flag("tls-key", "", "PEM file with its key", "PATH"),
    Flag("other-hardware", "refuse", "what to do on hardware or with libraries that the engine was not built for",
         choices=("refuse", "warn")),
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """One attribute per flag; durations in seconds, `inline_below` in ms, sizes in bytes."""

    path: Path
    host: str
    port: int
    grpc_port: int
    model_control_mode: str
    poll_interval: float
    instances: int
    max_batch: int
    batching: bool
    pad_batches: bool
    max_queue: int
    inline_below: float
    request_timeout: float
    hang_timeout: float
    max_body_bytes: int
    max_json_bytes: int
    max_inflight_bytes: int
    max_header_bytes: int
    max_connections: int
    idle_timeout: float
    read_timeout: float
    drain_seconds: float
    drain_delay: float
    access_log: str
    token_file: str
    tls_certificate: str
    tls_key: str
    other_hardware: str


def parse(path: Path, given: Mapping[str, str | None], env: Mapping[str, str]) -> Options:
    """Flags by attribute name as text; the environment stands in for those that are None.

    Raises:
        SettingsError: a value is malformed or out of range.
    """
    values: dict[str, Any] = {}
    for flag in FLAGS:
        text, where = given.get(flag.attribute), f"--{flag.name}"
        if text is None:
            text, where = _of(env, flag), flag.variable
        values[flag.attribute] = flag.default if text is None else _value(flag, text, where)
    if bool(values["tls_certificate"]) != bool(values["tls_key"]):
        raise SettingsError(
            "TLS needs a certificate and its key; one of them is missing.",
            fix="Set both --tls-certificate and --tls-key, or neither.",
        )
    return Options(path=path, **values)


def _of(env: Mapping[str, str], flag: Flag) -> str | None:
    """Not what Kubernetes puts into `TRT_ACTION_SERVE_PORT` where a Service is called `trt-action-serve`
    (`tcp://10.0.0.11:8000`; see `unknown`)."""
    text = env.get(flag.variable)
    return None if flag.name == "port" and (text or "").startswith("tcp://") else text


def unknown(env: Mapping[str, str]) -> str | None:
    """Words about variables that look like ours and are none; None where there are none. Their values are not named.

    Words, not an error, unlike an unknown flag: nobody may have written them. Kubernetes gives every container
    `TRT_ACTION_SERVE_SERVICE_HOST` and its kin as soon as a Service of the namespace is called
    `trt-action-serve`, and an image that goes back to an older version meets the flags of the newer one. A server that
    runs should not stop for either.
    """
    known = {variable.removeprefix(ENVIRONMENT): variable for variable in (*(flag.variable for flag in FLAGS), TOKEN)}
    prefix = ENVIRONMENT.rstrip("_")  # `TRT_ACTION_SERVER_PORT` too
    strange = sorted(name for name in env if name.startswith(prefix) and name not in known.values())
    said = []
    for name in strange[:NAMED]:
        near = nearest(name.removeprefix(prefix).lstrip("_"), known)
        said.append(quote(name) + (f" (did you mean `{known[near]}`?)" if near else ""))
    more = f" and {len(strange) - NAMED} more" if len(strange) > NAMED else ""
    return f"Warning: ignored, as this server has no such setting: {', '.join(said)}{more}." if said else None


def _value(flag: Flag, text: str, where: str) -> Any:
    if flag.choices and text not in flag.choices:
        raise _malformed(where, text, f"one of {', '.join(flag.choices)}")
    if isinstance(flag.default, bool):
        if text not in ("true", "false"):
            raise _malformed(where, text, "`true` or `false`")
        return text == "true"
    if isinstance(flag.default, str):
        return text
    kind = type(flag.default)
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not flag.low <= value <= flag.high:
        raise _malformed(where, text, f"a number from {flag.low:g} to {flag.high:g}")
    return value


def _malformed(where: str, text: str, allowed: str) -> SettingsError:
    return SettingsError(f"`{where}` is {quote(text)}, not {allowed}.", fix="`trt-action serve --help` says more.")


def plain(value: Any) -> str:
    """A value as a person writes it."""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
