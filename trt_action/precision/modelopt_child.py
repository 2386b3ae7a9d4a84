"""The other end of `modelopt.py`: this file runs by its path in ModelOpt's own Python environment, which has none of
this package's dependencies. Standard library, numpy, onnx and modelopt only; JSON lines over two pipes, as
`process.Channel` speaks them.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]

import ctypes  # noqa: E402 - after the line above: beside this file lie modules called graph, runtime and cast
import importlib.util  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import re  # noqa: E402
import signal  # noqa: E402
import traceback  # noqa: E402
from importlib import metadata  # noqa: E402
from typing import Any  # noqa: E402

PACKAGES = ("nvidia-modelopt", "onnx", "onnxruntime", "onnxruntime-gpu", "torch", "numpy", "onnx_graphsurgeon")
NEEDED = ("modelopt", "onnx", "onnxruntime", "onnx_graphsurgeon")


class Channel:
    def __init__(self, inbox: int, outbox: int) -> None:
        self._inbox = os.fdopen(inbox, "r", encoding="utf-8")
        self._outbox = os.fdopen(outbox, "w", encoding="utf-8")

    def receive(self) -> dict[str, Any] | None:
        line = self._inbox.readline()
        return json.loads(line) if line else None

    def send(self, message: dict[str, Any]) -> None:
        self._outbox.write(json.dumps(message, allow_nan=False) + "\n")
        self._outbox.flush()

    def fail(self, kind: str, what: str, why: str = "", fix: str = "") -> None:
        self.send({"error": {"type": kind, "what": what, "why": why, "fix": fix}})


class Reader:
    """Calibration data in the form that ONNX Runtime's calibration and ModelOpt ask for: one `.npy` per inference and
    input, read when it is its turn."""

    def __init__(self, folder: str, names: list[str], rows: list[int], channel: Channel) -> None:
        self._folder, self._names, self._rows, self._channel = folder, names, rows, channel
        self._next = 0

    def get_next(self) -> dict[str, Any] | None:
        if self._next >= len(self._rows):
            return None
        feeds = self._feeds(self._next)
        self._next += 1
        done, total = sum(self._rows[: self._next]), sum(self._rows)
        self._channel.send({"progress": f"ModelOpt calibrates, {done} of {total} samples", "share": done / total})
        return feeds

    def get_first(self) -> dict[str, Any]:
        return self._feeds(0)

    def rewind(self) -> None:
        self._next = 0

    def set_range(self, start_index: int, end_index: int) -> None:
        raise NotImplementedError("only whole passes over the calibration data")

    def __iter__(self) -> Reader:
        return self

    def __next__(self) -> dict[str, Any]:
        feeds = self.get_next()
        if feeds is None:
            raise StopIteration
        return feeds

    def _feeds(self, index: int) -> dict[str, Any]:
        import numpy as np

        return {
            name: np.load(Path(self._folder, f"{index}.{number}.npy"), allow_pickle=False)
            for number, name in enumerate(self._names)
        }


def main() -> None:
    """Die with the parent (as `child.py`), answer one request after the other."""
    inbox, outbox = (int(argument) for argument in sys.argv[1:3])
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != int(os.environ.get("TRT_ACTION_PARENT", os.getppid())):
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    channel = Channel(inbox, outbox)
    while (request := channel.receive()) is not None:
        try:
            channel.send(WORK[request["do"]](request, channel))
        except MemoryError:
            channel.fail("OutOfMemoryError", "ModelOpt ran out of host memory.")
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the boundary of the process: libraries raise anything
            traceback.print_exc()
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:800]}"
            channel.fail(
                "PrecisionError",
                f"ModelOpt failed while it prepared the model as {request.get('precision', '?')}.",
                text,
                "Name the node in `exclude-nodes` if one is named there, or use the light one: `toolchain: onnxruntime`.",
            )


def versions(request: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """What is installed here, without importing it (that takes seconds)."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    return {"versions": found, "missing": missing, "python": ".".join(map(str, sys.version_info[:3]))}


def quantize(request: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """int8, fp8 and int4: Q/DQ nodes; everything else stays float32."""
    channel.send({"progress": "loading ModelOpt", "share": None})
    from modelopt.onnx import quantization  # type: ignore[import-not-found, unused-ignore]

    if request["precision"] == "int4":
        compile_or_go_on()
    channel.send({"progress": f"ModelOpt quantizes to {request['precision']}", "share": None})
    operators = {} if request["precision"] == "int4" else {"op_types_to_quantize": request["op_types"]}
    quantization.quantize(
        request["source"],
        quantize_mode=request["precision"],
        calibration_data_reader=Reader(request["feeds"], request["names"], request["rows"], channel),
        calibration_method=request["method"],
        calibration_eps=["cpu"],
        nodes_to_exclude=exactly(request["exclude"]),
        high_precision_dtype="fp32",
        use_external_data_format=request["large"],
        output_path=request["target"],
        log_level="WARNING",
        **operators,
    )
    return {"path": request["target"]}


def cast(request: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """fp16 and bf16 by AutoCast; inputs and outputs keep their types."""
    channel.send({"progress": "loading ModelOpt", "share": None})
    import onnx
    from modelopt.onnx import autocast  # type: ignore[import-not-found, unused-ignore]

    channel.send({"progress": f"ModelOpt casts to {request['precision']}", "share": None})
    model = autocast.convert_to_mixed_precision(
        request["source"],
        low_precision_type=request["precision"],
        nodes_to_exclude=exactly(request["exclude"]),
        keep_io_types=True,
        providers=["cpu"],
    )
    location = Path(request["target"]).name + ".data"
    onnx.save(model, request["target"], save_as_external_data=request["large"], location=location)
    return {"path": request["target"]}


def compile_or_go_on() -> None:
    """ModelOpt compiles a few lines of C++ at its first int4 model and has the same, slower, in Python for where that fails
    with an exception; setuptools ends the process instead: without a compiler, above all."""
    import cppimport  # type: ignore[import-not-found, unused-ignore]

    compiled = cppimport.imp

    def imp(name: str) -> Any:
        try:
            return compiled(name)
        except SystemExit as stop:
            raise ImportError(f"{name} was not compiled: {stop}") from None

    cppimport.imp = imp


def exactly(names: list[str]) -> list[str]:
    """Regular expressions for `re.match` that fit these names alone."""
    return [rf"{re.escape(name)}\Z" for name in names]


WORK = {"versions": versions, "quantize": quantize, "cast": cast}

if __name__ == "__main__":
    main()
