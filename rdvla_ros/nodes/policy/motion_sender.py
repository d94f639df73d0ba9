"""From a decision to the arms' trajectories on the wire."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode
from trajectory_msgs.msg import JointTrajectory

from rdvla_ros.control.motion.limits import JointLimits
from rdvla_ros.control.motion.schedule import Latency, Schedule, rows_left
from rdvla_ros.control.motion.seam import make_seam
from rdvla_ros.control.motion.stop import stop
from rdvla_ros.control.motion.trajectory import PlanOptions, Reference, Trajectory
from rdvla_ros.nodes.common import conversions, qos
from rdvla_ros.nodes.common.controller_states import ArmStates
from rdvla_ros.nodes.policy.parameters import PolicyParameters
from rdvla_ros.robot import RobotDescription
from rdvla_ros.types import Decision, ObservationError, StopReason, TrajectoryError

STOP_LEAD_S = 0.02  # from sending a stop until it leaves the running motion, as the gate's holds
FIRST_PLANNING_S = 0.01  # assumed before a plan was measured


class NotNowError(TrajectoryError):
    """There is nothing wrong with the decision but its time, or that it is not settled: it moves nothing, and that is all."""


class MotionSender:
    """Publishes ~/<arm>/joint_trajectory of every arm. horizon: the rule that says how much of a chunk is executed.
    delay_s: how much longer than usual the gate needs now to bring a motion to the controllers."""

    def __init__(
        self,
        node: LifecycleNode,
        robot: RobotDescription,
        values: PolicyParameters,
        arms: ArmStates,
        horizon: Any,
        delay_s: Callable[[], float] = lambda: 0.0,
    ):
        self._robot, self._arms, self._horizon = robot, arms, horizon
        self.shortened: Callable[[int], int] = lambda steps: steps  # rows to execute, of those that the rule says
        self._stop_s, self._seam = values.stop_s, make_seam({"method": values.seam_method})
        self._limits = JointLimits.of_robot(robot)
        self._options = PlanOptions(stop_s=values.stop_s, may_lag=robot.gripper_joints)
        self.schedule = Schedule(
            Latency(values.first_latency_s),
            lead_s=values.lead_s,
            observation_period_s=1.0 / robot.rates.camera_hz,
            planning=Latency(FIRST_PLANNING_S),
            delay_s=delay_s,
        )
        self._publishers = {
            arm.name: node.create_lifecycle_publisher(JointTrajectory, f"~/{arm.name}/joint_trajectory", qos.NEWEST)
            for arm in robot.arms
        }
        self._chunks = {
            arm.name: node.create_lifecycle_publisher(JointTrajectory, f"~/{arm.name}/chunk", qos.RELIABLE) for arm in robot.arms
        }
        self._warm_up()
        publishers = (*self._publishers.values(), *self._chunks.values())
        self.destroy = [partial(node.destroy_lifecycle_publisher, publisher) for publisher in publishers]

    def _warm_up(self) -> None:
        """The first plan of a process takes several times as long as the others, and would come too late."""
        rows = np.repeat((self._limits.lower + self._limits.upper)[None] / 2, 8, axis=0)
        rest = Reference.at_rest(rows[0])
        for _ in range(2):
            self._seam.plan(
                rows, step_s=0.1, elapsed_s=0.0, horizon=8, start=rest, limits=self._limits, lead_s=0.05, options=self._options
            )
        stop(rest, limits=self._limits)

    def send(self, decision: Decision, now_s: float, *, publish_unconverged: bool) -> int:
        """Send all arms' trajectories and return the rows they execute; an RdvlaError says why nothing is sent."""
        chunk = decision.chunk
        if decision.stop_reason == StopReason.NON_FINITE or not np.isfinite(chunk.positions).all():
            raise TrajectoryError("The decision is not finite.")
        if decision.stop_reason == StopReason.DIVERGED:
            raise TrajectoryError("The iterations did not settle, they moved the plan further and further.")
        if decision.stop_reason == StopReason.ITERATION_LIMIT and not publish_unconverged:
            raise NotNowError(f"Not settled within {decision.limit} iterations, and publish_unconverged is false.")
        begun_s = time.monotonic()
        horizon = self.shortened(self._horizon.steps(decision.iterations, len(chunk.positions), decision.step_change))
        present = self._arms.present()
        if not self.schedule.joinable(present):
            raise NotNowError("The arms still come to rest from what was stopped.")
        over = self.schedule.handover(now_s, present)
        over = over if self._seam.joins else over.without_history()
        elapsed_s = over.send_s - chunk.stamp_s
        if not rows_left(len(chunk.positions), chunk.step_s, elapsed_s, over.lead_s):
            raise NotNowError(
                f"Nothing of the chunk is left to execute: {len(chunk.positions)} rows of {chunk.step_s:g} s, taking over "
                f"{elapsed_s + over.lead_s:.3f} s after their observation. It came too late."
            )
        motion = self._seam.plan(
            self._robot.from_policy(chunk.positions),
            step_s=chunk.step_s,
            elapsed_s=elapsed_s,
            horizon=horizon,
            start=self.schedule.reference(over.switch_s, present),
            limits=self._limits,
            lead_s=over.lead_s,
            options=self._options,
        )
        took_s = time.monotonic() - begun_s
        self.schedule.planning.add(took_s)
        if took_s > (longest_s := over.lead_s - self.schedule.delay_s()):
            raise NotNowError(f"Planning took {took_s:.3f} s, expected at most {longest_s:.3f} s: it came too late.")
        motion = self.schedule.message(motion, over, present)
        self._publish(motion, over.stamp_s)
        self.schedule.sent(motion, over.stamp_s, self._stop_s)
        return min(horizon, rows_left(len(chunk.positions), chunk.step_s, elapsed_s, over.lead_s))

    def send_chunk(self, decision: Decision, measured: np.ndarray) -> None:
        """What was predicted, for whoever watches: no controller hears it. measured: (A,) policy units, as observed."""
        chunk = decision.chunk
        positions = self._robot.from_policy(np.vstack([measured, chunk.positions]))
        motion = Trajectory(
            self._robot.joint_names, chunk.step_s * np.arange(len(positions)), positions, np.zeros_like(positions)
        )
        stamp = conversions.stamp_or_none(chunk.stamp_s)
        for arm in self._robot.arms:
            self._chunks[arm.name].publish(conversions.trajectory_message(motion.select(arm.joint_names), stamp))

    def stop(self, now_s: float) -> None:
        """Bring all arms to rest inside their limits, from what they follow; called while they move. An arm that is not heard of
        is taken to do what it was sent."""
        try:
            present = self._arms.present()
        except ObservationError:
            present = None
        over = self.schedule.handover(now_s, present, STOP_LEAD_S)
        start, onward = self.schedule.reference(over.switch_s, present), self.schedule.onward(over.switch_s, present)
        motion = stop(start, limits=self._limits, lead_s=over.lead_s, onward=onward)
        self._publish(self.schedule.message(motion, over, present), over.stamp_s)
        self.schedule.forget()

    def _publish(self, motion: Trajectory, stamp_s: float) -> None:
        stamp = conversions.motion_stamp(stamp_s)  # one time base for all arms: the gate pairs them by it
        parts = {arm.name: conversions.trajectory_message(motion.select(arm.joint_names), stamp) for arm in self._robot.arms}
        for name, part in parts.items():
            self._publishers[name].publish(part)
