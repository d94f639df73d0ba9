"""A trajectory message as it comes to the gate, before anything of it is believed."""

from __future__ import annotations

import numpy as np
from trajectory_msgs.msg import JointTrajectory

from rdvla_ros.control.motion.trajectory import Trajectory
from rdvla_ros.nodes.common import conversions
from rdvla_ros.types import TrajectoryError

MOST_POINTS = 1000  # of one trajectory; a policy sends some thirty


def checked_trajectory(message: JointTrajectory) -> Trajectory:
    """The message as a trajectory; one of absurd size is refused before any of it is converted.

    Accelerations and efforts are not passed on. Where they are not numbers, the sender is in no state to be believed.
    """
    if len(message.points) > MOST_POINTS or len(message.joint_names) > MOST_POINTS:
        raise TrajectoryError(
            f"Expected at most {MOST_POINTS} points, got {len(message.points)} of {len(message.joint_names)} joints."
        )
    for number, point in enumerate(message.points):
        for what in ("accelerations", "effort"):
            if not np.isfinite(getattr(point, what)).all():
                raise TrajectoryError(f"The {what} of point {number} are not all finite, expected finite numbers or none.")
    return conversions.trajectory(message)
