"""Procedural images and signals."""
