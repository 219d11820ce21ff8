"""llambert: an LLM annotates a subset, a small encoder learns from it and labels the whole corpus."""

__version__ = "0.1.0"
