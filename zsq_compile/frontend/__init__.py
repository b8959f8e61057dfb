"""From a file to a checked float graph."""
