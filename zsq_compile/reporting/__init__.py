"""The report of a compilation: values, JSON, text and HTML page."""
