"""Sounds, spectrograms, features and table rows: what networks take that take no pictures."""
