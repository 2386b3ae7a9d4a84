"""trt-action: from an ONNX model to a verdict, and from a verdict to a published engine."""

__version__ = "0.1.0"
