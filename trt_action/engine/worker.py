"""The child that builds one engine: a backend that crashes, hangs or eats the memory takes only this process along."""

from __future__ import annotations

import time
from pathlib import Path

from trt_action import engine
from trt_action.engine.backend import BuildContext, RuntimeOptions
from trt_action.process import Channel


def build(channel: Channel) -> None:
    """`{backend, prepared, out_dir, options, precision, name, shapes, cache}` -> `{engine: path, seconds, notes}`; see
    `backend.Backend.build`."""
    while (request := channel.receive()) is not None:
        chosen = engine.backend(request["backend"])
        version = chosen.version()
        channel.progress(f"building with {chosen.name} {version}")
        start = time.monotonic()
        notes: list[str] = []
        context = BuildContext(
            precision=request["precision"],
            name=request["name"],
            shapes=request["shapes"],
            cache=Path(request["cache"]) if request["cache"] else None,
            progress=channel.progress,
            warn=notes.append,
        )
        options = RuntimeOptions.from_json(request["options"])
        path = chosen.build(Path(request["prepared"]), Path(request["out_dir"]), options, context)
        channel.send({"engine": str(path), "seconds": time.monotonic() - start, "notes": notes})


def device(channel: Channel) -> None:
    """`{device}` -> name, uuid, capability, driver_cuda, total_bytes, binding of that GPU; see `devices.Device`."""
    from trt_action.engine.cuda import cuda

    while (request := channel.receive()) is not None:
        gpu = cuda(request["device"])
        major, minor = gpu.capability()
        channel.send(
            {
                "name": gpu.name(),
                "uuid": gpu.uuid(),
                "capability": f"{major}.{minor}",
                "driver_cuda": gpu.versions()["driver"],
                "total_bytes": gpu.memory()[1],
                "binding": gpu.binding,
            }
        )


def trial(channel: Channel) -> None:
    """`{options}` -> `{provider}`: ONNX Runtime adds two numbers there, and they are right; see `trial`."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    from trt_action import files
    from trt_action.engine.backend import Loadable, infer
    from trt_action.errors import BackendUnavailableError

    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])

    while (request := channel.receive()) is not None:
        options = RuntimeOptions.from_json(request["options"])
        chosen = engine.backend("onnxruntime")
        graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "trial", [value("x")], [value("y")])
        with files.work_folder() as folder:
            path = folder / "trial.onnx"
            onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
            session = chosen.load(Loadable("onnxruntime", path, options, prepared=True))
            found = infer(session, {"x": np.array([1, 2], np.float32)})["y"]
            session.close()
        if found.tolist() != [2.0, 4.0]:
            raise BackendUnavailableError(
                f"ONNX Runtime computes 1 + 1 and 2 + 2 as {found.tolist()} on {options.device}."
            )
        channel.send({"provider": chosen.describe(options)["provider"]})
