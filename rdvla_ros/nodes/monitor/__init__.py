"""The monitor: uncertainty and diagnostics."""
