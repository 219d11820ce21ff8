"""What a first day on a GPU should find out: is it right there, and how fast. See ``__main__``."""
