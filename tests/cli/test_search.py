"""A search by the command line: what is built, what is printed to be committed, and what the base gets."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml

from tests.cli.conftest import Door, evidence

SEARCHED = "precision: int8", "precision: auto\nmax-accuracy-drop: 0.5%\nbase: none"


def configure(door: Door, digits: Path, *changes: tuple[str, str]) -> None:
    make = runpy.run_path(str(digits / "fragile.py"))["make"]
    onnx.save(make(onnx.load(digits / "model.onnx")), door.cwd / "model.onnx")
    path = door.cwd / ".trt-action.yml"
    text = path.read_text().replace("max-accuracy-drop: 1%\n", "").replace("base: base.onnx\n", "")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


def test_what_is_printed_can_be_committed(door: Door, digits: Path) -> None:
    """The lines in the terminal are YAML; with them in the config the same engine comes out without a search."""
    configure(door, digits, SEARCHED)
    result = door("accuracy", "--output", "out")
    assert result.code == 0, result.err
    first = evidence(door.cwd / "out")["head"]["engine"]
    assert first["search"]["kept"] == ["conv4"]
    told = (result.err + result.out).partition("To commit, instead of searching again:\n")[2].partition("\n\n")[0]
    lines: dict[str, Any] = yaml.safe_load("\n".join(line[2:] for line in told.splitlines()))
    assert lines == {"precision": "int8", "exclude-nodes": ["conv4"]}
    config = door.cwd / ".trt-action.yml"
    config.write_text(config.read_text().replace("precision: auto\n", f"{yaml.safe_dump(lines)}"))
    assert door("accuracy", "--output", "again").code == 0
    second = evidence(door.cwd / "again")["head"]["engine"]
    assert second["search"] is None
    assert second["from_cache"]
    assert second["sha256"] == first["sha256"]


def test_build_says_it_too(door: Door, digits: Path) -> None:
    configure(door, digits, SEARCHED)
    result = door("build", "--output", "kept")
    assert result.code == 0, result.err
    assert 'To commit, instead of searching again:\n  precision: int8\n  exclude-nodes:\n    - "conv4"\n' in result.err
    assert result.out.strip().endswith("kept")


def test_comment_and_report_say_it(door: Door, digits: Path) -> None:
    configure(door, digits, SEARCHED)
    assert door("accuracy", "--output", "out").code == 0
    comment = (door.cwd / "out/comment.md").read_text()
    assert "Search: int8 with 1 of 6 layers kept in higher precision (conv4); 2 recipes tried in" in comment
    page = (door.cwd / "out/report.html").read_text()
    assert "error that it alone causes" in page
    assert page.count("does not hold") == 1


@pytest.mark.parametrize("renamed", [False, True])
def test_a_base_gets_the_recipe_of_head(door: Door, digits: Path, renamed: bool) -> None:
    """Both sides of one file name: the base is not searched. A node that it does not have is passed over."""
    configure(door, digits, ("precision: int8", "precision: int8\nkeep-accuracy: true\nmax-accuracy-drop: 0.5%"))
    base = onnx.load(digits / "base.onnx")
    for node in base.graph.node:
        node.name = f"old.{node.name}" if renamed else node.name
    onnx.save(base, door.cwd / "base.onnx")
    result = door("run", "--base", "base.onnx", "--output", "out")
    assert result.code in (0, 1), result.err
    found = evidence(door.cwd / "out")
    assert found["base"]["engine"]["recipe"]["exclude_nodes"] == ["conv4"]
    assert found["base"]["engine"]["search"] is None
    kept = found["base"]["engine"]["achieved_precision"]["kept_high"]
    assert kept == ([] if renamed else ["conv4"])
    assert [stage["name"] for stage in found["stages"]].count("search") == 1
    note = found["base"]["engine"]["achieved_precision"]["note"]
    assert ("passed over in base, which lacks them: `conv4`" in note) == renamed


def test_a_committed_name_is_passed_over_in_a_base_that_lacks_it(door: Door, digits: Path) -> None:
    """It was written for head: a node that is new there must not end the comparison. A wrong name in head still does."""
    configure(door, digits, ("precision: int8", "precision: int8\nexclude-nodes: [conv4]"))
    base = onnx.load(digits / "base.onnx")
    next(node for node in base.graph.node if node.name == "conv4").name = "older"
    onnx.save(base, door.cwd / "base.onnx")
    result = door("accuracy", "--base", "base.onnx", "--output", "out")
    assert result.code in (0, 1), result.err
    found = evidence(door.cwd / "out")
    proof = found["base"]["engine"]["achieved_precision"]
    assert proof["kept_high"] == []
    assert "passed over in base, which lacks them: `conv4`" in proof["note"]
    assert "passed over in base" in (door.cwd / "out/summary.md").read_text()
    wrong = door("accuracy", "--base", "base.onnx", "--exclude-nodes", "older", "--output", "out")
    assert wrong.code == 2
    assert "exclude-nodes" in wrong.err


def test_a_base_whose_precision_was_named_is_as_named(door: Door, digits: Path) -> None:
    configure(door, digits, ("precision: int8", "precision: auto\nmax-accuracy-drop: 0.5%"))
    result = door("run", "--base", "base.onnx", "--base-precision", "fp32", "--output", "out")
    assert result.code in (0, 1), result.err
    found = evidence(door.cwd / "out")
    assert found["base"]["engine"]["precision"] == "fp32"
    assert found["head"]["engine"]["precision"] == "int8"
    assert found["settings"]["precision"] == "auto"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--precision", "int4"), 10, "`precision: int4` needs ModelOpt"),
        (("--precision", "fp8"), 10, "graph optimiser in full"),
        (("--precision", "tf32"), 10, "cannot run precision `tf32`"),
        (("--calibration-method", "entropy", "--toolchain", "onnxruntime"), 2, "`calibration-method: entropy` cannot"),
        (("--keep-accuracy", "true", "--precision", "bf16"), 2, "`precision: bf16` cannot be searched"),
        (("--precision", "auto", "--high-precision", "bf16"), 2, "`high-precision: bf16` cannot be searched"),
        (("--toolchain", "modelopt", "--modelopt-python", "nowhere/python"), 10, "nowhere/python`"),
    ],
)
def test_what_cannot_be_is_refused(door: Door, arguments: tuple[str, ...], code: int, words: str) -> None:
    if Path("/opt/modelopt/bin/python").exists():
        pytest.skip("this host has ModelOpt in /opt/modelopt")
    result = door.refused(code, "accuracy", "--base", "none", "--output", "out", *arguments)
    assert words in result.words


def test_fp8_can_be_judged_on_a_cpu(door: Door) -> None:
    result = door(
        "accuracy", "--base", "none", "--precision", "fp8", "--graph-optimization", "basic", "--output", "out"
    )
    assert result.code == 0, result.err
    found = evidence(door.cwd / "out")
    assert found["head"]["engine"]["achieved_precision"]["nodes"] == {"fp8": 6}
    assert found["accuracy"]["task"]["head"]["estimate"] > 0.98
    optimized, plain = (found["accuracy"]["parity"][side]["logits"] for side in ("head", "head_unoptimized"))
    assert optimized["relative_l2"] < 0.04
    assert abs(optimized["relative_l2"] - plain["relative_l2"]) < 0.002
