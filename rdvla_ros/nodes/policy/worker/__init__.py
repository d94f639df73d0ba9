"""The process that runs the network; it may hang or die."""
