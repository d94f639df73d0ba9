"""The node that records a run: it only listens."""
