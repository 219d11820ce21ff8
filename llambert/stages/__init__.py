"""The steps of the method; no stage imports another."""
