"""The gate: the only publisher to the arm controllers."""
