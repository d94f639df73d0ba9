"""RD-VLA in torch: layers, recurrent head, halting, backbones, checkpoints, policy."""
