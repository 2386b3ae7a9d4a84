"""One search: trials of recipes, judged by the gates, within a time limit."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trt_action import precision
from trt_action.accuracy import Trials
from trt_action.data import Dataset
from trt_action.engine.backend import Loadable, RuntimeOptions
from trt_action.errors import MeasureError, PrecisionError
from trt_action.evidence import Accuracy, AchievedPrecision, Gate
from trt_action.inputs import quote
from trt_action.judge import accuracy as gates
from trt_action.judge import words
from trt_action.model import Model
from trt_action.precision import Recipe, SensitiveLayer
from trt_action.precision.fewest import TimeIsUpError, fewest
from trt_action.process import Progress
from trt_action.search_records import LayerError, Search, SearchTrial
from trt_action.settings import Settings
from trt_action.settings.units import duration_text

RANK_SHARE = 0.5
"""Of the time that is left, for ranking layers."""

MAX_SHOWN = 100
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Outcome:
    """What one precision came to: with `kept` layers above it, it holds or not."""

    recipe: Recipe
    kept: tuple[SensitiveLayer, ...]
    holds: bool
    layers: tuple[SensitiveLayer, ...] = ()


class Hunt:
    """Trials of one model. `notes` are for the record."""

    def __init__(
        self,
        model: Model,
        s: Settings,
        calibration: Dataset | None,
        ranking: Dataset,
        trials: Trials,
        folder: Path,
        progress: Progress,
    ) -> None:
        self._model, self._settings, self._trials = model, s, trials
        self._calibration, self._ranking = calibration, ranking
        self._folder, self._progress = folder, progress
        self._start = time.monotonic()
        self._done: list[SearchTrial] = []
        self._rule = ""
        self._hopeless = ""
        """Why no layer can help."""
        self.notes: list[str] = []

    def attempt(self, recipe: Recipe) -> Outcome:
        """The precision as it is; if that does not hold, with the fewest layers kept in higher precision.

        Raises:
            TrtActionError: what preparing or judging met.
        """
        ranges = self._folder / f"ranges-{recipe.precision}.json"
        layers: tuple[SensitiveLayer, ...] = ()
        try:
            if self._trial(recipe, (), ranges):
                return Outcome(recipe, (), self._enough(recipe, 0))
            if recipe.precision in precision.UNCHANGED or self._hopeless:
                return Outcome(recipe, (), False)
            layers = self._rank(recipe, ranges)
            kept = fewest(layers, lambda chosen: self._trial(recipe, chosen, ranges))
        except TimeIsUpError:
            kept = None
        ended = f"`search-timeout: {duration_text(self._settings.search_timeout)}` ended the search."
        if self._left() <= 0 and ended not in self.notes:
            self.notes.append(ended)
        if kept is None:
            self.notes.append(self._why_none(recipe, layers))
            return Outcome(recipe, (), False, layers)
        return Outcome(recipe, kept, self._enough(recipe, len(kept)), layers)

    def record(self, outcome: Outcome, decided_on: Dataset) -> Search:
        """What the engine's record says of it."""
        s = self._settings
        kept = outcome.kept if outcome.holds else ()
        added = tuple(dict.fromkeys(name for layer in kept for name in layer.exclude))
        return Search(
            asked="auto" if s.precision == "auto" else "keep-accuracy",
            rule=self._rule,
            data=decided_on.origin,
            samples=decided_on.n,
            found=outcome.holds,
            precision=outcome.recipe.precision,
            kept=list(added),
            kept_layers=len(kept),
            layers=len(outcome.layers),
            exclude_nodes=[*s.exclude_nodes, *(name for name in added if name not in s.exclude_nodes)],
            trials=self._done,
            sensitivity=[LayerError(name=layer.name, error=layer.error) for layer in outcome.layers[:MAX_SHOWN]],
            seconds=round(time.monotonic() - self._start, 3),
            notes=self.notes,
        )

    def _left(self) -> float:
        return self._settings.search_timeout - (time.monotonic() - self._start)

    def _limit(self) -> float:
        left = self._left()
        if left <= 0:
            raise TimeIsUpError
        return min(left, self._settings.build_timeout)

    def _rank(self, recipe: Recipe, ranges: Path) -> tuple[SensitiveLayer, ...]:
        """Most sensitive first. None where ranking fails: a run goes on without a search that could not be made."""
        seconds = RANK_SHARE * self._limit()
        try:
            layers = precision.rank(
                self._model,
                recipe,
                self._ranking,
                self._folder,
                seconds=seconds,
                ranges=ranges,
                progress=self._told("ranking"),
            )
        except PrecisionError as error:
            if self._left() <= 0:
                raise TimeIsUpError from None
            self.notes.append(f"The layers of {recipe.precision} could not be ranked: {error.what} {error.why}")
            return ()
        if late := sum(not layer.measured for layer in layers):
            self.notes.append(f"There was no time to rank {late} of {len(layers)} layers; they come last.")
        named = tuple(layer for layer in layers if layer.can_be_named)
        if len(named) < len(layers):
            other = next(layer.name for layer in layers if not layer.can_be_named)
            self.notes.append(
                f"{len(layers) - len(named)} of {len(layers)} layers cannot be kept, {quote(other)} for one: a name with "
                f"unprintable characters, or a longer one than {precision.LONGEST_NAME:,}, fits into no setting."
            )
        return named

    def _trial(self, recipe: Recipe, kept: Sequence[SensitiveLayer], ranges: Path) -> bool:
        """Make, judge and record one candidate; whether its accuracy holds."""
        limit, start = self._limit(), time.monotonic()
        label = f"candidate {len(self._done) + 1}, {recipe.precision}"
        label += f" with {len(kept)} layer{'s' if len(kept) > 1 else ''} kept" if kept else ""
        names = tuple(name for layer in kept for name in layer.exclude)
        candidate = dataclasses.replace(recipe, exclude_nodes=(*recipe.exclude_nodes, *names))
        folder = self._folder / "candidate"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            made = precision.prepare(
                self._model,
                candidate,
                self._calibration,
                folder,
                timeout=limit,
                progress=self._told(label),
                ranges=ranges,
            )
            plain = RuntimeOptions(graph_optimization="disabled")
            found = self._trials.of(
                Loadable("onnxruntime", made.path, plain, prepared=False),
                timeout=self._limit(),
                progress=self._told(label),
            )
        except (PrecisionError, MeasureError) as error:
            if self._left() <= 0:
                raise TimeIsUpError from None
            if not kept or isinstance(error, MeasureError):
                raise
            return self._add(recipe, kept, start, holds=False, note=error.what)
        holds, self._rule = judged(self._settings, found)
        self._look_at_reference(found)
        return self._add(recipe, kept, start, holds=holds, found=found, proof=made.proof)

    def _look_at_reference(self, found: Accuracy) -> None:
        asked, task = self._settings.min_accuracy, found.task
        if self._hopeless or asked is None or task is None or task.reference is None or not task.higher_is_better:
            return
        if task.reference.estimate < asked.value - _ROUNDING:
            self._hopeless = (
                f"`min-accuracy: {asked}` cannot be reached by any precision: the FP32 reference itself has "
                f"{task.reference.estimate:.4g} on these data."
            )
            self.notes.append(self._hopeless)

    def _told(self, label: str) -> Progress:
        return lambda text, share: self._progress(f"{label}: {text}", share)

    def _add(
        self,
        recipe: Recipe,
        kept: Sequence[SensitiveLayer],
        start: float,
        *,
        holds: bool,
        note: str = "",
        found: Accuracy | None = None,
        proof: AchievedPrecision | None = None,
    ) -> bool:
        self._done.append(
            SearchTrial(
                precision=recipe.precision,
                kept=len(kept),
                holds=holds,
                metric=found.task.head.estimate if found and found.task else None,
                error=worst_error(found) if found else None,
                share=share_of(proof) if proof else None,
                seconds=round(time.monotonic() - start, 3),
                note=note[:1_000],
            )
        )
        return holds

    def _enough(self, recipe: Recipe, kept: int) -> bool:
        """Does what holds leave as much in the precision as `min-precision-share` asks for?"""
        if recipe.precision in precision.UNCHANGED:
            return True
        trial = next(t for t in reversed(self._done) if t.holds and t.kept == kept and t.precision == recipe.precision)
        limit = self._settings.min_precision_share
        if trial.share is None or trial.share >= limit - _ROUNDING:
            return True
        self.notes.append(
            f"{recipe.precision} holds with {kept} layer{'' if kept == 1 else 's'} kept: {words.percent(trial.share)} of the "
            f"work is left in it, below `min-precision-share: {words.percent(limit)}`."
        )
        return False

    def _why_none(self, recipe: Recipe, layers: Sequence[SensitiveLayer]) -> str:
        if not any(trial.precision == recipe.precision for trial in self._done):
            return f"There was no time to try {recipe.precision}."
        if not layers and self._left() > 0:
            return f"{recipe.precision} does not hold, and no layer of this model can be kept in higher precision."
        return f"{recipe.precision} does not hold with any number of layers kept that was tried."


def judged(s: Settings, found: Accuracy) -> tuple[bool, str]:
    """Whether a candidate holds, and the rule in words: `max-accuracy-drop` and `min-accuracy` against the FP32 reference
    where they are asked for and can be decided, else the largest relative error of an output; never more NaN or
    infinities than the reference."""
    alone = s.model_copy(update={"base": "none"})
    asked = [*gates.max_accuracy_drop(alone, found), *gates.min_accuracy(alone, found)]
    decided = [gate for gate in asked if gate.status != "not-checked"]
    finite = all(gate.status == "passed" for gate in gates.finite_outputs(found))
    if decided:
        return finite and all(gate.status == "passed" for gate in decided), _rule(decided)
    worst = worst_error(found)
    rule = f"relative L2 error of every output ≤ {words.percent(s.search_max_error)}"
    return finite and worst is not None and worst <= s.search_max_error, rule


def _rule(decided: Sequence[Gate]) -> str:
    return " and ".join(gate.rule for gate in decided)


def worst_error(found: Accuracy) -> float | None:
    """The largest relative L2 error of an output; None if one has none (NaN, another shape). Zeros that stay zeros have
    none: an output that these data never switch on stands against no recipe."""
    errors = (
        [0.0 if one.max_abs == 0 else one.relative_l2 for one in found.parity.head.values()] if found.parity else []
    )
    known = [error for error in errors if error is not None]
    return max(known) if known and len(known) == len(errors) else None


def share_of(proof: AchievedPrecision) -> float:
    """As the gate `min-precision-share` counts."""
    return proof.weight_share if proof.flop_share is None else proof.flop_share
