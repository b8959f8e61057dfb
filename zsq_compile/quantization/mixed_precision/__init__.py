"""The bits of every layer."""
