"""The emulated controller at the updates of the real one, with the messages that the real one took, to compare the two."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from trajectory_msgs.msg import JointTrajectory

from rdvla_ros.bench.controllers.states import SECOND, States, nanoseconds
from rdvla_ros.nodes.common import conversions
from rdvla_ros.robot import Arm
from rdvla_ros.sim.controller import JointTrajectoryController, Points

BASE_S = 1000.0  # emulated time at the first report: seconds since 1970 leave a float no more than 0.2 us

NEXT, SAME = 30, 1e-9  # of the single points that may be the commanded one (a second of them), and how near it lies [rad or m]


def replay(
    states: States,
    times_ns: np.ndarray,
    begun_ns: np.ndarray,
    sent: Sequence[tuple[int, JointTrajectory]],
    arm: Arm,
    rate_hz: float,
) -> np.ndarray:
    """(M, J) positions of the emulation at the reports' times, NaN until it has taken a message.

    sent: (stamp [ns], message) in their order. One counts from the report whose trajectory began at its stamp, a single point
    without a stamp from the report that commands it. Before anything else (a hold of the controller itself) the emulation begins
    anew.
    """
    stamped = {stamp: message for stamp, message in sent if stamp}
    points = [message for stamp, message in sent if not stamp and len(message.points) == 1]
    emulation = None
    found = np.full(states.position.shape, np.nan)
    begin_ns = int(times_ns[0])

    def at_s(time_ns: int) -> float:
        return BASE_S + (time_ns - begin_ns) / SECOND

    for i in range(len(states)):
        if i and begun_ns[i] != begun_ns[i - 1]:
            message = stamped.get(int(begun_ns[i])) or _point(points, states.command[i], arm)
            if message is None:
                emulation = None
            elif emulation is None:
                emulation = JointTrajectoryController(arm.joint_names, states.position[i - 1], update_rate_hz=rate_hz)
                emulation.update(at_s(times_ns[i - 1]))
            if emulation is not None:
                stamp_ns = nanoseconds(message.header.stamp)
                emulation.accept(points_of(message, at_s(stamp_ns) if stamp_ns else 0.0), at_s(times_ns[i - 1]))
        if emulation is not None:
            found[i] = emulation.update(at_s(times_ns[i])).position
    return found


def _point(waiting: list[JointTrajectory], command: np.ndarray, arm: Arm) -> JointTrajectory | None:
    """The single point that is commanded, which is taken out of `waiting` with all before it; None where none is."""
    for index, message in enumerate(waiting[:NEXT]):
        order = [message.joint_names.index(name) for name in arm.joint_names]
        if np.abs(np.array(message.points[0].positions)[order] - command).max() < SAME:
            del waiting[: index + 1]
            return message
    return None


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
