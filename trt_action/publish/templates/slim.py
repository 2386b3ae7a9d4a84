"""Runs while the runtime is built, in its own environment: `slim.py PACKAGE`. Standard library only.

Moves our own package in, removes what no server needs, and compiles the rest. What goes is listed with its reason;
`dist-info` stays: a list of packages (SBOM) and a scanner read it.
"""

from __future__ import annotations

import compileall
import py_compile
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

UNUSED = (
    # tests, stubs, and sources of extensions
    "**/tests",
    "**/*.pyi",
    "**/*.pyx",
    "**/*.pxd",
    "**/*.c",
    "**/*.h",
    "**/*.a",
    # numpy's tools for building other packages
    "numpy/f2py",
    "numpy/distutils",
    "numpy/_pyinstaller",
    "numpy/_core/include",
    # parts of numpy that are loaded when first asked for, and that nothing here asks for
    "numpy/random",
    "numpy/polynomial",
    # ONNX Runtime's tools for preparing models, and its library for C, which the one for Python does not load
    "onnxruntime/transformers",
    "onnxruntime/quantization",
    "onnxruntime/tools",
    "onnxruntime/datasets",
    "onnxruntime/backend",
    "onnxruntime/capi/libonnxruntime.so.*",
    # what TensorRT builds with: 2 GB of kernels
    "tensorrt*/libnvinfer_builder_resource*",
)

WITH_SYMBOLS = ("ml_dtypes", "uvloop", "httptools")
"""35 MB of debug symbols."""

LEAN = """\
import sys

import tensorrt_lean

sys.modules[__name__] = tensorrt_lean
"""
"""The lean runtime has the names of `tensorrt` that load and run a plan, under another module's name."""

ENTRY = """\
#!/opt/trt-action/bin/python3 -P
from trt_action.cli import main

raise SystemExit(main())
"""


def main() -> None:
    """Slim the environment that runs this."""
    site = Path(sysconfig.get_paths()["purelib"])
    shutil.copytree(sys.argv[1], site, dirs_exist_ok=True)
    for pattern in UNUSED:
        for path in sorted(site.glob(pattern)):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.exists():
                path.unlink()
    if (site / "tensorrt_lean").is_dir() and not (site / "tensorrt").is_dir():
        (site / "tensorrt.py").write_text(LEAN)
    _strip(site)
    for cache in sorted(site.rglob("__pycache__")):
        shutil.rmtree(cache)
    # Not by time: a layer's times are no proof, and a read-only file system could not keep a newer one.
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(site, quiet=2, invalidation_mode=mode)
    entry = Path(sys.prefix, "bin", "trt-action")
    entry.write_text(ENTRY)
    entry.chmod(0o755)


def _strip(site: Path) -> None:
    """Debug symbols of wheels that ship them. Not of every library: `strip` breaks those that were patched to find
    their neighbours (`numpy.libs`)."""
    for package in WITH_SYMBOLS:
        for library in sorted((site / package).rglob("*.so")):
            subprocess.run(["strip", "--strip-unneeded", str(library)], check=True)  # noqa: S607 - the image's own


if __name__ == "__main__":
    main()
