"""Scales of activations and weights."""
