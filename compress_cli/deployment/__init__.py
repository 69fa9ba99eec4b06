"""Files that ship: a module becomes an ONNX file."""
