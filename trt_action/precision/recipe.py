"""What is asked of the graph: plain data with a digest, so that two engines of one recipe can share a cache entry."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from trt_action import __version__
from trt_action.evidence import Precision

TOOLCHAIN = ("ml-dtypes", "numpy", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Recipe:
    """How the graph gets its precision.

    `calibration_method` (`minmax` or `percentile`), `calibration_samples` and `op_types` matter for int8 alone;
    `exclude_nodes` (names or globs of nodes that stay in higher precision) for everything but fp32.
    """

    precision: Precision
    calibration_method: str = "minmax"
    calibration_samples: int = 128
    op_types: tuple[str, ...] = ("Conv", "MatMul", "Gemm")
    exclude_nodes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Everything that decides the bytes of the prepared model, apart from model and data; nothing that does not."""
        record: dict[str, Any] = {"precision": self.precision}
        if self.precision == "int8":
            record |= {
                "calibration_method": self.calibration_method,
                "calibration_samples": self.calibration_samples,
                "op_types": sorted(set(self.op_types)),
            }
        if self.precision != "fp32":
            record["exclude_nodes"] = sorted(set(self.exclude_nodes))
        return record | {"toolchain": toolchain()}

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON: sorted keys, no spaces."""
        canonical = json.dumps(self.as_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def toolchain() -> dict[str, str]:
    """Versions of what rewrites the graph; an optional package that is not installed is left out."""
    versions = {"trt-action": __version__}
    for name in TOOLCHAIN:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
