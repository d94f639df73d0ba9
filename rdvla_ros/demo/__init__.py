"""`rdvla demo`: the simulated robot under the policy."""
