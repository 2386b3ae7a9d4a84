"""The config file is foreign text: every way in which it can be wrong is said in words, with the line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trt_action.errors import SettingsError, StorageError
from trt_action.settings import config_file

BILLION_LAUGHS = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (".yml", b"precision: int8\nprecision: fp16\n", "line 2: the key `precision` is given twice"),
        (".yml", b"models:\n  - {model: a, model: b}\n", "line 2: the key `model` is given twice"),
        (".yml", b"precision: [int8\n", "line 2"),
        (".yml", b"a: b: c\n", "line 1"),
        (".yml", b"\tprecision: int8\n", "line 1"),
        (".yml", b"- a\n- b\n", "holds a list, not a mapping"),
        (".yml", b"int8\n", "holds text, not a mapping"),
        (".yml", b"name: ok\nprecision: \xff\n", "line 2: byte 0xff is not UTF-8"),
        (".yml", BILLION_LAUGHS.encode(), "line 2: aliases"),
        (".yml", b"<<: {precision: int8}\n", "line 1: merge keys"),
        (".yml", b"? [a, b]\n: c\n", "line 1: a key is a list"),
        (".yml", b"name: !!python/object/apply:os.system [ls]\n", "line 1: the tag"),
        (".yml", b"name: !!binary abcd\n", "line 1: the tag"),
        (".yml", b"a: 1\n---\nb: 2\n", "line 2"),
        (".yml", b"name: \x00\n", "is not YAML"),
        (".yml", b"x: " + b"[" * 100_000, "nested more than"),
        (".yml", b"#" * (config_file.MAX_BYTES + 1), "larger than 256 KiB"),
        (".toml", b"precision = \n", "is not TOML"),
        (".toml", b"seed = 1\nseed = 2\n", "is not TOML"),
        (".toml", b"name = 2024-01-01\n", "holds a date or time"),
        (".toml", b"seed = 0x" + b"f" * 10_000, "above 10^18"),
        (".toml", b"x = " + b"[" * 100_000, "is not TOML"),
        (".toml", b"a = " + b"[" * 50 + b"]" * 50, "levels deep"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / f"config{name}"
    path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        config_file.read(path)
    assert says in caught.value.what
    assert caught.value.what.isprintable()
    assert len(caught.value.what) < 500


@pytest.mark.parametrize("content", [b"", b"# only a comment\n", b"---\n", b"\xef\xbb\xbf", b"null\n"])
def test_an_empty_file_has_no_settings(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.yml").write_bytes(content)
    assert config_file.read(tmp_path / "c.yml").values == {}


def test_plain_values_follow_yaml_1_2(tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text(
        "a: on\nb: yes\nc: 1:30\nd: 2024-01-01\ne: 010\nf: true\ng: 1.5\nh: ~\ni: '1'\nj: =\nk: 0x1F\nl: 123456789012345678901\n"
    )
    assert config_file.read(tmp_path / "c.yml").values == {
        "a": "on", "b": "yes", "c": "1:30", "d": "2024-01-01", "e": "010", "f": True, "g": 1.5, "h": None, "i": "1",
        "j": "=", "k": "0x1F", "l": "123456789012345678901",
    }  # fmt: skip


def test_lines_are_known_for_nested_keys(tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text("precision: fp16\nmodels:\n  - model: a.onnx\n    precision: int8\n")
    file = config_file.read(tmp_path / "c.yml")
    assert file.where("models", 0, "precision") == "c.yml, line 4"
    assert file.where("nothing") == "c.yml"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        config_file.read(tmp_path / "missing.yml")
    with pytest.raises(SettingsError, match="not a regular file"):
        config_file.read(tmp_path)
    os.mkfifo(tmp_path / "fifo.yml")
    with pytest.raises(SettingsError, match="not a regular file"):
        config_file.read(tmp_path / "fifo.yml")
    with pytest.raises(StorageError):
        config_file.read(tmp_path / ("x" * 300))
    loop = tmp_path / "loop.yml"
    loop.symlink_to(loop)
    with pytest.raises(StorageError):
        config_file.read(loop)


def test_two_config_files_are_a_question_and_not_a_guess(tmp_path: Path) -> None:
    assert config_file.find(tmp_path) is None
    (tmp_path / ".trt-action.yml").touch()
    assert config_file.find(tmp_path) == tmp_path / ".trt-action.yml"
    (tmp_path / ".trt-action.toml").touch()
    with pytest.raises(SettingsError, match=r"There are `\.trt-action\.yml` and `\.trt-action\.toml`"):
        config_file.find(tmp_path)
