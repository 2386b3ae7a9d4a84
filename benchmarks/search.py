"""Both toolchains and the search, by the command line, on the digits network, the same with outlier channels, and one block
of BERT.

python benchmarks/search.py --write docs/precision.md        (MODELOPT_PYTHON names an interpreter with ModelOpt)
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import sections

ROOT = Path(__file__).parents[1]
DIGITS = ROOT / "examples/digits"
MODELOPT = os.environ.get("MODELOPT_PYTHON", "")

GATE = ["--max-accuracy-drop", "0.5%"]
TOOLCHAINS = {
    "light": ["--toolchain", "onnxruntime"],
    **({"ModelOpt": ["--toolchain", "modelopt", "--modelopt-python", MODELOPT]} if MODELOPT else {}),
}
RECIPES = [
    ("fp16", "minmax", "fp32"),
    ("int8", "minmax", "fp32"),
    ("int8", "minmax", "fp16"),
    ("int8", "percentile", "fp32"),
    ("int8", "entropy", "fp32"),
    ("fp8", "minmax", "fp32"),
    ("fp8", "minmax", "fp16"),
    ("int4", "minmax", "fp32"),
]
"""Precision, calibration method, what the rest computes in."""


def networks(folder: Path) -> dict[str, list[str]]:
    """Arguments that name each network and its data."""
    fragile, block = folder / "fragile.onnx", folder / "block.onnx"
    onnx.save(runpy.run_path(str(DIGITS / "fragile.py"))["make"](onnx.load(DIGITS / "model.onnx")), fragile)
    onnx.save(runpy.run_path(str(ROOT / "examples/bert/make.py"))["build"](layers=1), block)
    rng = np.random.default_rng(0)
    for name, count in (("calibration", 32), ("validation", 64)):
        np.savez(folder / f"{name}.npz", ids=rng.integers(0, 30_522, (count, 128)))
    return {
        "digits": [str(DIGITS / "model.onnx"), *_data(DIGITS), "--batch-size", "8"],
        "digits with outliers": [str(fragile), *_data(DIGITS), "--batch-size", "8"],
        "BERT block": [str(block), *_data(folder), "--batch-size", "1"],
    }


def _data(folder: Path) -> list[str]:
    return [f"--{name}-data={folder / f'{name}.npz'}" for name in ("calibration", "validation")]


def run(folder: Path, arguments: list[str]) -> dict[str, Any] | None:
    """The evidence of one `trt-action accuracy`; None where the toolchain has no such recipe."""
    out = folder / "report"
    fixed = ["--base", "none", "--cache", "false", "--graph-optimization", "basic", "--output", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "trt_action", "accuracy", *arguments, *fixed],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1_800,
    )
    if done.returncode in (2, 10):
        return None
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr)
    evidence: dict[str, Any] = json.loads((out / "evidence.json").read_text())
    return evidence


def toolchains(folder: Path, found: dict[str, list[str]]) -> str:
    rows = []
    for precision, method, rest in RECIPES:
        for tool, chosen in TOOLCHAINS.items():
            cells = []
            for network in ("digits", "BERT block"):
                recipe = ["--precision", precision, "--calibration-method", method, "--high-precision", rest]
                evidence = run(folder, [*found[network], *chosen, *recipe])
                cells.append(_cell(evidence) if evidence else "–")
                print(precision, method, rest, tool, network, cells[-1], flush=True)
            if any(cell != "–" for cell in cells):
                name = precision if precision in ("fp16", "int4") else f"{precision}, {method}, rest {rest}"
                rows.append([name, tool, *cells])
    return sections.table(["recipe", "toolchain", "digits", "BERT block"], rows)


def _cell(evidence: dict[str, Any]) -> str:
    parity = evidence["accuracy"]["parity"]
    outputs = (parity["head_unoptimized"] or parity["head"]).values()
    error = max(one["relative_l2"] for one in outputs)
    engine = evidence["head"]["engine"]
    proof = engine["achieved_precision"]
    nodes = ", ".join(f"{count} {name}" for name, count in proof["nodes"].items())
    return f"{error:.2g}; {engine['build_seconds']:.1f} s; {nodes}"


def searches(folder: Path, found: dict[str, list[str]]) -> str:
    asked = [
        ("digits", ["--precision", "auto", *GATE]),
        ("digits with outliers", ["--precision", "auto", *GATE]),
        ("digits with outliers", ["--precision", "int8", "--keep-accuracy", "true", *GATE]),
        ("BERT block", ["--precision", "int8", "--keep-accuracy", "true", "--search-max-error", "1%"]),
        ("BERT block", ["--precision", "fp8", "--keep-accuracy", "true", "--search-max-error", "3%"]),
    ]
    rows = []
    for network, wanted in asked:
        for tool, chosen in TOOLCHAINS.items():
            if (network, tool) == ("BERT block", "ModelOpt"):
                continue  # every candidate is a whole run of ModelOpt: a quarter of an hour
            evidence = run(folder, [*found[network], *chosen, *wanted])
            if evidence is None:
                raise SystemExit(f"{network}, {wanted}: refused")
            record = evidence["head"]["engine"]["search"]
            first, last = record["trials"][0], _chosen(record)
            asked_for = " ".join(word.removeprefix("--") for word in wanted).replace(" true", "")
            effort = [str(len(record["trials"])), f"{record['seconds']:.0f} s"]
            rows.append([network, asked_for, tool, _state(first), _kept(record), _state(last), *effort])
            print(rows[-1], flush=True)
    header = ["network", "asked", "toolchain", "as it is", "kept", "with them", "trials", "time"]
    return sections.table(header, rows)


def _chosen(record: dict[str, Any]) -> dict[str, Any]:
    held = [trial for trial in record["trials"] if trial["holds"] and trial["kept"] == record["kept_layers"]]
    trial: dict[str, Any] = held[-1] if held else record["trials"][-1]
    return trial


def _kept(record: dict[str, Any]) -> str:
    if not record["found"]:
        return "nothing holds"
    if not record["kept_layers"]:
        return "none"
    names = ", ".join(f"`{name}`" for name in record["kept"])
    return f"{record['kept_layers']} of {record['layers']}: {names}"


def _state(trial: dict[str, Any]) -> str:
    metric = "" if trial["metric"] is None else f"top-1 {trial['metric']:.2%}, "
    error = "–" if trial["error"] is None else f"{trial['error']:.2g}"
    return f"{metric}error {error}, {trial['share']:.0%} {trial['precision']}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Both toolchains and the search on small networks.")
    parser.add_argument("--write", type=Path, help="Markdown file whose sections are replaced")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = networks(folder)
        tables = {"search": searches(folder, found), "toolchains": toolchains(folder, found)}
    for name, body in tables.items():
        if args.write:
            sections.write(args.write, name, body)
        else:
            print(body)


if __name__ == "__main__":
    main()
