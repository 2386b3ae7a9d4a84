"""The tar reader agrees with the standard library's on sound tars, and refuses hostile ones within its limits."""

from __future__ import annotations

import io
import random
import tarfile
import tracemalloc
import zlib

import pytest

from trt_action.errors import VerificationError
from trt_action.publish import untar

FILES = {
    "models/digits/1/engine.onnx": b"e" * 1_300,
    "./empty": b"",
    "deep/" + "x" * 90 + "/" + "y" * 120 + "/file": b"long",
    "ünïcode/größe": b"utf-8",
    "block": b"b" * 512,
}


def packed(format_: int, files: dict[str, bytes] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_) as tar:
        folder = tarfile.TarInfo("models")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in (FILES if files is None else files).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mtime = 1.5 if format_ == tarfile.PAX_FORMAT else 1
            tar.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "z" * 150
        if format_ != tarfile.USTAR_FORMAT:
            tar.addfile(link)
    return buffer.getvalue()


def read(data: bytes) -> dict[str, bytes]:
    reader = untar.Reader(io.BytesIO(data))
    return {str(one.path): b"".join(reader.content()) for one in reader if one.kind == "file"}


@pytest.mark.parametrize("format_", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_it_reads_what_the_standard_library_writes(format_: int) -> None:
    assert read(packed(format_)) == {name.removeprefix("./"): content for name, content in FILES.items()}


def test_ustar_prefixes() -> None:
    files = {f"{'p' * 100}/{'n' * 90}": b"x"}
    assert read(packed(tarfile.USTAR_FORMAT, files)) == files


def test_contents_may_be_skipped() -> None:
    reader = untar.Reader(io.BytesIO(packed(tarfile.PAX_FORMAT)))
    assert [one.kind for one in reader] == ["folder", *["file"] * len(FILES), "other"]


def header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    block = bytearray(512)
    block[0 : len(name)] = name
    block[124:136] = size.ljust(12, b"\0")
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def extended(record: bytes) -> bytes:
    return header(b"pax", b"%o" % len(record), b"x") + record + b"\0" * (-len(record) % 512)


@pytest.mark.parametrize(
    "data",
    [
        header(b"../etc/passwd", b"0"),
        header(b"a/../../b", b"0"),
        header(b"a", b"-1"),
        header(b"a", b"9z"),
        header(b"a", b"7777"),
        header(b"a", b"0") * 2 + b"x",
        header(b"pax", b"77777777777", b"x"),
        header(b"long", b"77777777777", b"L"),
        extended(b"20 path=../../x\n") + header(b"a", b"0"),
        extended(b"8 path=a\n") + header(b"a", b"0"),
        extended(b"99 path=a\n") + header(b"a", b"0"),
        extended(b"path=a\n") + header(b"a", b"0"),
        extended(b"12 size=-1x\n") + header(b"a", b"0"),
        b"\x7fELF" + b"\1" * 508,
        header(b"a", b"0").replace(b"ustar", b"stars"),
    ],
)
def test_hostile_headers_are_refused(data: bytes) -> None:
    with pytest.raises(VerificationError):
        read(data + b"\0" * 1024)


def test_a_header_that_asks_for_gigabytes_gets_none() -> None:
    tracemalloc.start()
    with pytest.raises(VerificationError):
        read(header(b"pax", b"\x80" + (8 << 30).to_bytes(11, "big"), b"x"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


def test_too_many_entries_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untar, "MAX_ENTRIES", 3)
    with pytest.raises(VerificationError, match="more than 3"):
        read(packed(tarfile.GNU_FORMAT))


def test_damaged_tars_end_in_a_clear_failure_or_in_other_content() -> None:
    """Whatever bytes are flipped or lost: an answer or the one error."""
    whole = packed(tarfile.PAX_FORMAT)
    chance = random.Random(zlib.crc32(whole))
    for _ in range(2_000):
        data = bytearray(whole[: chance.randrange(len(whole))] if chance.random() < 0.3 else whole)
        for _ in range(chance.randrange(1, 6)):
            if data:
                data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            read(bytes(data))
        except VerificationError:
            continue
