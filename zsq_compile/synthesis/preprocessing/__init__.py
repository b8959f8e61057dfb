"""What numbers a network expects of a pixel, inferred in torch."""
