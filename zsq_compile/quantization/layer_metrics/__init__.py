"""The quantization noise of every layer, and its causes."""
