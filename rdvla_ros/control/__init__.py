"""The control path: numpy and the standard library only; time comes in as an argument, nothing here reads a clock."""
