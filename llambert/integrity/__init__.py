"""Verification, status and repair of a run's tables."""
