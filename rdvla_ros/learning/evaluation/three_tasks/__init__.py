"""`rdvla study three-tasks`: the head that knows two tasks and the head that follows trails become one head for all three."""
