"""Samples that are made against the quantized network while it is trained."""
