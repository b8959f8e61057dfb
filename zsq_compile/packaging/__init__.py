"""Packages for a device: the model, its origin, samples to prove it by, and the program that checks it all."""
