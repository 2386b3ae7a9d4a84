"""Every attribute of TensorRT that the code uses exists in the recorded APIs, or is asked for with `hasattr` first.

Variables are known by name (`config`, `engine`, …; see `trt_action/engine/tensorrt/__init__.py`). An attribute that one of the
recorded versions lacks may be used only in a function that says `hasattr(…, "name")` for a name that no other version has.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import trt_action.engine.tensorrt as package
from trt_action.engine.tensorrt import configure, ports
from trt_action.engine.tensorrt.log import Log, logger
from trt_action.engine.tensorrt.outputs import allocator
from trt_action.engine.tensorrt.progress import monitor

DATA = Path(__file__).parents[2] / "data" / "api"
APIS: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text()) for path in sorted(DATA.glob("*.json"))}
SOURCES = sorted(Path(package.__file__).parent.glob("*.py"))

HOLDS = {
    "trt": None,
    "builder": "Builder",
    "config": "IBuilderConfig",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
    "runtime_config": "IRuntimeConfig",
    "runtime_cache": "IRuntimeCache",
    "timing_cache": "ITimingCache",
}
"""Names of variables (and of attributes: `self._context`, `opened.engine`) by the class that they hold."""

NOT_TENSORRT = {
    "backend.py": {"context"},  # our BuildContext and the engine's path
    "building.py": {"context"},
    "plan.py": {"engine"},
}
ELEMENTS = {"tensor": "ITensor", "error": "ParserError"}
"""Loop variables over TensorRT's objects, in the files where they are that."""
ELEMENT_FILES = {"tensor": {"configure.py"}, "error": {"causes.py"}}


def versions_with(kind: str | None, name: str) -> frozenset[str]:
    """Recorded versions in which the module (`kind` None), a class or an enum has the name."""

    def has(api: dict[str, Any]) -> bool:
        if kind is None:
            return name in api["names"] or name == "__version__"
        return name in api["classes"].get(kind, ()) or name in api["enums"].get(kind, ())

    return frozenset(version for version, api in APIS.items() if has(api))


ALL = frozenset(APIS)


def held(node: ast.expr, file: str) -> str | None:
    """The variable's name if it holds one of TensorRT's objects."""
    name = node.id if isinstance(node, ast.Name) else node.attr.lstrip("_") if isinstance(node, ast.Attribute) else ""
    if name in NOT_TENSORRT.get(file, ()):
        return None
    if name in ELEMENTS and file in ELEMENT_FILES[name]:
        return name
    return name if name in HOLDS else None


def uses(function: ast.AST, file: str) -> Iterator[tuple[str | None, str, int]]:
    """(class or None for the module, attribute, line) of every use."""
    for node in ast.walk(function):
        if not isinstance(node, ast.Attribute):
            continue
        owner = held(node.value, file)
        if owner is not None:
            yield HOLDS.get(owner) or ELEMENTS.get(owner), node.attr, node.lineno
        inner = node.value
        if isinstance(inner, ast.Attribute) and held(inner.value, file) == "trt":  # trt.Enum.MEMBER
            yield inner.attr, node.attr, node.lineno


def guards(function: ast.AST) -> list[frozenset[str]]:
    """For every `hasattr(…, "name")`: the versions in which anything has that name."""
    kinds: set[str | None] = {None}.union(*({*api["classes"], *api["enums"]} for api in APIS.values()))
    return [
        frozenset().union(*(versions_with(kind, str(call.args[1].value)) for kind in kinds))
        for call in ast.walk(function)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == "hasattr"
        and isinstance(call.args[1], ast.Constant)
    ]


def problems(source: str, file: str) -> list[str]:
    found = []
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        asked = guards(function)
        for kind, name, line in uses(function, file):
            if name.startswith("__") and name != "__version__":
                continue
            where = versions_with(kind, name)
            if not where:
                found.append(f"{file}:{line}: {kind or 'the module'} has no {name}")
            elif where != ALL and not any(guard <= where for guard in asked):
                found.append(
                    f"{file}:{line}: {kind or 'the module'}.{name} is only in {sorted(where)}: ask hasattr first"
                )
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_attribute_is_known(path: Path) -> None:
    assert problems(path.read_text(), path.name) == []


def test_the_walk_sees_the_code() -> None:
    seen = {(kind, name) for path in SOURCES for kind, name, _ in uses(ast.parse(path.read_text()), path.name)}
    assert len(seen) > 70
    assert {
        ("IBuilderConfig", "set_compute_capability"), ("ICudaEngine", "get_tensor_location"), ("OnnxParser", "get_error"),
        ("BuilderFlag", "TF32"), ("IExecutionContext", "execute_async_v3"), ("ITensor", "is_shape_tensor"),
        ("ParserError", "node_operator"), ("EngineInspector", "get_engine_information"), ("IRuntimeCache", "serialize"),
        ("Runtime", "deserialize_cuda_engine"), ("IOptimizationProfile", "set_shape"), (None, "OnnxParser"),
    } <= seen  # fmt: skip


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("config.max_workspace_size = 1", "IBuilderConfig has no max_workspace_size"),
        ("config.set_flag(trt.BuilderFlag.FP16)", "BuilderFlag.FP16 is only in ['tensorrt-10.16']"),
        ("self._config.num_compute_capabilities = 1", "is only in ['tensorrt-rtx-1.7']"),
        ("x = trt.ComputeCapability", "is only in ['tensorrt-rtx-1.7']"),
        ("x = trt.MemoryPoolType.SCRATCH", "MemoryPoolType has no SCRATCH"),
        ("builder.build_engine(network)", "Builder has no build_engine"),
    ],
)
def test_what_does_not_exist_everywhere_is_found(line: str, said: str) -> None:
    source = f"def f(trt, config, builder, network):\n    {line}\n"
    assert said in problems(source, "new.py")[0]
    guarded = source.replace(":\n", ':\n    if hasattr(config, "set_compute_capability"):\n    ', 1)
    assert (problems(guarded, "new.py") == []) == ("rtx" in said)


@pytest.mark.parametrize(
    ("enum", "names"),
    [
        ("TilingOptimizationLevel", configure.TILING.values()),
        ("HardwareCompatibilityLevel", configure.HARDWARE.values()),
        ("DataType", ports.DTYPES),
    ],
)
def test_members_looked_up_by_text_exist(enum: str, names: Any) -> None:
    for name in names:
        assert versions_with(enum, name) == ALL


def test_methods_that_tensorrt_calls_are_its_own() -> None:
    """A method with a wrong name would never be called."""
    trt: Any = pytest.importorskip("tensorrt_rtx")
    for made, kind in ((logger(trt, Log()), "ILogger"), (monitor(trt, None), "IProgressMonitor")):  # type: ignore[arg-type]
        own = {name for name in vars(type(made)) if not name.startswith("_")}
        assert own <= set(dir(getattr(trt, kind)))
        assert own
    words = " ".join(trt.IOutputAllocator.__doc__.split())
    own = {name for name in vars(type(allocator(trt, None))) if not name.startswith("_")}  # type: ignore[arg-type]
    assert own == {"reallocate_output", "reallocate_output_async", "notify_shape"}
    assert all(f"def {name}(" in words for name in own)


def test_the_record_is_what_the_installed_library_says() -> None:
    trt: Any = pytest.importorskip("tensorrt_rtx")
    name = f"tensorrt-rtx-{'.'.join(trt.__version__.split('.')[:2])}"
    if name not in APIS:
        pytest.skip(f"no record of {name}: make it with tests/data/api/record.py")
    command = [sys.executable, str(DATA / "record.py"), "tensorrt_rtx"]
    made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert json.loads(made) == APIS[name]
