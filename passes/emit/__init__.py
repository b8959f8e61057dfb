"""The QDQ graph in the form in which it is written for a target."""
