"""BatchNormalization: statistics read, matched to folded layers, and folded."""
