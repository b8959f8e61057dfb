"""The algorithms that make calibration data."""
