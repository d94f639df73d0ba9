"""`rdvla study pictures`: from a picture of the top camera and the named colour to the pad to press, with a head that was trained
on symbols. The arms stand at their start; nothing moves. What it leaves out: motion.
"""
