"""Speed and limits, measured."""
