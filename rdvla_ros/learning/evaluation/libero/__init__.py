"""The LIBERO benchmark for published checkpoints: the policy runs here, the simulator in an environment of its own, whose older
mujoco ours cannot share. `simulator.py` is what runs there."""
