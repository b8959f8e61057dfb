"""Procedural images."""
