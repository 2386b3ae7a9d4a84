"""The engine behind KServe's Python SDK, as its documentation makes a custom predictor.

python benchmarks/serve_apps/kserve_app.py ENGINE.onnx PORT
"""

from __future__ import annotations

import sys
from typing import Any

import onnxruntime
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class Onnx(Model):  # type: ignore[misc, unused-ignore]
    """One session with one thread."""

    def __init__(self, path: str) -> None:
        super().__init__("cnn")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.ready = True

    async def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        (y,) = self._session.run(None, {payload.inputs[0].name: payload.inputs[0].as_numpy()})
        output = InferOutput(name="y", shape=list(y.shape), datatype="FP32")
        output.set_data_from_numpy(y, binary_data=False)
        return InferResponse(response_id=payload.id or "1", model_name=self.name, infer_outputs=[output])


if __name__ == "__main__":
    ModelServer(http_port=int(sys.argv[2]), enable_grpc=False, workers=1, access_log_format=None).start(
        [Onnx(sys.argv[1])]
    )
