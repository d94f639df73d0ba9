"""`rdvla study trail-policy`: from the head that follows trails on symbols to a policy that decides again while it moves."""
