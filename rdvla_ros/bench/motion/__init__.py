"""Motions of random chunks against the limits, without ROS."""
