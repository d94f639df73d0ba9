"""What others send to a controller for the same motion, to compare with: plain chunks, and single points.

All follow the swing of bench.nodes.stand_in, about the same place. None has a gate in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
from rclpy.node import Node
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from rdvla_ros.bench.nodes.stand_in import ROWS, STEP_S, SWING, angles
from rdvla_ros.nodes.common import conversions
from rdvla_ros.robot import RobotDescription

REPLAN_S = 0.6  # between two chunks, as in ros2_control_demos' example 19
POINTS_HZ = 30.0  # as a dataset of LeRobot is recorded
START_S = 2.0  # to where the swing is, beforehand


class Bridge:
    """home (A,): about which the arms swing."""

    def __init__(self, node: Node, robot: RobotDescription, home: np.ndarray):
        self._node, self._robot, self._home = node, robot, home
        self._moves = ~np.isin(robot.joint_names, robot.gripper_joints)
        self._outputs = {arm.name: node.create_publisher(JointTrajectory, arm.trajectory_topic, 10) for arm in robot.arms}

    def close(self) -> None:
        for output in self._outputs.values():
            self._node.destroy_publisher(output)

    def swing(self, times_s: np.ndarray) -> np.ndarray:
        """(T, A) at ROS times."""
        return self._home + SWING * np.sin(angles(times_s, len(self._home))) * self._moves

    def go_there(self) -> None:
        """To where the swing will be, at rest. The motion begins from there with a step of the speed, which is not judged."""
        begin_s = time.time() + START_S
        self._send(self.swing(np.array([begin_s])), [START_S], 0.0)
        time.sleep(START_S)

    def chunks(self) -> float:
        """One chunk of positions, from now on; how long until the next."""
        now_s = time.time()
        after_s = (np.arange(ROWS) + 1) * STEP_S
        self._send(self.swing(now_s + after_s), after_s, now_s)
        return REPLAN_S

    def points(self) -> float:
        """One point, to be there at once. Without a stamp: with the present one it has passed when it arrives, and is refused."""
        self._send(self.swing(np.array([time.time()])), [0.0], 0.0)
        return 1.0 / POINTS_HZ

    def stamped_points(self) -> float:
        """The same with the present stamp, as rosetta and leros2 send it."""
        now_s = time.time()
        self._send(self.swing(np.array([now_s])), [0.0], now_s)
        return 1.0 / POINTS_HZ

    def run(self, send: Callable[[], float], seconds: float) -> None:
        end_s = due_s = time.monotonic()
        end_s += seconds
        while due_s < end_s:
            due_s += send()
            time.sleep(max(0.0, due_s - time.monotonic()))

    def _send(self, rows: np.ndarray, after_s: list[float] | np.ndarray, stamp_s: float) -> None:
        stamp = conversions.stamp(stamp_s)
        for arm, columns in self._robot.arm_slices.items():
            message = JointTrajectory(joint_names=list(self._robot.joint_names[columns]))
            message.header.stamp = stamp
            message.points = [
                JointTrajectoryPoint(positions=row.tolist(), time_from_start=conversions.duration(float(t)))
                for row, t in zip(rows[:, columns], after_s, strict=True)
            ]
            self._outputs[arm].publish(message)


WAYS: Mapping[str, Callable[[Bridge], float]] = {
    "plain chunks": Bridge.chunks,
    "single points": Bridge.points,
    "single points, stamped now": Bridge.stamped_points,
}
