"""Block reconstruction: roundings, scales and biases learned block by block."""
