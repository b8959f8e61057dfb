"""What a model takes in, how pixels are prepared for it, and labelled data."""
