"""The stages of a compilation, which introduce the other packages to each other."""
