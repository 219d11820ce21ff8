"""Proof that a run's tables are whole, how far they are, and making again what is damaged."""
