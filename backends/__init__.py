"""What the compiled model will run on: targets as data, and the one door to ONNX Runtime."""
