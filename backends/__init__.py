"""What the compiled model will run on: targets as data, and sessions of ONNX Runtime."""
