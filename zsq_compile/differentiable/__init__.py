"""ONNX graphs as differentiable torch functions."""

from zsq_compile.differentiable.module import TorchGraph

__all__ = ["TorchGraph"]
