"""The child that builds one engine: a backend that crashes, hangs or eats the memory takes only this process along."""

from __future__ import annotations

import time
from pathlib import Path

from trt_action import engine
from trt_action.engine.backend import RuntimeOptions
from trt_action.process import Channel


def build(channel: Channel) -> None:
    """`{backend, prepared, out_dir, options}` -> `{engine: path, seconds}`; see `backend.Backend.build`."""
    while (request := channel.receive()) is not None:
        chosen = engine.backend(request["backend"])
        version = chosen.version()
        channel.progress(f"building with {chosen.name} {version}")
        start = time.monotonic()
        path = chosen.build(Path(request["prepared"]), Path(request["out_dir"]), RuntimeOptions(**request["options"]))
        channel.send({"engine": str(path), "seconds": time.monotonic() - start})
