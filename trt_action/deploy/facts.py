"""What a workload says about its image: annotations with the facts of now and of the time before. Pure.

They are written in the same patch as the image: there is no moment at which the one is there without the other, and
KServe, which copies annotations to its pods, rolls out once and not twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

PREFIX = "trt-action.github.io/"
PREVIOUS = "previous-"
CONTAINER = f"{PREFIX}container"
ROLLED_BACK_FROM = f"{PREFIX}rolled-back-from"
CHANGE_CAUSE = "kubernetes.io/change-cause"
"""What `kubectl rollout history` shows."""

MAX_VALUE = 1_000


@dataclass(frozen=True)
class Facts:
    """One image of a container. Empty texts: not known.

    `image`: as the workload names it; `digest`: `sha256:…`; `evidence`: digest of the evidence; `outcome` and `verdict`:
    what it says; `deployed_at`: UTC, ISO 8601; `deployed_by`: a person or a run.
    """

    image: str
    digest: str = ""
    commit: str = ""
    evidence: str = ""
    outcome: str = ""
    verdict: str = ""
    deployed_at: str = ""
    deployed_by: str = ""


_NAMES = {name: name.replace("_", "-") for name in Facts.__dataclass_fields__}
KEYS = (
    *(PREFIX + name for name in _NAMES.values()),
    *(PREFIX + PREVIOUS + name for name in _NAMES.values()),
    CONTAINER,
    ROLLED_BACK_FROM,
    CHANGE_CAUSE,
)
"""Every annotation that we write."""


def current(annotations: Mapping[str, str]) -> Facts | None:
    """What the workload says of now; None where we have never deployed to it."""
    return _read(annotations, PREFIX)


def previous(annotations: Mapping[str, str]) -> Facts | None:
    """What the workload says of the time before; None where nothing is recorded."""
    return _read(annotations, PREFIX + PREVIOUS)


def written(
    now: Facts, before: Facts | None, container: str, *, cause: str | None, rolled_back_from: str | None = None
) -> dict[str, str | None]:
    """Every annotation of ours with its value; None: it is to be removed."""
    found: dict[str, str | None] = dict.fromkeys(KEYS)
    found |= _named(now, PREFIX)
    if before is not None:
        found |= _named(before, PREFIX + PREVIOUS)
    found |= {CONTAINER: container, ROLLED_BACK_FROM: rolled_back_from, CHANGE_CAUSE: cause}
    return found


def as_they_were(annotations: Mapping[str, str]) -> dict[str, str | None]:
    """What puts our annotations back to exactly what they are now."""
    return {key: annotations.get(key) for key in KEYS}


def _read(annotations: Mapping[str, str], prefix: str) -> Facts | None:
    held = {name: annotations.get(prefix + key, "") for name, key in _NAMES.items()}
    return Facts(**held) if held["image"] else None


def _named(facts: Facts, prefix: str) -> dict[str, str | None]:
    return {prefix + _NAMES[name]: _clean(value) or None for name, value in asdict(facts).items()}


def _clean(text: str) -> str:
    """One printable line: facts come from images and environments of others."""
    return "".join(c if c.isprintable() else " " for c in text)[:MAX_VALUE]
