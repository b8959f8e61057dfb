"""Calibration data made of nothing but the network."""
