"""What goes to the controllers: the gate's publishers, what may pass through them, and the stop of both arms.

Not locked: the Authority serialises who may send.
"""

from __future__ import annotations

from collections.abc import Mapping

from rclpy.duration import Duration
from rclpy.node import Node
from trajectory_msgs.msg import JointTrajectory

from rdvla_ros.control.motion.followed import Present
from rdvla_ros.control.motion.trajectory import Reference, Trajectory
from rdvla_ros.control.supervision.motion_check import MotionCheck, MotionCheckOptions, Outgoing
from rdvla_ros.control.supervision.tracking import ArmTracking
from rdvla_ros.nodes.common import conversions
from rdvla_ros.nodes.gate.parameters import GateParameters
from rdvla_ros.robot import RobotDescription
from rdvla_ros.types import TrajectoryError

PLANNING_S, TRIES = 0.005, 2  # a stop is usually planned in 2 ms
LONGEST_LEAD_S = 0.1
ACKNOWLEDGE_S = 0.5  # longest wait at shutdown until the controllers have the last hold


class GateArms:
    def __init__(self, node: Node, robot: RobotDescription, values: GateParameters):
        self._node, self._values = node, values
        options = MotionCheckOptions(
            longest_age_s=values.longest_age_s, longest_s=values.longest_motion_s, join_s=values.hold_lead_s
        )
        self.motion_check = MotionCheck(robot, options)
        self.outputs = {arm.name: node.create_publisher(JointTrajectory, arm.trajectory_topic, 10) for arm in robot.arms}
        self.tracking = {
            arm.name: ArmTracking(
                arm.name,
                self.motion_check.limits[arm.name].velocity,
                values.obey,
                expected=bool(arm.controller_state_topic),
                controller=arm.controller.strip("/"),
            )
            for arm in robot.arms
        }

    def ros_s(self) -> float:
        return self._node.get_clock().now().nanoseconds / conversions.NANOSECONDS

    def check(self, parts: Mapping[str, Trajectory], stamp_s: float) -> Outgoing:
        return self.motion_check.check(parts, stamp_s, self.ros_s())

    def send(self, outgoing: Outgoing) -> None:
        """What was checked goes out, not what came."""
        motions, stamp = outgoing.motions, conversions.motion_stamp(outgoing.stamp_s)
        messages = {name: conversions.trajectory_message(motion, stamp) for name, motion in motions.items()}  # all, or none
        for name, message in messages.items():
            self.outputs[name].publish(message)
        stamp_s = conversions.seconds(stamp)
        self.motion_check.passed(motions, stamp_s, self.ros_s())
        for name, motion in motions.items():
            self.tracking[name].sent(motion, stamp_s)

    def stop(self) -> str:
        """All arms to rest inside their limits, now; returns why not."""
        way_s = self.motion_check.delivery.longest_s
        lead_s, stop = max(self._values.hold_lead_s, way_s + PLANNING_S), None
        for _ in range(TRIES):  # where this process had to wait, the stop would come after the moment that it begins at
            now_s = self.ros_s()
            try:
                planned = self.motion_check.stop(now_s, lead_s)
            except TrajectoryError:
                if stop is None:
                    raise
                break  # the one before is late, but it is a stop
            if planned is None:
                return "No stop was sent: nothing is known of the arms yet. Nothing passes to them."
            stop = planned
            took_s = self.ros_s() - now_s
            if took_s + way_s <= lead_s:
                break
            lead_s = max(lead_s, min(way_s + 2.0 * took_s, LONGEST_LEAD_S))
        self.send(stop)
        for arm in self.tracking.values():  # else a resume that comes at once would hold again for what was before
            arm.begin_anew()
        return ""

    def informed(self) -> bool:
        """Whether every controller that reports has done so since reports were forgotten: joint states alone know no speed."""
        return all(self.motion_check.reported(name) for name, arm in self.tracking.items() if arm.expected)

    def forget(self, *, reports: bool = False) -> None:
        """The arms may have been moved meanwhile: the next motion, or stop, begins from what is reported (from now on, with
        `reports`)."""
        self.motion_check.forget(reports=reports)
        for arm in self.tracking.values():
            arm.forget()

    def reported(
        self, arm: str, reference: Reference, accepted: int | None, at_s: float, steady_s: float, follows: tuple[float, float]
    ) -> None:
        """A controller's report of what it commands. follows: its own stamp, and how long after the start of what it follows
        (0: not said)."""
        self.motion_check.delivery.reported(arm, *follows)
        self.motion_check.report_controller(arm, reference, at_s)
        tolerance = self.motion_check.tolerances[arm]
        present = Present(reference.position, reference.velocity, tolerance, at_s, commanded=True)
        self.tracking[arm].reported(present, accepted, steady_s)

    def wait_until_heard(self) -> None:
        """Until the controllers have what was sent last."""
        for output in self.outputs.values():
            output.wait_for_all_acked(Duration(seconds=ACKNOWLEDGE_S / len(self.outputs)))
