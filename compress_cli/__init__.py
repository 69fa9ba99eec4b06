"""From a trained model to a small, fast, checked ONNX file, driven by one recipe."""

__version__ = "0.1.0"
