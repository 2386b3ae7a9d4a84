"""What a file is by its first bytes, so that a wrong file is named instead of failing somewhere in protobuf."""

from __future__ import annotations

from trt_action.errors import ModelError
from trt_action.inputs import LFS_HEAD, quote

HEAD_BYTES = 4096

_EXPORT = "Export it to ONNX first (`torch.onnx.export` or the exporter of your framework)."

# (offset, bytes, what it is, next step); the signatures are those that the formats document.
_SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    (
        0,
        LFS_HEAD,
        "a Git LFS pointer, not the model itself",
        "Run `git lfs pull`; in a workflow set `lfs: true` at actions/checkout.",
    ),
    (0, b"ftrt", "a TensorRT plan (a compiled engine)", "Give the ONNX model that the plan was built from."),
    (0, b"vtrt", "a plan of TensorRT for RTX", "Give the ONNX model that the plan was built from."),
    (4, b"ORTM", "a model in ONNX Runtime's own ORT format", "Give the ONNX file that it was converted from."),
    (4, b"TFL3", "a TensorFlow Lite model", "Convert it with tf2onnx first."),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras)", _EXPORT),
    (0, b"GGUF", "a GGUF model (llama.cpp)", _EXPORT),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image", "Give the path of the ONNX model."),
    (0, b"\xff\xd8\xff", "a JPEG image", "Give the path of the ONNX model."),
    (0, b"%PDF", "a PDF document", "Give the path of the ONNX model."),
    (0, b"\x7fELF", "a Linux program or library", "Give the path of the ONNX model."),
    (0, b"\x1f\x8b", "a gzip archive", "Unpack it and give the ONNX model inside."),
    (0, b"BZh", "a bzip2 archive", "Unpack it and give the ONNX model inside."),
    (0, b"\xfd7zXZ\x00", "an xz archive", "Unpack it and give the ONNX model inside."),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive", "Unpack it and give the ONNX model inside."),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it and give the ONNX model inside."),
    (0, b"\x93NUMPY", "a numpy array (.npy)", "Give the path of the ONNX model."),
)


def refuse_foreign(head: bytes, label: str) -> None:
    """Raise if the first bytes belong to another format.

    Raises:
        ModelError: it names the format and what to do.
    """
    kind, fix = _name(head)
    if kind:
        raise ModelError(f"{quote(label)} is {kind}.", why="An ONNX model (protobuf) is needed here.", fix=fix)


def _name(head: bytes) -> tuple[str, str]:
    for offset, signature, kind, fix in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return kind, fix
    if head.startswith(b"PK\x03\x04"):
        if b"data.pkl" in head or b"/version" in head:
            return "a PyTorch checkpoint (.pt)", _EXPORT
        return "a zip archive", "Unpack it and give the ONNX model inside."
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle (.pt, .pkl), which is never loaded", _EXPORT
    if head[8:10] == b'{"' and not any(head[4:8]):
        return "a safetensors file (weights without a graph)", _EXPORT
    if not any(head):
        return "full of zero bytes", "Fetch or export it again: the copy was interrupted or the disk was full."
    start = head.lstrip()[:15].lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "an HTML page", "The download went to a login or error page; fetch the file itself."
    if start.startswith((b"<?xml", b"{", b"[")):
        return "a text file (JSON or XML)", "Give the path of the ONNX model."
    return "", ""
