"""Graph passes: each reads or rewrites an ``onnx_ir.Model``, and knows neither torch nor a runtime."""
