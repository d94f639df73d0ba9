"""Recorded episodes and datasets made of them."""
