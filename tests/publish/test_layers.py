"""Layers: the same files give the same bytes, real tools read them, and nothing from outside gets in."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_action.errors import StorageError
from trt_action.publish import layers, oci
from trt_action.publish.layers import Compression

EVERY: list[Compression] = ["none", "zstd", "gzip"]
UNPACK = {"none": ["cat"], "zstd": ["zstd", "-dc"], "gzip": ["gzip", "-dc"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    (made / "b" / "deep").mkdir(parents=True)
    (made / "empty").mkdir()
    (made / "engine.plan").write_bytes(b"\x00\x01" * 300_000)
    (made / "b" / "z").write_text("z")
    (made / "b" / "ä ü").write_text("name")
    (made / "b" / "deep" / ("n" * 200)).write_text("long")
    (made / "run").write_text("#!/bin/sh\n")
    (made / "run").chmod(0o710)
    (made / "link").symlink_to("b/z")
    return made


@pytest.mark.parametrize("compression", EVERY)
def test_a_layer_has_what_the_folder_has(folder: Path, tmp_path: Path, compression: Compression) -> None:
    target = tmp_path / "layer"
    blob = layers.pack(folder, "/models/digits/1", target, compression=compression, time=7)
    data = target.read_bytes()
    assert (blob.digest, blob.size) == (oci.sha256(data), len(data))
    plain = subprocess.run(UNPACK[compression], input=data, capture_output=True, check=True).stdout
    assert blob.diff_id == f"sha256:{hashlib.sha256(plain).hexdigest()}"
    (tmp_path / "plain").write_bytes(plain)
    with tarfile.open(tmp_path / "plain") as tar:
        found = {member.name: member for member in tar}
        below = "models/digits/1"
        assert list(found)[:3] == ["models", "models/digits", below]
        assert list(found) == sorted(found, key=lambda name: name.encode().split(b"/"))
        assert {member.mtime for member in found.values()} == {7}
        assert {(m.uid, m.gid) for name, m in found.items() if name.startswith(below)} == {(65532, 65532)}
        assert (found["models"].uid, found["models"].mode) == (0, 0o755)
        assert found[f"{below}/run"].mode == 0o755
        assert found[f"{below}/engine.plan"].mode == 0o644
        assert found[f"{below}/empty"].isdir()
        assert all(member.isfile() or member.isdir() for member in found.values())
        for name, content in {"link": b"z", "b/ä ü": b"name", f"b/deep/{'n' * 200}": b"long"}.items():
            file = tar.extractfile(f"{below}/{name}")
            assert file is not None
            assert file.read() == content


@pytest.mark.parametrize("compression", EVERY)
def test_times_owners_and_order_do_not_matter(folder: Path, tmp_path: Path, compression: Compression) -> None:
    one = layers.pack(folder, "/m", tmp_path / "one", compression=compression)
    copy = tmp_path / "copy"
    copy.mkdir()
    subprocess.run(["cp", "-r", *sorted((str(path) for path in folder.iterdir()), reverse=True), str(copy)], check=True)
    os.utime(copy / "engine.plan", (1, 1))
    (copy / "b").chmod(0o700)
    (copy / "b" / "z").chmod(0o600)
    two = layers.pack(copy, "/m", tmp_path / "two", compression=compression)
    assert (one.digest, one.diff_id) == (two.digest, two.diff_id)
    (copy / "b" / "z").write_text("y")
    assert layers.pack(copy, "/m", tmp_path / "three", compression=compression).digest != one.digest


def test_gnu_tar_agrees(folder: Path, tmp_path: Path) -> None:
    layers.pack(folder, "/m", tmp_path / "layer.tar")
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "layer.tar", "-C", out, "--no-same-owner"], check=True)
    subprocess.run(["diff", "-r", folder, out / "m"], check=True)


def escape(folder: Path) -> Iterator[str]:
    (folder / "x").symlink_to("/etc/passwd")
    yield "leads out"
    (folder / "x").symlink_to("../outside")
    (folder.parent / "outside").write_text("secret")
    yield "leads out"
    (folder / "x").symlink_to("gone")
    yield "link to nothing"
    (folder / "x").symlink_to(".")
    yield "folder that it is in"
    (folder / "x").symlink_to("x")
    yield "link to nothing"
    os.mkfifo(folder / "x")
    yield "neither a file nor a folder"


def test_nothing_from_outside_gets_in(folder: Path, tmp_path: Path) -> None:
    for says in escape(folder):
        with pytest.raises(StorageError, match=says):
            layers.pack(folder, "/m", tmp_path / "layer")
        (folder / "x").unlink()


@pytest.mark.parametrize("place", ["/", "", "/a/../b", "..", "."])
def test_a_place_is_a_folder_of_the_image(folder: Path, tmp_path: Path, place: str) -> None:
    with pytest.raises(StorageError, match="cannot be put at"):
        layers.pack(folder, place, tmp_path / "layer")


def test_what_cannot_be_read_or_written_is_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be made"):
        layers.pack(tmp_path / "gone", "/m", tmp_path / "layer")
    with pytest.raises(StorageError, match="cannot be made"):
        layers.pack(folder, "/m", tmp_path / "no" / "layer")
    (folder / os.fsdecode(b"\xff")).write_text("x")
    with pytest.raises(StorageError, match="no UTF-8"):
        layers.pack(folder, "/m", tmp_path / "layer")


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text("ab.é-", min_size=1, max_size=120).filter(lambda n: n not in (".", "..") and len(n.encode()) < 255), st.binary(max_size=2_000), max_size=6))  # fmt: skip
def test_any_files_come_out_again(tmp_path_factory: pytest.TempPathFactory, content: dict[str, bytes]) -> None:
    base = tmp_path_factory.mktemp("any")
    (base / "in").mkdir()
    for name, data in content.items():
        (base / "in" / name).write_bytes(data)
    layers.pack(base / "in", "/m", base / "layer.tar")
    with tarfile.open(base / "layer.tar") as tar:
        found = {m.name: file.read() for m in tar if (file := tar.extractfile(m))}
    assert found == {f"m/{name}": data for name, data in content.items()}
