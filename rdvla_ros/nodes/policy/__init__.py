"""The policy node: observations in, one trajectory per arm out."""
