"""Whatever stands in a config file, the environment or on the command line: settings, or a SettingsError that can be
shown. Nothing else."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from trt_action import settings
from trt_action.errors import SettingsError
from trt_action.model import shapes as profiles
from trt_action.settings.options import BY_NAME

NAMES = st.sampled_from([*BY_NAME, "models", "modle", "max_seconds", "config", "min", "opt", "max", "values"])
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40)
    | st.sampled_from(["2%", "p99 < 5ms", "97%", "int8", "fp16", "none", "200MB", "4GiB", "30m", "1/s", "a.py:f", "[", "{x: [1]}"])
)  # fmt: skip
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(), inner, max_size=4)
)
CONFIGS = st.dictionaries(NAMES, TREES, max_size=8)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60) | SCALARS.map(str)

SOUND = b"""# a usual file
latency-threshold: "p99 < 50ms"
max-accuracy-drop: 0.5% relative
shapes: {x: {min: [1, 3], opt: [8, 3], max: [16, 3]}, size: {values: {min: [1, -1], opt: [8, 8], max: [64, 64]}}}
models:
  - model: a.onnx
    precision: int8
    calibration-data: calibration.npz
    op-types: [Conv, MatMul]
  - {model: b.onnx, memory-arena: false, max-memory: 4GB}
"""

many = hypothesis_settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def outcome(folder: Path, **layers: Any) -> list[settings.Settings] | SettingsError:
    found: list[settings.Settings] | SettingsError
    try:
        found = settings.load(layers.get("cli", {}), layers.get("env", {}), folder, layers.get("config"))
    except SettingsError as error:
        found = error
    if isinstance(found, SettingsError):
        assert found.what.isprintable()
        assert len(found.what) < 1000
        assert found.fix
        return found
    for one in found:
        one.effective()
        assert one.display_name
    return found


@many
@given(CONFIGS)
def test_any_yaml_tree(tmp_path: Path, tree: dict[str, Any]) -> None:
    path = tmp_path / "fuzz.yml"
    path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
    outcome(tmp_path, config=path)


NUMBERS = st.lists(st.integers() | st.sampled_from([-1, 0, 1, 8, True, 2**31, 2**63]), max_size=3)
RANGES = NUMBERS | st.fixed_dictionaries({"min": NUMBERS, "opt": NUMBERS, "max": NUMBERS}) | SCALARS
ENTRIES = RANGES | st.fixed_dictionaries({"values": RANGES}, optional={"opt": NUMBERS})


@many
@given(st.dictionaries(st.sampled_from(["x", "size"]), ENTRIES, min_size=1))
def test_what_is_read_as_shapes_is_read_again_from_what_is_shown(tmp_path: Path, tree: dict[str, Any]) -> None:
    found = outcome(tmp_path, cli={"model": "a.onnx", "shapes": yaml.safe_dump(tree)})
    if isinstance(found, list):
        shown = found[0].effective()["shapes"]
        again = outcome(tmp_path, cli={"model": "a.onnx", "shapes": yaml.safe_dump(shown)})
        assert isinstance(again, list)
        assert again[0].shapes == found[0].shapes
        profiles.parse(found[0].shapes or {})  # the model room takes whatever the settings take


@many
@given(st.sampled_from(["fuzz.yml", "fuzz.toml"]), st.binary(max_size=200) | TEXTS.map(lambda text: text.encode()))
def test_any_bytes(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    outcome(tmp_path, config=tmp_path / name, cli={"model": "a.onnx"})


@many
@given(
    st.dictionaries(st.sampled_from(sorted(BY_NAME)), TEXTS, max_size=6), st.sampled_from(["cli", "input", "variable"])
)
def test_any_text_from_outside(tmp_path: Path, given_values: dict[str, str], door: str) -> None:
    given_values = {"model": "a.onnx", **given_values}
    if door == "cli":
        outcome(tmp_path, cli=given_values)
    elif door == "input":
        outcome(tmp_path, env={f"INPUT_{name.upper()}": text for name, text in given_values.items()})
    else:
        outcome(tmp_path, env={f"TRT_ACTION_{name.upper().replace('-', '_')}": t for name, t in given_values.items()})


def damaged(content: bytes, rng: random.Random) -> bytes:
    """A sound file after a few random edits: bytes changed, dropped, doubled, or lines swapped."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(len(data))
        kind = rng.randrange(6)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind in (4, 5):
            data[at] = rng.choice(b"0123456789 #abcdefx")
        elif kind == 1:
            del data[at : at + rng.randint(1, 12)]
        elif kind == 2:
            data[at:at] = rng.choice(
                [b"*", b"&a ", b"!!int ", b"<<: ", b"- ", b": ", b"{", b"]", b"\t", b"\xff", b"? ", b"%", b"9" * 30]
            )
        else:
            data[at:at] = data[max(0, at - 20) : at]
        data = data or bytearray(b" ")
    return bytes(data)


def mutations(folder: Path, count: int) -> dict[str, int]:
    rng = random.Random(20)
    seen = {"settings": 0, "refused": 0}
    for _ in range(count):
        (folder / "fuzz.yml").write_bytes(damaged(SOUND, rng))
        found = outcome(folder, config=folder / "fuzz.yml")
        seen["refused" if isinstance(found, SettingsError) else "settings"] += 1
    return seen


def test_damaged_files(tmp_path: Path) -> None:
    assert isinstance(outcome(tmp_path, config=_sound(tmp_path)), list)
    seen = mutations(tmp_path, 200)
    assert min(seen.values()) > 5


@pytest.mark.fuzz
def test_thousands_of_damaged_files(tmp_path: Path) -> None:
    assert min(mutations(tmp_path, 3000).values()) > 100


def _sound(folder: Path) -> Path:
    (folder / "sound.yml").write_bytes(SOUND)
    return folder / "sound.yml"
