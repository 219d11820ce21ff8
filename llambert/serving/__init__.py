"""The classifier behind HTTP."""
