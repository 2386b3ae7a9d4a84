"""Writes down the part of an installed TensorRT's Python API that this product uses:

    python tests/data/api/record.py tensorrt > tests/data/api/tensorrt-11.4.json
    python tests/data/api/record.py tensorrt_rtx > tests/data/api/tensorrt-rtx-1.7.json

No GPU is needed. Only names and first lines of signatures are kept; `tests/engine/tensorrt/test_api.py` holds the code
against them.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from typing import Any

CLASSES = (
    "Builder",
    "EngineInspector",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IOutputAllocator",
    "IProfiler",
    "IProgressMonitor",
    "IRuntimeCache",
    "IRuntimeConfig",
    "ITensor",
    "ITimingCache",
    "OnnxParser",
    "ParserError",
    "Runtime",
)
ENUMS = (
    "BuilderFlag",
    "ComputeCapability",
    "CudaGraphStrategy",
    "DataType",
    "DynamicShapesKernelSpecializationStrategy",
    "EngineInvalidityDiagnostics",
    "EngineStat",
    "EngineValidity",
    "ErrorCode",
    "HardwareCompatibilityLevel",
    "LayerInformationFormat",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "ProfilingVerbosity",
    "TensorIOMode",
    "TensorLocation",
    "TilingOptimizationLevel",
)


def record(name: str) -> dict[str, Any]:
    """`{module, version, names, classes: {class: [attributes]}, enums: {enum: [members]}, signatures: {c.a: line}}`."""
    module = importlib.import_module(name)
    classes = {one: _public(getattr(module, one)) for one in CLASSES if hasattr(module, one)}
    return {
        "module": name,
        "version": str(module.__version__),
        "names": sorted(one for one in vars(module) if one[0].isupper()),
        "classes": classes,
        "enums": {one: sorted(getattr(module, one).__members__) for one in ENUMS if hasattr(module, one)},
        "signatures": {
            f"{one}.{attribute}": line
            for one, attributes in classes.items()
            for attribute in attributes
            if (line := _signature(getattr(getattr(module, one), attribute)))
        },
    }


def _public(kind: type) -> list[str]:
    """Without the network's own layers (`add_…`): graphs come from the parser."""
    return sorted(
        name for name in dir(kind) if not name.startswith(("_", "add_" if "Network" in kind.__name__ else "_"))
    )


def _signature(attribute: Any) -> str:
    """The first line of a method's docstring, without the module's name in front of types; empty for a property."""
    line = (attribute.__doc__ or "").splitlines()[0] if callable(attribute) and attribute.__doc__ else ""
    return re.sub(r"\btensorrt\w*\.tensorrt\w*\.", "", line) if "(" in line else ""


if __name__ == "__main__":
    json.dump(record(sys.argv[1]), sys.stdout, indent=1)
    print()
