"""trt-action: from an ONNX model to a verdict, and from a verdict to a published engine."""

import os

__version__ = "0.1.0"

# ONNX Runtime >= 1.29 for Linux sends names and hashes of the models it loads to its vendor unless this is set before
# it is imported, and starts a thread and temporary files for it. A model of a pull request is nobody else's business.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
