"""Where quantizers go, and the QDQ graph that holds them."""
