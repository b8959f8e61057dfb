"""ONNX graphs as differentiable torch functions."""
