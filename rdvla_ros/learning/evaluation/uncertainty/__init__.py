"""`rdvla study uncertainty` and `rdvla calibrate`: does any signal of a decision predict that its episode will fail?

perturbations: what goes wrong. episodes: they are run and kept, decision by decision. scores: signals of kept episodes, how well
they rank failures, at which thresholds. combine: what is learned from signals and latents. report: tables and plots.
"""
