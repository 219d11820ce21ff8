"""Guarantees replayed on stored answers: real texts, an LLM's or people's answers, and trained classifiers."""
