"""What can be asked of TensorRT's builder and runtime. Plain data: crosses to child processes and into records."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class TensorRTOptions:
    """One field per setting of the group; values as a person writes them.

    `workspace` and `weight_streaming`: `auto`, a size (`4GB`) or a share (`80%`); `weight_streaming` also `none`.
    `aux_streams` None leaves the number to TensorRT. `compute_capabilities` are TensorRT for RTX's targets (`8.9`);
    empty = every GPU that it supports.
    """

    workspace: str = "auto"
    optimization_level: int = 3
    tiling: str = "none"  # none | fast | moderate | full
    aux_streams: int | None = None
    timing_iterations: int = 8
    timing_cache: bool = True
    version_compatible: str = "none"  # none | with-lean | without-lean
    hardware_compatibility: str = "none"  # none | ampere-plus | same-compute-capability
    weight_streaming: str = "none"
    compute_capabilities: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "compute_capabilities": list(self.compute_capabilities)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> TensorRTOptions:
        """The inverse of `as_json`; fields that an older record lacks have their default.

        Raises:
            TypeError, ValueError: the record, which may be a stranger's, is none of these options.
        """
        made = cls(**{**record, "compute_capabilities": tuple(record.get("compute_capabilities", ()))})
        for one in fields(cls):
            value, default = getattr(made, one.name), getattr(_DEFAULTS, one.name)
            if type(value) is not type(default) and not (one.name == "aux_streams" and type(value) is int):
                raise TypeError(f"{one.name} has another type")
        words = (
            made.workspace,
            made.weight_streaming,
            made.tiling,
            made.version_compatible,
            made.hardware_compatibility,
        )
        if not all(_WORD.fullmatch(word) for word in words):
            raise ValueError("a word is malformed")
        if not all(isinstance(one, str) and _CAPABILITY.fullmatch(one) for one in made.compute_capabilities):
            raise ValueError("compute_capabilities is malformed")
        return made

    def of_the_plan(self) -> dict[str, Any]:
        """What decides the plan's bytes, for the cache key. Of weight streaming, that it is possible at all; the timing
        cache makes a build faster, not different in kind."""
        kept = {**self.as_json(), "weight_streaming": self.weight_streaming != "none"}
        del kept["timing_cache"]
        return kept


_DEFAULTS = TensorRTOptions()
_WORD = re.compile(r"[A-Za-z0-9.% -]{1,40}", re.ASCII)
_CAPABILITY = re.compile(r"\d{1,2}\.\d", re.ASCII)
