"""Studies of nobody, drawn and written by a program: the same seed makes the same bytes."""
