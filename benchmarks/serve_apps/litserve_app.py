"""The engine behind LitServe, as its documentation makes an API; it speaks JSON of its own.

python benchmarks/serve_apps/litserve_app.py ENGINE.onnx PORT
"""

import sys
from typing import Any

import litserve
import numpy as np
import onnxruntime
from starlette.requests import Request


class Onnx(litserve.LitAPI):  # type: ignore[misc, unused-ignore]
    """One session with one thread, in a worker process."""

    def setup(self, device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])

    def decode_request(self, request: Request) -> Any:
        given: Any = request  # what the body holds, says LitServe, where the annotation is this
        asked = given["inputs"][0]
        return np.array(asked["data"], np.float32).reshape(asked["shape"])

    def predict(self, x: Any) -> Any:
        return self._session.run(None, {"x": x})[0]

    def encode_response(self, output: Any) -> Any:
        return {"outputs": [{"name": "y", "data": output.ravel().tolist()}]}


if __name__ == "__main__":
    server = litserve.LitServer(Onnx(), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, num_api_servers=1, log_level="error"
    )
