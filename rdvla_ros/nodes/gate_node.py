"""gate_node: the only publisher to the arm controllers. It passes the motions of both arms or of none, and owns the hold.

It imports no torch, so that it starts in a moment and lives on when the policy does not. Decisions are made in control/
(modes, passage, pairing, watchdog); here they are wired to topics and services.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial, wraps
from typing import Any

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from trajectory_msgs.msg import JointTrajectory

from rdvla_ros.control.modes import Answer, GateModes, Mode
from rdvla_ros.control.pairing import Pairing
from rdvla_ros.control.passage import JumpError, LateError, Passage, PassageOptions
from rdvla_ros.control.trajectory import LONGEST_STOP_S
from rdvla_ros.control.watchdog import Streak
from rdvla_ros.msg import GateStatus
from rdvla_ros.nodes import conversions, process
from rdvla_ros.nodes.gate_input import believable
from rdvla_ros.nodes.gate_parameters import GateParameters
from rdvla_ros.nodes.gate_start import refuse_second_gate
from rdvla_ros.nodes.parameters import declare
from rdvla_ros.nodes.robot_watch import RobotWatch
from rdvla_ros.robot import RobotDescription
from rdvla_ros.srv import Hold, Resume, SetMode
from rdvla_ros.types import ObservationError, TrajectoryError

ACKNOWLEDGE_S = 0.5  # longest wait at shutdown until the controllers have the last hold
LATEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class GateNode(Node):
    def __init__(self, **node_options: Any) -> None:
        super().__init__("gate", **node_options)
        self._values = declare(self, GateParameters)
        self._robot = RobotDescription.load(self._values.robot)
        refuse_second_gate(self, self._robot, self._values)
        self._wait_for_robot = self._values.start_mode == "auto"
        reason = "start-up: waiting for the robot" if self._wait_for_robot else "start-up: not resumed yet"
        self._modes = GateModes(self._ros_s(), reason)
        options = PassageOptions(longest_age_s=self._values.longest_age_s, longest_s=self._values.longest_motion_s)
        self._passage = Passage(self._robot, options)
        self._jumps = Streak(self._values.refusals_to_hold)
        self._passed = self._refused = self._exceptions = 0
        self._last_refusal = ""
        self._outputs = {arm.name: self.create_publisher(JointTrajectory, arm.trajectory_topic, 10) for arm in self._robot.arms}
        self._status = self.create_publisher(GateStatus, "~/status", LATEST)
        self._subscribe_motions()
        self._watch = RobotWatch(self, self._robot, self._values, self._passage, self._outputs, self._safe)
        self._serve()
        self.create_timer(1.0 / self._values.status_hz, self._safe(self._tick), clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._announce()

    # -- wiring

    def _subscribe_motions(self) -> None:
        """Both sources are listened to all the time, so that a change of mode needs no discovery."""
        sources = {Mode.AUTO: self._values.policy_prefix, Mode.TAKEOVER: self._values.takeover_prefix}
        names = [arm.name for arm in self._robot.arms]
        self._pairings = {mode: Pairing[JointTrajectory](names, timeout_s=self._values.pair_timeout_s) for mode in sources}
        for mode, prefix in sources.items():
            for name in names:
                callback = self._safe(partial(self._on_motion, mode, name))
                self.create_subscription(JointTrajectory, f"{prefix}/{name}/joint_trajectory", callback, 10)

    def _serve(self) -> None:
        self.create_service(Hold, "~/hold", self._safe(self._on_hold))
        self.create_service(Resume, "~/resume", self._safe(self._on_resume))
        self.create_service(SetMode, "~/set_mode", self._safe(self._on_set_mode))

    def _safe(self, callback: Callable) -> Callable:
        """An exception in a callback is counted and holds the arms; the node lives on. A service still answers."""

        @wraps(callback)
        def guarded(*args: Any) -> Any:
            try:
                return callback(*args)
            except Exception as error:
                self._exceptions += 1
                self.get_logger().error(f"Exception {self._exceptions} in a callback: {type(error).__name__}: {error}")
                self._hold_safely(f"an exception in the gate ({type(error).__name__}: {error})")
                return args[-1] if len(args) > 1 else None

        return guarded

    # -- motions

    def _on_motion(self, source: Mode, arm: str, message: JointTrajectory) -> None:
        key = (message.header.stamp.sec, message.header.stamp.nanosec)
        parts = self._pairings[source].add(arm, key, message, time.monotonic())
        if parts is None:
            return
        if self._modes.mode is not source:
            self._refuse_inactive(source)
            return
        stamp_s = conversions.seconds(message.header.stamp)
        try:
            motions = {name: believable(part) for name, part in parts.items()}
            checked = self._passage.check(motions, stamp_s, self._ros_s())
        except LateError as error:
            self._refuse(str(error))
        except JumpError as error:
            self._refuse(str(error))
            if self._jumps.failed():
                self._hold(f"{self._jumps.count} motions in a row do not begin where the arms are: {error}", "gate")
        except (TrajectoryError, ObservationError) as error:
            self._refuse(str(error))
            self._hold(f"an illegal motion came: {error}", "gate")
        else:
            for name, motion in checked.items():  # what was checked goes out, not what came
                self._outputs[name].publish(conversions.trajectory_message(motion, message.header.stamp))
            self._passage.passed(checked, stamp_s)
            self._jumps.succeeded()
            self._passed += 1

    def _refuse(self, reason: str) -> None:
        reason = conversions.printable(reason)  # it may quote names from the message
        self._refused += 1
        if reason != self._last_refusal:
            self.get_logger().warning(f"Refused a motion: {reason}", throttle_duration_sec=1.0)
        self._last_refusal = reason

    def _refuse_inactive(self, source: Mode) -> None:
        """A teleoperation source may send all the time; only while it has the arms are its motions counted as refused."""
        who = {Mode.AUTO: "the policy's motions pass", Mode.TAKEOVER: "the teleoperation source's motions pass"}
        mode = self._modes.mode
        reason = f"The mode is {mode.name}: {who.get(mode, self._modes.state.reason)}."
        if source is Mode.AUTO:
            self._refuse(reason)
        else:
            self.get_logger().info(f"Ignored a teleoperation motion: {reason}", throttle_duration_sec=5.0)

    # -- services

    def _on_hold(self, request: Hold.Request, response: Hold.Response) -> Hold.Response:
        try:
            response.message = self._hold(request.reason or "operator", request.who or "operator").message
        finally:  # whatever fails after the change of mode: the hold is in force, and the operator must know its number
            response.accepted, response.hold_id = self._modes.holding, self._modes.state.hold_id
        return response

    def _on_resume(self, request: Resume.Request, response: Resume.Response) -> Resume.Response:
        causes, held_since_s = self._watch.causes(), self._modes.state.since_s
        answer = self._modes.resume(self._ros_s(), request.hold_id, request.who, causes)
        if answer.changed:
            self._begin_anew(held_since_s)
        self._tell(answer)
        response.accepted, response.message, response.causes = answer.accepted, answer.message, list(answer.causes)
        return response

    def _on_set_mode(self, request: SetMode.Request, response: SetMode.Response) -> SetMode.Response:
        before = self._modes.state
        answer = self._modes.set_mode(self._ros_s(), request.mode, request.reason, request.who, self._watch.causes())
        if answer.changed and before.mode is Mode.HOLD:
            self._begin_anew(before.since_s)
        elif answer.changed:
            answer = self._stopped(answer)
        self._tell(answer)
        state = self._modes.state
        response.accepted, response.message = answer.accepted, answer.message
        response.mode, response.hold_id = int(state.mode), state.hold_id
        return response

    def _begin_anew(self, held_since_s: float) -> None:
        """After a hold that outlasted its stop the arms may have been moved: the next motion starts from what is reported."""
        if self._ros_s() - held_since_s > LONGEST_STOP_S + self._values.hold_lead_s:
            self._passage.forget()
        self._jumps.succeeded()

    # -- hold

    def _hold(self, reason: str, who: str) -> Answer:
        answer = self._modes.hold(self._ros_s(), reason, who)
        if answer.changed:
            answer = self._stopped(answer)
            self._tell(answer)
        return answer

    def _stopped(self, answer: Answer) -> Answer:
        """Send the stop that belongs to a change of mode; where none can be sent, the answer says so."""
        try:
            problem = self._stop_arms()
        except Exception as error:
            self._exceptions += 1
            problem = f"No stop was sent ({type(error).__name__}: {error}); what is on the wire ends at rest by itself."
            self.get_logger().error(problem)
        return replace(answer, message=f"{answer.message} {problem}".rstrip())

    def _hold_safely(self, reason: str) -> None:
        """For use where something has already gone wrong: whatever else fails, the mode is HOLD afterwards."""
        try:
            self._hold(reason, "gate")
        except Exception as error:
            self.get_logger().error(f"The stop could not be sent ({type(error).__name__}: {error}); nothing passes any more.")

    def _stop_arms(self) -> str:
        """Both arms to rest inside their limits, now; returns why not. What was waiting for its other half is dropped."""
        for pairing in self._pairings.values():
            pairing.clear()
        now_s = self._ros_s()
        motions = self._passage.stop(now_s, self._values.hold_lead_s)
        if motions is None:
            return "No stop was sent: nothing is known of the arms yet. Nothing passes to them."
        stamp = conversions.stamp(now_s)
        for name, motion in motions.items():
            self._outputs[name].publish(conversions.trajectory_message(motion, stamp))
        self._passage.passed(motions, now_s)
        return ""

    # -- supervision

    def _tick(self) -> None:
        for source, pairing in self._pairings.items():
            for unpaired in pairing.expired(time.monotonic()):
                if self._modes.mode is not source:
                    self._refuse_inactive(source)
                    continue
                self._refuse(
                    f"Only the part of {', '.join(unpaired.came)} came within {self._values.pair_timeout_s:g} s, "
                    f"{', '.join(unpaired.missing)} is missing: both arms or none."
                )
        causes = self._watch.causes()
        if causes and not self._modes.holding:
            self._hold(causes[0], "gate")
        if self._wait_for_robot and not causes:
            self._begin_by_itself()
        self._publish_status(causes)

    def _begin_by_itself(self) -> None:
        """start_mode auto: the start-up hold ends when the robot is there, unless someone else asked for a hold meanwhile."""
        self._wait_for_robot = False
        if self._modes.state.hold_id == 1 and self._modes.counts.repeated_holds == 0:
            self._tell(self._modes.resume(self._ros_s(), 1, "gate", []))

    def _tell(self, answer: Answer) -> None:
        """One log line and one status message per change."""
        if answer.changed and self._modes.holding:
            self.get_logger().warning(f"{answer.message} To go on: {self._resume_command()}")
        elif answer.changed or not answer.accepted:
            self.get_logger().info(answer.message)
        self._publish_status(self._watch.causes())

    def _resume_command(self) -> str:
        request = f"'{{hold_id: {self._modes.state.hold_id}}}'"
        return f"ros2 service call {self.get_fully_qualified_name()}/resume rdvla_ros/srv/Resume {request}"

    def _announce(self) -> None:
        way = "It ends by itself once the robot is there." if self._wait_for_robot else f"To go on: {self._resume_command()}"
        self.get_logger().warning(f"The gate holds ({self._modes.state.reason}). {way}")
        self._publish_status(self._watch.causes())

    def _publish_status(self, causes: list[str]) -> None:
        state = self._modes.state
        message = GateStatus(
            mode=int(state.mode),
            hold_id=state.hold_id,
            reason=state.reason,
            who=state.who,
            since=conversions.stamp(state.since_s),
            passed=self._passed,
            refused=self._refused,
            last_refusal=self._last_refusal,
            causes=causes,
        )
        message.header.stamp = conversions.stamp(self._ros_s())
        self._status.publish(message)

    def _ros_s(self) -> float:
        return self.get_clock().now().nanoseconds / conversions.NANOSECONDS

    def close(self) -> None:
        """The hold is the last message on the wire: sent, and waited for until the controllers have it."""
        self._hold_safely("the gate shuts down")
        for output in self._outputs.values():
            output.wait_for_all_acked(Duration(seconds=ACKNOWLEDGE_S / len(self._outputs)))


def main(args: list[str] | None = None) -> int:
    return process.run(GateNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
