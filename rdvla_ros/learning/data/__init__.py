"""Datasets: read, checked, cached, augmented."""
