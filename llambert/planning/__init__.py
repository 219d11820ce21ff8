"""What a run will cost: pilot, forecast, learning curve, prices."""
