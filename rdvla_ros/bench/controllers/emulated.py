"""The emulated controller at the updates of the real one, with the messages that the real one took, to compare the two."""

from __future__ import annotations

import numpy as np
from trajectory_msgs.msg import JointTrajectory

from rdvla_ros.bench.controllers.states import SECOND, States, nanoseconds
from rdvla_ros.nodes.common import conversions
from rdvla_ros.robot import Arm
from rdvla_ros.sim.controller import JointTrajectoryController, Points

BASE_S = 1000.0  # emulated time at the first report: seconds since 1970 leave a float no more than 0.2 us


def replay(
    states: States, times_ns: np.ndarray, begun_ns: np.ndarray, sent: dict[int, JointTrajectory], arm: Arm, rate_hz: float
):
    """(M, J) positions of the emulation at the reports' times, NaN until it has taken a message.

    A message counts from the report whose trajectory began at its stamp. Before a message that is not among `sent` (one without
    a stamp, or a hold of the controller itself) the emulation begins anew.
    """
    emulation = None
    found = np.full(states.position.shape, np.nan)
    begin_ns = int(times_ns[0])

    def at_s(time_ns: int) -> float:
        return BASE_S + (time_ns - begin_ns) / SECOND

    for i in range(len(states)):
        if i and begun_ns[i] != begun_ns[i - 1]:
            message = sent.get(int(begun_ns[i]))
            if message is None:
                emulation = None
            elif emulation is None:
                emulation = JointTrajectoryController(arm.joint_names, states.position[i - 1], update_rate_hz=rate_hz)
                emulation.update(at_s(times_ns[i - 1]))
            if emulation is not None:
                stamp_ns = nanoseconds(message.header.stamp)
                emulation.accept(points_of(message, at_s(stamp_ns)), at_s(times_ns[i - 1]))
        if emulation is not None:
            found[i] = emulation.update(at_s(times_ns[i])).position
    return found


def points_of(message: JointTrajectory, stamp_s: float) -> Points:
    """The message as plain data, at its stamp in emulated time (0: none)."""
    points = message.points
    return Points(
        tuple(message.joint_names),
        stamp_s,
        [conversions.seconds(point.time_from_start) for point in points],
        [point.positions for point in points],
        [point.velocities for point in points],
        [point.accelerations for point in points],
    )
