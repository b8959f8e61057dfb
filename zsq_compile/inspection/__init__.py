"""What compiling a model will meet, found before it is compiled and without torch."""
