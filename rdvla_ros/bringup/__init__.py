"""The list of processes, what starts them, and their permissions."""
