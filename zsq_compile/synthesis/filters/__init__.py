"""What is done to finished samples, whichever generator made them."""
