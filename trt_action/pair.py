"""The two models of a run: head, and base or the reason why there is none."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import trt_action.model as models
from trt_action import errors, settings
from trt_action.draft import Draft, Work
from trt_action.engine import kept
from trt_action.model import base as bases
from trt_action.settings import Settings


@dataclass(frozen=True)
class BaseModel:
    model: models.Model
    where: bases.Base
    settings: Settings


def load_head(work: Work) -> models.Model:
    s = work.settings
    return _load_model(s.model_file, label_of(s.model_file, work.cwd), s, ())


def _load_model(path: Path, label: str, s: Settings, elsewhere: Collection[str]) -> models.Model:
    """An ONNX model, or the model of an engine that `trt-action build` has kept."""
    if kept.is_kept(path):
        return models.Model(path, kept.load(path)[1])
    batch = _asked_batch(s)
    return models.load(path, label=label, name=s.name, shapes=s.shapes, batch_size=batch, elsewhere=elsewhere)


def _asked_batch(s: Settings) -> int | None:
    """None where nobody asked: then the model room says what it assumed."""
    return None if s.sources.get("batch-size", "default") == "default" else s.batch_size


def load_base(draft: Draft, work: Work) -> BaseModel | None:
    """The base, or None with the reason in `draft.base_note`. A base that is broken never stops a pull request
    that may be its repair, unless the user named it."""
    s = work.settings
    found, draft.base_note = _find_base(work)
    if found is None:
        if s.base == "auto" and s.base_precision is not None:
            draft.base_note += f" To compare the model with itself in {s.base_precision}, name it as `base`."
        return None
    try:
        own = _base_settings(s, found, draft)
        if found.commit is None:
            found = dataclasses.replace(found, label=label_of(found.path, work.cwd))
        of_head = draft.model.info.shapes if draft.model else ()  # an input that is new in head ends no comparison
        own = _measured_like_head(own, s, of_head)
        model = _load_model(found.path, found.label, own, of_head)
    except errors.TrtActionError as error:
        go_on_without_base(draft, s, error)
        return None
    return BaseModel(model, found, own)


def _find_base(work: Work) -> tuple[bases.Base | None, str]:
    s = work.settings
    if kept.is_kept(work.cwd / s.base):
        return bases.Base(work.cwd / s.base, s.base, None, None, ""), ""
    return bases.resolve(
        s.base,
        model=s.model_file,
        config=s.config_file,
        work_dir=work.folder / "base",
        cwd=work.cwd,
        auto=work.auto_base,
    )


def _base_settings(s: Settings, found: bases.Base, draft: Draft) -> Settings:
    """The base's precision recipe comes from the base's own config; data and everything else from head's."""
    try:
        return settings.for_base(s, found.config)
    except errors.SettingsError as error:
        draft.warnings.append(f"The base's config is not usable ({error.what}); head's settings are used for it.")
        return s


def _measured_like_head(own: Settings, s: Settings, of_head: Collection[str]) -> Settings:
    """The base's own config names shapes of inputs that head no longer has; of those that it has, head's alone count."""
    kept_shapes = {
        name: one for name, one in (own.shapes or {}).items() if name in (s.shapes or {}) or name not in of_head
    }
    return own.model_copy(update={"shapes": kept_shapes or None})


def go_on_without_base(draft: Draft, s: Settings, error: errors.TrtActionError) -> None:
    if s.base != "auto":
        raise error
    draft.base_note = f"The base cannot be used: {error.what}"
    draft.warnings.append(draft.base_note)


def label_of(path: Path, cwd: Path) -> str:
    try:
        return str(path.relative_to(cwd))
    except ValueError:
        return str(path)
