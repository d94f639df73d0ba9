"""Benches of the control path: `rdvla bench limits`, `rdvla bench seam`, `rdvla bench control`."""
