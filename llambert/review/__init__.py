"""People's answers: records out, answers back in."""
