"""One model quantized in several ways, measured side by side."""
