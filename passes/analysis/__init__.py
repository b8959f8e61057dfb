"""What is read off a graph without changing it: work, bytes, dead channels, ranges at risk."""
