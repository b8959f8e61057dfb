"""The emitted model in its runtime against the float model: quality, fusion and speed."""
