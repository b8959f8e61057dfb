"""Weights to integers, in closed form."""
