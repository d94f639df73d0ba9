"""`rdvla study trail-policy`: from the head that follows trails on symbols to a policy that decides again and again while it moves."""
