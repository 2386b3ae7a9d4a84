"""The search for a recipe in the evidence: what was tried, what it cost, what was kept."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trt_action.records import Name, Precision, Record, Text


class LayerError(Record):
    """What one layer alone costs when everything else stays as the model has it."""

    name: Name
    error: float | None = Field(
        ge=0, description="Relative L2 error of the outputs on calibration data; null if not finite or not measured."
    )


class SearchTrial(Record):
    """One recipe that a search has built and judged."""

    precision: Precision
    kept: int = Field(ge=0, description="Layers kept in higher precision, beyond `exclude-nodes` as it was asked.")
    holds: bool
    metric: float | None = Field(None, description="The task metric; null where there is none.")
    error: float | None = Field(None, description="Largest relative L2 error of any output; null if not finite.")
    share: float | None = Field(None, ge=0, le=1, description="Share of FLOPs (or weights) in the precision.")
    seconds: float = Field(ge=0)
    note: Text = ""


class Search(Record):
    """How the recipe was found that the engine is built from (docs/precision.md). Every trial is the prepared graph,
    on the CPU, without graph optimisation."""

    asked: Literal["auto", "keep-accuracy"]
    rule: Text = Field(description="What a trial must hold, in words.")
    data: Literal["validation", "calibration", "synthetic"] = Field(description="What decided.")
    samples: int = Field(ge=0)
    found: bool = Field(description="False: nothing held; the recipe is as it was asked for.")
    precision: Precision
    kept: list[Name] = Field(description="Nodes that the search added to `exclude-nodes`.")
    kept_layers: int = Field(ge=0)
    layers: int = Field(ge=0, description="Layers that could have been kept; 0 if no layer had to be.")
    exclude_nodes: list[Name] = Field(description="The whole list, to be committed.")
    trials: list[SearchTrial]
    sensitivity: list[LayerError] = Field(default_factory=list, description="Most sensitive first (≤ 100).")
    seconds: float = Field(ge=0)
    notes: list[Text] = Field(default_factory=list)
