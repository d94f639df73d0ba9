"""What a process (run.py) and its executor call on a node of this package."""

from __future__ import annotations


class NodeHooks:
    """Base of the nodes, before rclpy's own class. A hook does nothing unless the node says otherwise."""

    EXECUTOR: str | None = None  # kind of executor (executor.py); None: the one that fits here
    RECEIVES_IMAGES = False
    failed = ""  # why the node cannot do its work, once that is certain: its process then ends with exit code 1

    def begin(self) -> None:
        """Before the first callback, in a process of its own."""

    def close(self) -> None:
        """At the end of the process, while publishing still works."""

    def on_escaped(self, sentence: str) -> None:
        """What follows from an exception that escaped a callback."""
