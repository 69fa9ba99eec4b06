"""From a trained model to a small, fast, checked ONNX file, driven by one recipe."""

import os

__version__ = "0.1.0"

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime looks once, when it is imported; child processes inherit it
