"""Every option: defaults, bounds, and the file that can hold them."""
