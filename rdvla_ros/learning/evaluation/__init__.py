"""Closed-loop evaluation and studies in the simulator."""
