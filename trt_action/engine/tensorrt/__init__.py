"""TensorRT and TensorRT for RTX: one implementation, the module passed in.

What one version lacks is found with `hasattr` where it is used, never by comparing versions
(docs/decisions/0012-one-tensorrt.md). Variables named `trt`, `builder`, `config`, `network`, `parser`, `profile`, `runtime`,
`engine`, `context`, `inspector` hold TensorRT's objects: `tests/engine/tensorrt/test_api.py` follows these names.
"""
