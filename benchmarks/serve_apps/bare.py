"""What one would write by hand: a Starlette app that answers each binary inference request as it comes, un-batched.

python benchmarks/serve_apps/bare.py ENGINE.onnx PORT
"""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


def app(path: str) -> Starlette:
    """Binary tensors in and out, or JSON both ways; one input and one output of float32; no limits, no batching, no
    statistics."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    name = session.get_outputs()[0].name

    async def infer(request: Request) -> Response:
        body = await request.body()
        if "inference-header-content-length" not in request.headers:
            asked = orjson.loads(body)["inputs"][0]
            (y,) = session.run(None, {asked["name"]: np.array(asked["data"], np.float32).reshape(asked["shape"])})
            plain = {"name": name, "datatype": "FP32", "shape": y.shape, "data": y.ravel()}
            document = {"model_name": "bare", "model_version": "1", "outputs": [plain]}
            return Response(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")
        size = int(request.headers["inference-header-content-length"])
        asked = orjson.loads(body[:size])["inputs"][0]
        x = np.frombuffer(body, dtype=np.float32, offset=size).reshape(asked["shape"])
        (y,) = session.run(None, {asked["name"]: x})
        output = {"name": name, "datatype": "FP32", "shape": y.shape}
        output["parameters"] = {"binary_data_size": y.nbytes}
        head = orjson.dumps({"model_name": "bare", "model_version": "1", "outputs": [output]})
        return Response(head + y.tobytes(), headers={"inference-header-content-length": str(len(head))})

    async def ready(_request: Request) -> Response:
        return Response()

    return Starlette(
        routes=[
            Route("/v2/models/{model}/infer", infer, methods=["POST"]),
            Route("/v2/health/ready", ready),
        ]
    )


if __name__ == "__main__":
    uvicorn.run(
        app(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), loop="uvloop", http="httptools", access_log=False,
        log_level="error",
    )  # fmt: skip
