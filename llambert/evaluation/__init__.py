"""Quality figures, and what tells them: metrics with intervals, plots, the report of a run."""
