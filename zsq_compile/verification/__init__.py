"""What the emitted model does in its runtime, against the float model."""
