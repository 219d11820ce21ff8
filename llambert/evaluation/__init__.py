"""Quality figures with intervals, computed from a run's tables."""
