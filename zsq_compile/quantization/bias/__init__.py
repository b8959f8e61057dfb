"""Bias correction."""
