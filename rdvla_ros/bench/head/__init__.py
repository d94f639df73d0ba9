"""The recurrent head against the published way of computing it."""
