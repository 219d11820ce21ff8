"""The confidence level of every interval of the project."""

from statistics import NormalDist

CONFIDENCE_LEVEL = 0.95
Z = NormalDist().inv_cdf(0.5 + CONFIDENCE_LEVEL / 2)
"""Half the width of a normal interval at that level, in standard errors: 1.96."""
