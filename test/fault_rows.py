"""Rows of the fault catalogue that no test covers, each with the reason."""

UNBUILT: dict[int, str] = {}
