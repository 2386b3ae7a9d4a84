"""Evidence and what is rendered from it, as files; and evidence read back, which may come from anywhere."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from trt_action import files
from trt_action.errors import EvidenceError
from trt_action.evidence import Evidence
from trt_action.inputs import open_regular, quote
from trt_action.report.markdown import comment, summary
from trt_action.report.page import html

EVIDENCE = "evidence.json"
MAX_BYTES = 64_000_000
"""Largest evidence file that is read: a minute of comparison leaves less than 10 MB."""


def write_evidence(evidence: Evidence, folder: Path) -> Path:
    """`evidence.json` in `folder`.

    Raises:
        StorageError: the folder cannot be written.
    """
    path = folder / EVIDENCE
    files.write_atomic(path, evidence.model_dump_json(indent=1) + "\n")
    return path


def write(evidences: Sequence[Evidence], folder: Path, *, template: Path | None = None) -> dict[str, Path]:
    """`comment.md`, `summary.md` and `report.html` in `folder`: what each is → where it is.

    Raises:
        StorageError: the folder cannot be written.
        SettingsError: the user's template is not usable.
    """
    rendered = {
        "comment": ("comment.md", comment(evidences, template=template)),
        "summary": ("summary.md", summary(evidences)),
        "report": ("report.html", html(evidences)),
    }
    for name, text in rendered.values():
        files.write_atomic(folder / name, text)
    return {what: folder / name for what, (name, _) in rendered.items()}


def read_evidence(path: Path) -> Evidence:
    """Evidence from a file that anybody may have written: size first, then the schema.

    Raises:
        EvidenceError: too large, not JSON, or not valid against the schema.
        StorageError: it cannot be read.
    """
    with open_regular(path, noun="evidence", wrong=EvidenceError) as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise EvidenceError(f"{quote(path)} is larger than {MAX_BYTES // 1_000_000} MB.")
    try:
        return Evidence.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise EvidenceError(
            f"{quote(path)} is not valid evidence: {quote(place)}: {first['msg'][:300]}.",
            why=f"{error.error_count()} places do not follow the schema of this version.",
        ) from None


def slug(name: str) -> str:
    """A folder name for a display name: letters, digits, `.`, `_`, `-`; never empty, never a way out. A name that has
    to be changed for that ends in a part of its hash, so that two names never get one folder."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:80] or "model"
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
