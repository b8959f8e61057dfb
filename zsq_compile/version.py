"""The version, in a file that any part may read."""

VERSION = "0.1.0"
