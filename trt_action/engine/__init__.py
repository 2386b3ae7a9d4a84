"""From a prepared ONNX graph to an engine, and from an engine to a session that runs."""
