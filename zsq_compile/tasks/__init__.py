"""What the outputs of a network mean, and how much of that another network keeps. Needs numpy and onnx only."""
