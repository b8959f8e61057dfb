"""BatchNormalization statistics from nodes, a checkpoint, or a statistics file."""
