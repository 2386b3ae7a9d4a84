"""The version folder that is published: the engine as it was measured, and the evidence that says so."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from trt_action.engine import kept
from trt_action.engine.kept import Kept
from trt_action.errors import EvidenceError, StorageError
from trt_action.evidence import Evidence
from trt_action.inputs import open_regular, quote
from trt_action.publish import labels, oci, triton
from trt_action.publish.variants import Variant

MODELS = "/models"
"""Where the model repository lies in an image."""
NUMBER = "1"
MAX_EVIDENCE_BYTES = 64_000_000


@dataclass(frozen=True)
class Version:
    """A measured engine. `raw` is the very text of `evidence.json` as the image will hold it."""

    folder: Path
    record: Kept
    evidence: Evidence
    raw: bytes = field(repr=False)

    @property
    def evidence_digest(self) -> str:
        return oci.sha256(self.raw)

    @property
    def on_gpu(self) -> bool:
        return labels.gpu(self.evidence) is not None


def read(folder: Path, evidence: Path | None = None) -> Version:
    """The engine in `folder` and its evidence, which must speak of this engine.

    Args:
        evidence: of the run that measured it, if not the one in the folder.

    Raises:
        BuildError, StorageError: as `engine.kept.read`.
        EvidenceError: there is none, it is not valid, or it speaks of another engine.
    """
    record = kept.read(folder)
    path = evidence or folder / kept.EVIDENCE
    if evidence is None and not path.exists():
        raise EvidenceError(
            f"The folder {quote(folder)} holds an engine and no evidence: nobody has measured it.",
            fix="Make it with `trt-action run --keep DIR`, or name the evidence with `--evidence FILE`.",
        )
    with open_regular(path, noun="evidence", wrong=EvidenceError) as file:
        content = file.read(MAX_EVIDENCE_BYTES + 1)
    if len(content) > MAX_EVIDENCE_BYTES:
        raise EvidenceError(f"{quote(path)} is larger than {MAX_EVIDENCE_BYTES // 1_000_000} MB.")
    try:
        found = kept.without_series(Evidence.model_validate_json(content))
    except ValueError as error:
        raise EvidenceError(f"{quote(path)} is not valid evidence ({str(error).splitlines()[0][:200]}).") from None
    measured = found.head.engine.sha256 if found.head else None
    if measured != record.engine.sha256:
        raise EvidenceError(
            f"The evidence {quote(path)} speaks of another engine ({str(measured)[:12]}).",
            why=f"The engine in {quote(folder)} is {record.engine.sha256[:12]}; only what was measured is published.",
            fix="Give the evidence of the run that measured this engine.",
        )
    _check_record(folder, record, found)
    return Version(folder, record, found, (found.model_dump_json(indent=1) + "\n").encode())


def _check_record(folder: Path, record: Kept, evidence: Evidence) -> None:
    """The server believes `engine.json`: what it says of engine and model must be what was measured."""
    head = evidence.head
    if head is None or evidence.model is None:
        return  # never measured: `gates.check` refuses it in words of its own
    measured = (head.engine.backend, head.engine.backend_version, head.engine.precision, evidence.model.sha256)
    here = (record.engine.backend, record.engine.backend_version, record.engine.precision, record.model.sha256)
    if here != measured:
        raise EvidenceError(
            f"The record of the engine in {quote(folder)} is not of the run that measured it.",
            why=f"`engine.json` says {quote(', '.join(here))}, the evidence {quote(', '.join(measured))}.",
            fix="Take the folder as `trt-action run --keep` has left it.",
        )


def stage(version: Version, variant: Variant, root: Path) -> Path:
    """The model repository as it will lie in the image, in `root`: nothing but what the record names.

    Raises:
        StorageError: `root` cannot be written.
        SettingsError: Triton cannot serve the engine.
    """
    name = labels.model_name(version.evidence)
    target = root / name / NUMBER
    self_test = [kept.SELFTEST] if (version.folder / kept.SELFTEST).is_file() else []
    try:
        target.mkdir(parents=True)
        for file in (kept.RECORD, *self_test, *version.record.files):
            _link(version.folder / file, target / file)
        (target / kept.EVIDENCE).write_bytes(version.raw)
        if variant.name == "triton":
            (root / name / "config.pbtxt").write_text(_triton(version, name))
    except OSError as error:
        raise StorageError(f"The image's layer cannot be prepared: {error.strerror or error}.") from None
    return root


def _triton(version: Version, name: str) -> str:
    return triton.config(
        version.record.model,
        name=name,
        backend=version.record.engine.backend,
        engine_file=version.record.files[0],
        on_gpu=version.on_gpu,
    )


def _link(source: Path, target: Path) -> None:
    """A second name where the file system can, else a copy: engines are large."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
