"""Evidence of other jobs, for one comment or note.

The files may come from a stranger's pull request: they are data of unknown origin. Their number and size are limited,
links are refused, the schema is checked, the commit must be the one that the host names, and series are dropped unread.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from trt_action.errors import EvidenceError, SettingsError, StorageError
from trt_action.evidence import Evidence, Side
from trt_action.inputs import quote
from trt_action.report.writing import read_evidence

MAX_FILES = 64
MAX_FILE_BYTES = 32_000_000
MAX_TOTAL_BYTES = 256_000_000
MAX_PATHS = 20_000
"""Paths in the workspace that one pattern may match."""


def read(
    patterns: Sequence[str], folder: Path, commit: str, *, log: Callable[[str], None] = lambda _: None
) -> tuple[Evidence, ...]:
    """The evidence of every file that the patterns mean, in the order of their names.

    Args:
        patterns: paths and globs in `folder`.
        commit: what all of it must be about.
        log: told about each file.

    Raises:
        SettingsError, EvidenceError: as `find`; or a file is too large, invalid, contradicts itself, or is about another
            commit. One bad file refuses all: a leg that is left out could be the one that failed.
    """
    paths = find(patterns, folder)
    evidences = tuple(_read(path, folder, commit) for path in paths)
    for path, one in zip(paths, evidences, strict=True):
        log(f"{path.relative_to(folder)}: {one.outcome}")
    return evidences


def find(patterns: Sequence[str], folder: Path) -> list[Path]:
    """The files that the patterns mean, in the order of their names; each once.

    Raises:
        SettingsError: a pattern leaves `folder`.
        EvidenceError: a pattern matches nothing, too many files, or something behind a link.
    """
    found: set[Path] = set()
    for pattern in patterns:
        parts = PurePosixPath(pattern)
        if parts.is_absolute() or ".." in parts.parts or not parts.parts:
            raise SettingsError(
                f"The input `evidence: {quote(pattern)[1:-1]}` leaves the workspace.",
                fix="Give paths relative to the workspace, without `..`.",
            )
        matching = _matching(folder, pattern)
        if not matching:
            raise EvidenceError(
                f"No evidence matches {quote(pattern)}.",
                why="The measuring jobs wrote none, or their artifacts were not downloaded to this place.",
                fix="Look at the measuring jobs, and at the place where this job gets their artifacts.",
            )
        found |= matching
    if len(found) > MAX_FILES:
        raise EvidenceError(f"{len(found)} evidence files; at most {MAX_FILES} make one comment.")
    return sorted(found)


def _matching(folder: Path, pattern: str) -> set[Path]:
    found: set[Path] = set()
    try:
        for walked, path in enumerate(folder.glob(pattern)):
            if walked >= MAX_PATHS:
                raise EvidenceError(f"{quote(pattern)} matches more than {MAX_PATHS} paths.")
            if not path.is_dir() or path.is_symlink():
                _refuse_links(path, folder)
                found.add(path)
    except (OSError, ValueError, NotImplementedError) as error:
        raise EvidenceError(f"The pattern {quote(pattern)} cannot be used: {error}.") from None
    return found


def _refuse_links(path: Path, folder: Path) -> None:
    """Every step from `folder` to the file must be what it says: a link could point at a secret of this host."""
    here = folder
    for part in path.relative_to(folder).parts:
        here /= part
        if here.is_symlink():
            raise EvidenceError(
                f"{quote(path.relative_to(folder))} lies behind a symbolic link.",
                why="Evidence is never read through one.",
            )


def _read(path: Path, folder: Path, commit: str) -> Evidence:
    name = quote(path.relative_to(folder))
    if not str(path.relative_to(folder)).isprintable():
        raise EvidenceError(f"{name} has a name with control characters.", why="No artifact of this action has one.")
    try:
        about = path.lstat()
    except OSError as error:
        raise StorageError(f"{name} cannot be read: {error.strerror or error}.") from None
    if not stat.S_ISREG(about.st_mode):
        raise EvidenceError(f"{name} is not a regular file.")
    if about.st_size > MAX_FILE_BYTES:
        raise EvidenceError(f"{name} has {about.st_size:,} bytes; at most {MAX_FILE_BYTES:,} are read.")
    evidence = _without_series(read_evidence(path))
    if evidence.source.commit != commit:
        raise EvidenceError(
            f"{name} is about the commit {quote(str(evidence.source.commit)[:40])}, not {quote(commit[:40])}.",
            why="Results are attached only to the commit that was measured.",
            fix="Download the artifacts of the run that this job reports on.",
        )
    if evidence.outcome == "passed" and (evidence.error or any(gate.status == "failed" for gate in evidence.gates)):
        raise EvidenceError(f"{name} says `passed` and holds a failed gate or an error.")
    return evidence


def _without_series(evidence: Evidence) -> Evidence:
    """No comment shows them, and packed data from a stranger need not be unpacked."""

    def light(side: Side | None) -> Side | None:
        if side is None or side.latency is None:
            return side
        return side.model_copy(update={"latency": side.latency.model_copy(update={"series": None})})

    comparison = evidence.comparison.model_copy(update={"series": None}) if evidence.comparison else None
    return evidence.model_copy(
        update={"head": light(evidence.head), "base": light(evidence.base), "comparison": comparison}
    )
