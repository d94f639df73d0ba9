"""The running nodes: holds, deaths, deadlines, memory, processor time."""
