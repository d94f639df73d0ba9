"""The folder that a run of the nodes leaves: written, read and reported. No ROS here, so that any computer can read one.

run.json                    what ran: versions, checkpoint, parameters of the nodes, how the recording ended
robot.yaml                  the robot description, as the nodes read it
tables/<table>/*.parquet    what happened, in parts; `pandas.read_parquet("tables/decisions")` reads a table
cameras/<camera>-NNN.mp4    the pictures; frame after frame, their times are in the table `frames`
"""

from __future__ import annotations

from rdvla_ros.types import RdvlaError

FORMAT, FORMAT_VERSION = "rdvla_ros run", 1
INFO, ROBOT, TABLES, CAMERAS = "run.json", "robot.yaml", "tables", "cameras"


class RunError(RdvlaError):
    """A run that cannot be recorded or read: the message names the file."""
