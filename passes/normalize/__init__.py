"""The loaded graph in one normal form: constants folded, shapes known, names given, operators unified."""
