"""Quantized graphs back to the float graphs that they stand for."""
