"""What a run will take: a pilot, a forecast, a learning curve, costs."""
