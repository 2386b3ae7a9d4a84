"""What is asked of the graph: plain data with a digest, so that two engines of one recipe can share a cache entry."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any, Literal

from trt_action import __version__
from trt_action.evidence import Precision
from trt_action.precision import modelopt
from trt_action.precision.modelopt import ModelOpt

PACKAGES = ("ml-dtypes", "numpy", "onnx", "onnxruntime")
UNCHANGED = ("fp32", "tf32")
"""The graph computes in float32; for tf32 the backend rounds the factors of products."""
CALIBRATED = ("int8", "fp8", "int4")
"""Precisions that need representative inputs."""

Rest = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True)
class Recipe:
    """How the graph gets its precision.

    `calibration_method` (`minmax`, `percentile`, `entropy`), `calibration_samples` and `op_types` matter for int8 and
    fp8 (int4 has a method and operators of its own); `exclude_nodes` (names or globs of nodes that stay in higher
    precision) for everything but fp32 and tf32; `high_precision`, what computes around quantized nodes, for int8, fp8
    and int4. `modelopt` is the environment that does it; None: the light toolchain, ONNX Runtime's quantizer and the
    cast pass of this room. With `lenient`, an excluded node that the model lacks is passed over.
    """

    precision: Precision
    calibration_method: str = "minmax"
    calibration_samples: int = 128
    op_types: tuple[str, ...] = ("Conv", "MatMul", "Gemm")
    exclude_nodes: tuple[str, ...] = ()
    high_precision: Rest = "fp32"
    modelopt: ModelOpt | None = None
    lenient: bool = False

    @property
    def method(self) -> str:
        """The calibration method as it is recorded."""
        return modelopt.INT4_METHOD if self.precision == "int4" else self.calibration_method

    def as_json(self) -> dict[str, Any]:
        """Everything that decides the bytes of the prepared model, apart from model and data; nothing that does not."""
        record: dict[str, Any] = {"precision": self.precision}
        if self.precision in CALIBRATED:
            record |= {
                "calibration_method": self.method,
                "calibration_samples": self.calibration_samples,
                "high_precision": self.high_precision,
            }
            if self.precision != "int4":
                record["op_types"] = sorted(set(self.op_types))
        if self.precision not in UNCHANGED:
            record["exclude_nodes"] = sorted(set(self.exclude_nodes))
        return record | {"toolchain": self._toolchain()}

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON: sorted keys, no spaces."""
        canonical = json.dumps(self.as_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def crossing(self) -> dict[str, Any]:
        """For a child process, as JSON; `crossed` reads it."""
        return {**asdict(self), "modelopt": None}

    def _toolchain(self) -> dict[str, Any]:
        record: dict[str, Any] = {"name": "onnxruntime", **versions()}
        if self.modelopt is not None:
            record |= {"name": "modelopt", "modelopt": dict(self.modelopt.versions)}
        return record


def crossed(record: Mapping[str, Any]) -> Recipe:
    """A recipe in a child, which never starts ModelOpt itself."""
    lists = {name: tuple(record[name]) for name in ("op_types", "exclude_nodes")}
    return Recipe(**{**record, **lists})


def versions() -> dict[str, str]:
    """Versions of what rewrites the graph here; an optional package that is not installed is left out."""
    found = {"trt-action": __version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
