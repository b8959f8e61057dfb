"""The report: its values, and the forms in which it is shown."""
