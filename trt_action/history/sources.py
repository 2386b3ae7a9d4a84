"""Where evidence of earlier runs is: attached to images in a registry, or in files. All of it may be anybody's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

from trt_action import report
from trt_action.console import clean
from trt_action.errors import EvidenceError, RegistryError, StorageError
from trt_action.evidence import Evidence
from trt_action.history.points import Point, point
from trt_action.inputs import quote
from trt_action.publish import attest, stored
from trt_action.publish.prune import Stored, belongs_to
from trt_action.publish.registry import Registry

LIMIT = 100
"""Images whose evidence is read, the newest first."""
MAX_LIMIT = 500
MAX_TAGS = 3_000
"""Tags of a repository that are looked at."""
MAX_CHILDREN = 50
"""Images of one index."""
MAX_EVIDENCE = 8_000_000
"""Bytes. Evidence in an image has no long series: about 30 kB."""
MAX_ATTACHED = 5
"""Evidences of one image that are read; ours have one."""
MAX_FILES = 2_000
NAMED = 5
"""Places that one note names."""

Log = Callable[[str], None]


@dataclass
class Found:
    """Points, and what could not be one: (place, why)."""

    points: list[Point] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def all_notes(self) -> list[str]:
        """In words, the same reason once."""
        reasons: dict[str, list[str]] = {}
        for place, why in self.left_out:
            reasons.setdefault(why, []).append(place)
        said = [f"{_places(places)} left out: {why}." for why, places in list(reasons.items())[:20]]
        return [*self.notes, *said]


def of_files(paths: Iterable[Path]) -> Found:
    """Evidence files, and every `evidence.json` in folders.

    Raises:
        EvidenceError: a file that was named is no evidence.
        StorageError: a file that was named cannot be read.
    """
    found = Found()
    for path in paths:
        if not path.is_dir():
            _take(found, report.read_evidence(path), str(path))
            continue
        files = sorted(path.rglob("evidence.json"))
        if len(files) > MAX_FILES:
            found.notes.append(f"{quote(path)} holds {len(files)} files; the first {MAX_FILES} were read.")
        for file in files[:MAX_FILES]:
            try:
                _take(found, report.read_evidence(file), str(file.relative_to(path)))
            except (EvidenceError, StorageError):
                found.left_out.append((str(file.relative_to(path)), "it is no evidence of this version's schema"))
    return found


def of_registry(
    registry: Registry, repository: str, *, limit: int = LIMIT, pattern: str = "*", log: Log = lambda _: None
) -> Found:
    """The evidence attached to the newest images of a repository; what has none, or none that is valid, is noted.

    Args:
        pattern: only images with a tag that matches this shell pattern.

    Raises:
        RegistryError: the registry refused, or did not answer in time.
    """
    found = Found()
    images = _images(registry, repository, pattern, found)
    images.sort(key=lambda one: (one.created or datetime.min.replace(tzinfo=UTC), one.digest), reverse=True)
    if len(images) > limit:
        found.notes.append(f"Of {len(images)} images the newest {limit} were read.")
    for number, one in enumerate(images[:limit], start=1):
        if number % 20 == 0:
            log(f"read the evidence of {number} images")
        _attached(registry, repository, one, found)
    return found


def _images(registry: Registry, repository: str, pattern: str, found: Found) -> list[Stored]:
    """Every image that a matching tag names, itself or as a part of an index; each once."""
    tags = [tag for tag in registry.tags(repository) if fnmatchcase(tag, pattern) and belongs_to(tag) is None]
    if len(tags) > MAX_TAGS:
        found.notes.append(f"The repository has {len(tags)} tags; the last {MAX_TAGS} by name were looked at.")
    images: dict[str, Stored] = {}
    for tag in sorted(tags)[-MAX_TAGS:]:
        digest = registry.digest(repository, tag)
        if digest is None or digest in images:
            continue
        for one in _described(registry, repository, digest, tag, found):
            children = one.children[:MAX_CHILDREN] if one.kind == "index" else ()
            for child in children:
                if child not in images:
                    images |= {each.digest: each for each in _described(registry, repository, child, tag, found)}
            images[one.digest] = one
    return [one for one in images.values() if one.kind == "image"]


def _described(registry: Registry, repository: str, digest: str, tag: str, found: Found) -> list[Stored]:
    try:
        return stored.describe(registry, repository, {digest: (tag,)}, reach=False)
    except RegistryError as error:
        if error.status:  # the registry itself refuses: that is no property of the image
            raise
        found.left_out.append((tag, "its manifest is not one of an image"))
        return []


def _attached(registry: Registry, repository: str, image: Stored, found: Found) -> None:
    """The evidence of one image; of several none: which of them is meant, a signature says (`trt-action verify`)."""
    place = image.tags[0] if image.tags else image.digest[:19]
    valid: list[Evidence] = []
    why = "no evidence is attached"
    for one in registry.referrers(repository, image.digest, attest.EVIDENCE)[:MAX_ATTACHED]:
        try:
            valid.append(attest.parsed(attest.content(registry, repository, one, limit=MAX_EVIDENCE)))
        except RegistryError as error:
            if error.status:
                raise
            why = "its evidence is too large or not what its digest says"
        except EvidenceError:
            why = "its evidence is not of this version's schema"
    if len(valid) == 1:
        _take(found, valid[0], place)
    else:
        found.left_out.append((place, "more than one evidence is attached" if valid else why))


def _take(found: Found, evidence: Evidence, place: str) -> None:
    taken = point(evidence, clean(place))
    if isinstance(taken, str):
        found.left_out.append((place, taken))
    else:
        found.points.append(taken)


def _places(places: list[str]) -> str:
    more = f" and {len(places) - NAMED} more" if len(places) > NAMED else ""
    return ", ".join(quote(place) for place in places[:NAMED]) + more
