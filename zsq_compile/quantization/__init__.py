"""From a plan to a QDQ graph: scales, roundings, biases, learning."""
