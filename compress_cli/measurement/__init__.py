"""The one instrument: sessions, latency, metrics and profiles of an ONNX file. Never imports PyTorch."""
