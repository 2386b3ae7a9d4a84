"""The server in the image: engines behind the Open Inference Protocol v2 (docs/serving.md).

The path of a request: `connection` (limits of the wire) → `app` (who may, which model) → `decode` → `batching` →
`engines` (threads that own sessions) → `encode`. Beside it: `folder`, `guard` and `selftest` decide whether an engine
may serve here; `repository` loads, swaps and unloads; `stats` counts, `metrics` tells.

Nothing here needs onnx, pydantic, jinja2 or rich: the image that serves stays small.
"""
