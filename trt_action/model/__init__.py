"""What is this file, is it safe and whole? `load` answers for one ONNX model; `base.py` finds the other one.

The bytes of a pull request are hostile until they are checked: the head of the file is looked at first, then a child
process with a memory limit parses and checks it (`examine.py`). A crash of the native parser is an error message here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_action import process
from trt_action.errors import ModelError
from trt_action.inputs import open_regular, quote
from trt_action.model import shapes as profiles
from trt_action.model import sniff

if TYPE_CHECKING:  # pydantic is not needed in the child that examines
    from trt_action.evidence import ModelInfo

MAX_FILE_BYTES = (1 << 31) - 1
"""Protobuf's limit of one message; larger models keep their weights in external data."""


@dataclass(frozen=True)
class Model:
    """A model that was checked. `notes` say what was assumed or is unusual, one sentence each."""

    path: Path
    info: ModelInfo
    notes: tuple[str, ...] = ()


def load(
    path: Path,
    *,
    label: str,
    name: str | None = None,
    shapes: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    elsewhere: Collection[str] = (),
) -> Model:
    """Check an ONNX model and describe it.

    Args:
        path: the model; external data lie in the same folder or below it.
        label: what messages and evidence call it.
        name: display name; None = the stem of the file's name.
        shapes: by input name: a list of ints, or `{"min": …, "opt": …, "max": …}`; only open axes need one.
            `{"values": …}`, likewise, for an input that holds sizes.
        batch_size: for an open axis 0 without a shape; None = 1, and a note that it was assumed.
        elsewhere: inputs of the model that `shapes` was written for: those that this one lacks are passed over.

    Returns:
        The model with its content hash: SHA-256 over the bytes of the model file; if it has external data, followed
        for each external file, sorted by path, by `\\0`, its path in UTF-8 (relative to the model's folder), `\\0`,
        its size as 8 bytes little-endian, and its bytes. Without external data it equals `sha256sum model.onnx`.

    Raises:
        ModelError: missing, not ONNX, damaged, incomplete, unsafe, unsupported, or its shapes are open.
        StorageError: it may not be read.
        OutOfMemoryError: the host had no memory to parse it.
    """
    from trt_action.evidence import ModelInfo

    label, name = _text(label), _text(name or path.stem)
    size = _look(path, label)
    wanted = profiles.parse(shapes or {})
    try:
        answer = process.call(
            "trt_action.model.examine:serve",
            {
                "path": str(path.absolute()),
                "label": label,
                "shapes": {key: profile.as_json() for key, profile in wanted.items()},
                "batch_size": batch_size,
                "elsewhere": list(elsewhere),
            },
            timeout=120 + size / 10e6,  # seconds; hashing and checking read every byte a few times
            died=_CrashError,
        )
    except _CrashError as error:
        raise ModelError(
            f"{quote(label)} makes the ONNX parser or checker crash or hang.",
            why=error.why if "ended unexpectedly" in error.what else error.what,
            fix="The file is damaged or hostile: export the model again.",
        ) from None
    info = ModelInfo.model_validate({**answer["info"], "name": name, "path": label})
    return Model(path, info, tuple(answer["notes"]))


class _CrashError(ModelError):
    """The child died; told apart from what it reported."""


def _text(name: str) -> str:
    """A name as the evidence can hold it: valid Unicode (a path need not be), not empty, at most 1,000 characters."""
    return name.encode("utf-8", "replace").decode()[:1_000] or "?"


def _look(path: Path, label: str) -> int:
    """Size in bytes of a file that may be a model by its size and its first bytes."""
    with open_regular(path, noun="model", wrong=ModelError) as file:
        file.seek(0, 2)
        size = file.tell()
        file.seek(0)
        head = file.read(sniff.HEAD_BYTES)
    if not size:
        raise ModelError(
            f"The model {quote(label)} is empty (0 bytes).",
            why="An export or a download that was interrupted leaves such a file.",
            fix="Export it again, or fetch it again.",
        )
    sniff.refuse_foreign(head, label)
    if size > MAX_FILE_BYTES:
        raise ModelError(
            f"The model {quote(label)} has {size / 2**30:.1f} GiB; a protobuf file ends at 2 GiB.",
            fix="Save the weights beside it: `onnx.save(model, path, save_as_external_data=True)`.",
        )
    return size
