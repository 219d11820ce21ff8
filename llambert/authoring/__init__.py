"""Writing a task and trying it on a few records."""
