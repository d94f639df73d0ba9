"""gate_node: the only publisher to the arm controllers. It passes the motions of both arms or of none, and owns the hold.

It imports no torch, so that it starts in a moment and lives on when the policy does not. Decisions are made in control/
(modes, motion check, pairing, tracking, ...); here they are wired to topics. Three threads share the work under the Authority's
lock: the node's callbacks (motions, joint states), the side's callbacks (services, heartbeats), which never wait behind them,
and the side's tasks, which watch.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from trajectory_msgs.msg import JointTrajectory

from rdvla_ros.control.supervision.modes import PASSES, Answer, GateModes, Mode
from rdvla_ros.control.supervision.motion_check import JumpError, LateError
from rdvla_ros.control.supervision.watchdog import Streak
from rdvla_ros.msg import GateStatus
from rdvla_ros.nodes.common import conversions, names, qos, realtime
from rdvla_ros.nodes.common.guard import Guard
from rdvla_ros.nodes.common.hooks import NodeHooks
from rdvla_ros.nodes.common.parameters import declare
from rdvla_ros.nodes.common.run import leave, run
from rdvla_ros.nodes.common.side_node import SideNode
from rdvla_ros.nodes.common.throttle import throttled
from rdvla_ros.nodes.gate.arms import GateArms
from rdvla_ros.nodes.gate.authority import Authority
from rdvla_ros.nodes.gate.exclusive import refuse_second_gate
from rdvla_ros.nodes.gate.input import checked_trajectory
from rdvla_ros.nodes.gate.parameters import GateParameters
from rdvla_ros.nodes.gate.robot_monitor import RobotMonitor
from rdvla_ros.nodes.gate.services import GateServices
from rdvla_ros.nodes.gate.supervisor import GateSupervisor
from rdvla_ros.robot import RobotDescription
from rdvla_ros.types import ObservationError, TrajectoryError

LOOK_S = 0.1  # how often the graph is looked up


class GateNode(NodeHooks, Node):
    def __init__(self, **node_options: Any) -> None:
        super().__init__(names.GATE, **node_options)
        self._values = values = declare(self, GateParameters)
        self._robot = robot = RobotDescription.load(values.robot).in_namespace(self.get_namespace())
        refuse_second_gate(self, robot, values)
        self._wait_for_robot = values.start_mode == "auto"
        reason = "start-up: waiting for the robot and the policy" if self._wait_for_robot else "start-up: not resumed yet"
        arms = [arm.name for arm in robot.arms]
        modes = GateModes(time.monotonic(), reason, arms=arms, pauses=values.pauses)
        self._arms = GateArms(self, robot, values)
        self._authority = Authority(modes, self._arms, arms, values, self.get_logger(), self._tell)
        self._guard = Guard(self, then=self._authority.hold_safely, repeat_s=1.0)  # a watch may raise a hundred times a second
        self._jumps = Streak(values.refusals_to_hold)
        self._passed = self._refused = 0
        self._last_refusal, self._looked_s = "", 0.0
        self._status = self.create_publisher(GateStatus, "~/status", qos.LATCHED)
        self._subscribe_motions(arms)
        self._robot_watch = RobotMonitor(self, robot, values, self._arms, self._guard, self._authority.lock)
        self._side = SideNode(self)
        self._side.guard.then = self._authority.hold_safely
        self._watch = GateSupervisor(self, self._side, values, self._authority, self._robot_watch, self._guard)
        GateServices(self, self._side, self._authority, self._watch.causes, self._guard)
        tick = self._guard.wrap(self._tick)
        self.create_timer(1.0 / values.status_hz, tick, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._announce()
        self._side.start()

    # -- wiring

    def _subscribe_motions(self, arms: list[str]) -> None:
        """Both sources are listened to all the time, so that a change of mode needs no discovery."""
        for mode, prefix in ((Mode.AUTO, self._values.policy_prefix), (Mode.TAKEOVER, self._values.takeover_prefix)):
            for name in arms:
                topic = names.motions(prefix, name)
                callback = self._guard.wrap(throttled(JointTrajectory, partial(self._on_motion, mode, name)))
                self.create_subscription(
                    JointTrajectory, topic, callback, 10, event_callbacks=qos.log_mismatch(self, topic), raw=True
                )

    # -- motions

    def _on_motion(self, source: Mode, arm: str, message: JointTrajectory) -> None:
        key = (message.header.stamp.sec, message.header.stamp.nanosec)
        with self._authority.lock:
            mode, arms = self._authority.mode, self._authority.modes.state.arms
            if source is Mode.TAKEOVER and mode is source and arm not in arms:
                return self._ignore(f"Arm '{arm}' is not taken over: it rests.")
            parts = self._authority.pairings[source].add(arm, key, message, time.monotonic())
            if parts is None:
                return None
            if mode is not source:
                return self._refuse_inactive(source)
            state = self._authority.modes.state
        try:
            motions = {name: checked_trajectory(part) for name, part in parts.items()}  # outside the lock: it may be large
        except (TrajectoryError, ObservationError) as error:
            return self._illegal(error)
        with self._authority.lock:
            if self._authority.mode is not source or self._authority.modes.state is not state:
                return self._refuse_inactive(source)
            return self._pass(motions, message)

    def _pass(self, motions: dict, message: JointTrajectory) -> None:
        """With the lock held, so that no hold comes between the check and the sending."""
        try:
            checked = self._arms.check(motions, conversions.seconds(message.header.stamp))
        except LateError as error:
            self._refuse(str(error))
        except JumpError as error:
            self._refuse(str(error))
            if self._jumps.failed():
                reason = f"{self._jumps.count} motions in a row do not begin where the arms are: {error}"
                self._authority.hold(conversions.printable(reason), "gate")
        except (TrajectoryError, ObservationError) as error:
            self._illegal(error)
        else:
            self._arms.send(checked)
            self._jumps.succeeded()
            self._passed += 1

    def _illegal(self, error: Exception) -> None:
        self._refuse(str(error))
        self._authority.hold(f"an illegal motion came: {error}", "gate")

    def _refuse(self, reason: str) -> None:
        reason = conversions.printable(reason)  # it may quote names from the message
        self._refused += 1
        if reason != self._last_refusal:
            self.get_logger().warning(f"Refused a motion: {reason}", throttle_duration_sec=1.0)
        self._last_refusal = reason

    def _refuse_inactive(self, source: Mode) -> None:
        """A teleoperation source may send all the time; only while it has the arms are its motions counted as refused."""
        state = self._authority.modes.state
        passes = state.reason if self._authority.modes.holding else PASSES[state.mode]
        reason = f"The mode is {state.mode.name}: {passes}."
        if source is Mode.AUTO:
            self._refuse(reason)
        else:
            self._ignore(reason)

    def _ignore(self, reason: str) -> None:
        self.get_logger().info(f"Ignored a teleoperation motion: {reason}", throttle_duration_sec=5.0)

    # -- supervision

    def _tick(self) -> None:
        now_s = time.monotonic()
        for source, given_up in self._authority.expired(now_s).items():
            for unpaired in given_up:
                if self._authority.mode is not source:
                    self._refuse_inactive(source)
                    continue
                self._refuse(
                    f"Only the part of {', '.join(unpaired.came)} came within {self._values.pair_timeout_s:g} s, "
                    f"{', '.join(unpaired.missing)} is missing: both arms or none."
                )
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            if restarted := self._robot_watch.look():
                self._authority.forget()  # the new controller follows nothing of what was sent to the old one
                self._authority.hold(restarted, "gate")
        causes = self._watch.causes()
        if self._wait_for_robot and not causes:
            self._begin_by_itself()
        self._publish_status(causes)

    def _begin_by_itself(self) -> None:
        """start_mode auto: the start-up hold ends when the robot is there, unless someone else asked for a hold meanwhile."""
        self._wait_for_robot = False
        modes = self._authority.modes
        if modes.state.hold_id == 1 and modes.counts.repeated_holds == 0:
            self._authority.resume(1, "gate", [])

    def _tell(self, answer: Answer) -> None:
        """One log line and one status message per change."""
        if answer.changed:
            self._jumps.succeeded()  # what begins now begins anew
        if answer.changed and self._authority.modes.holding:
            state, text = self._authority.modes.state, f"{answer.message} To go on: {self._resume_command()}"
            if state.mode is Mode.HOLD and state.who in ("gate", "policy"):
                self.get_logger().error(text)  # a fault
            else:
                self.get_logger().warning(text)  # asked for, or a pause
        else:
            self.get_logger().info(answer.message)
        self._publish_status(self._watch.causes())

    def _resume_command(self) -> str:
        request = f"'{{hold_id: {self._authority.modes.state.hold_id}}}'"
        return f"ros2 service call {self.get_fully_qualified_name()}/resume rdvla_ros/srv/Resume {request}"

    def _announce(self) -> None:
        way = "It ends by itself once they are there." if self._wait_for_robot else f"To go on: {self._resume_command()}"
        self.get_logger().warning(f"The gate holds ({self._authority.modes.state.reason}). {way}")
        self._robot_watch.look()
        self._publish_status(self._watch.causes())

    def _publish_status(self, causes: list[str]) -> None:
        with self._authority.lock:
            state = self._authority.modes.state
            message = GateStatus(
                mode=int(state.mode),
                hold_id=state.hold_id,
                reason=state.reason,
                who=state.who,
                since=conversions.stamp(self._authority.since_ros_s),
                passed=self._passed,
                refused=self._refused,
                last_refusal=self._last_refusal,
                causes=causes,
                taken_over=list(state.arms),
                delivery_delay_s=self._arms.motion_check.delivery.delay_s,
                exceptions=self._authority.exceptions,
            )
            message.header.stamp = conversions.stamp(self._arms.ros_s())
            self._status.publish(message)

    # -- the end

    def begin(self) -> None:
        """In a process of its own, all threads of it before other programs."""
        if (priority := self._values.realtime_priority) and (problem := realtime.prefer(priority)):
            self.get_logger().info(
                f"No real-time priority {priority} for the gate ({problem}). On a busy machine a hold may come late; "
                "docs/control.md says how to allow it."
            )

    def on_escaped(self, sentence: str) -> None:
        self._authority.hold_safely(sentence)

    def close(self) -> None:
        """The hold is the last message on the wire: sent, and waited for until the controllers have it."""
        self._authority.close("the gate shuts down")
        self._arms.wait_until_heard()

    def destroy_node(self) -> None:
        self._watch.heart.close()
        self._side.close()
        super().destroy_node()


def main(args: list[str] | None = None) -> None:
    leave(run(GateNode, args))


if __name__ == "__main__":
    main()
