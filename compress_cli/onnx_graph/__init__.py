"""ONNX files as data: reading, counting and rewriting them without running them."""
