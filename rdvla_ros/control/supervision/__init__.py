"""Who may move the arms, and what stops them. Imports control.motion, never the other way."""
