"""The child that builds one engine: a backend that crashes, hangs or eats the memory takes only this process along."""

from __future__ import annotations

import time
from pathlib import Path

from trt_action import engine
from trt_action.engine.backend import BuildContext, RuntimeOptions
from trt_action.process import Channel


def build(channel: Channel) -> None:
    """`{backend, prepared, out_dir, options, precision, shapes, cache}` -> `{engine: path, seconds, notes}`; see
    `backend.Backend.build`."""
    while (request := channel.receive()) is not None:
        chosen = engine.backend(request["backend"])
        version = chosen.version()
        channel.progress(f"building with {chosen.name} {version}")
        start = time.monotonic()
        notes: list[str] = []
        context = BuildContext(
            precision=request["precision"],
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
