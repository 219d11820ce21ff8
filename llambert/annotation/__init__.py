"""What the LLM is asked about, with which words, and how its answers are read."""
