"""Real trajectory controllers under the package: what they make of its messages, cycle by cycle."""
