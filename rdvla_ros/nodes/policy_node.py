"""policy_node: from synchronised observations to one trajectory per arm and one Convergence per decision.

A lifecycle node. configure loads the robot description and the checkpoint, activate begins to decide. When to decide and
what a chunk joins is control/chunk, how it becomes a legal motion control/trajectory; here they are wired to topics.
Whatever is in doubt publishes nothing: the trajectory on the wire ends at rest by itself.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from trajectory_msgs.msg import JointTrajectory

from rdvla_ros.control.chunk import Latency, Present, Schedule, rows_left
from rdvla_ros.control.limits import JointLimits
from rdvla_ros.control.trajectory import PlanOptions, Trajectory, plan
from rdvla_ros.msg import Convergence, GateStatus
from rdvla_ros.nodes import conversions, process
from rdvla_ros.nodes.controller_states import ControllerStates, commanded
from rdvla_ros.nodes.inputs import Inputs, qos_events
from rdvla_ros.nodes.parameters import declare
from rdvla_ros.nodes.policy_loading import horizon_rule, load_policy
from rdvla_ros.nodes.policy_parameters import PolicyParameters
from rdvla_ros.nodes.synchronizer import Matched, Moment, Options
from rdvla_ros.nodes.worker import ThreadWorker
from rdvla_ros.robot import Arm, RobotDescription
from rdvla_ros.srv import SetInstruction
from rdvla_ros.types import Decision, Observation, RdvlaError, StopReason, TrajectoryError

TICK_S = 0.1  # how often missing inputs are looked for
SILENCE_S = 1.0  # a stream is reported after this time without a usable message
WARN_PERIOD_S = 3.0  # the same warning is repeated at most this often
CLOSE_S = 1.0  # a running decision may take this long to end at shutdown
STATE_AGE_S = 0.5  # a controller's report of what it commands is good for this long


@dataclass(frozen=True)
class Asked:
    """One decision that was begun. epoch: of the node; a result of an earlier one (before a hold, say) moves nothing."""

    observation: Observation
    begun: Moment
    epoch: int
    future: Future


class PolicyNode(LifecycleNode):
    def __init__(self) -> None:
        super().__init__("policy")
        self._configured = self._active = False
        self._values = declare(self, PolicyParameters, on_change=self._changed, is_configured=lambda: self._configured)
        self._epoch = self._sequence = 0
        self._asked: Asked | None = None
        self._used: Matched | None = None
        self._gate: tuple[float, GateStatus] | None = None
        self._warned: dict[str, float] = {}
        self._resources: list[Callable[[], Any]] = []  # what cleanup undoes, in reverse
        self._result_ready = self.create_guard_condition(self._guarded(self._take_result))
        self.create_timer(TICK_S, self._guarded(self._tick), clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.create_service(SetInstruction, "~/set_instruction", self._set_instruction)
        # rclpy raises from this service on a transition that the state does not have, and the caller would wait for ever
        self._service_change_state.callback = self._guarded(self._service_change_state.callback)
        if self._values.autostart:
            self._autostart = self.create_timer(0.0, self._guarded(self._start_by_itself), clock=Clock(clock_type=ClockType.STEADY_TIME))

    # ---- lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._configure()
        except Exception as error:
            text = str(error) if isinstance(error, RdvlaError) else f"{type(error).__name__}: {error}"
            self.get_logger().error(f"Not configured: {text}")
            self._release()
            return TransitionCallbackReturn.FAILURE
        self._configured = True
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._begin_epoch()
        self._inputs.synchronizer.flush()
        self._active = True
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Nothing more is sent; the arms come to rest at the end of what is on the wire."""
        self._active = False
        self._begin_epoch()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """At the end of the process: nothing more is published, and a running decision is waited for, but not for long."""
        self._release()

    def _start_by_itself(self) -> None:
        self.destroy_timer(self._autostart)
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def _configure(self) -> None:
        values = self._values
        if not values.robot:
            raise RdvlaError("robot: expected a robot description file, got none. Pass robot:=<file>; docs/robot.md shows how to write one.")
        self._robot = robot = RobotDescription.load(values.robot)
        self._worker = worker = ThreadWorker(partial(load_policy, values, robot))
        self._resources.append(lambda: worker.close(CLOSE_S))
        policy = worker.loaded.result()
        self._horizon = horizon_rule(values, policy)
        chunk_s = policy.contract.chunk_length * policy.contract.step_s
        self._max_age_s = values.max_observation_age_s or robot.rates.max_observation_age_s
        if self._max_age_s >= chunk_s:
            raise RdvlaError(f"max_observation_age_s: expected less than the chunk's {chunk_s:g} s, got {self._max_age_s:g}: every row would be past.")
        self._limits = JointLimits.of_robot(robot)
        self._plan_options = PlanOptions(stop_s=values.stop_s, may_lag=robot.gripper_joints)
        self._schedule = Schedule(Latency(values.first_latency_s), lead_s=values.lead_s, observation_period_s=1.0 / robot.rates.camera_hz)
        self._subscribe(robot)
        self._advertise(robot)
        self.get_logger().info(f"Configured for {robot.name}: {len(robot.joint_names)} joints, cameras {', '.join(robot.camera_names)}, checkpoint {values.checkpoint}")

    def _subscribe(self, robot: RobotDescription) -> None:
        values = self._values
        slop_s = values.slop_s or 0.5 / robot.rates.camera_hz
        options = Options(slop_s, values.joint_gap_s, values.future_s, zero_stamps=values.zero_stamps)
        self._inputs = inputs = Inputs(self, robot, options, self._now, self._log)
        inputs.on_matched(self._on_matched)
        self._resources.append(inputs.destroy)
        self._commanded: dict[str, tuple[float, Any]] = {}
        states = ControllerStates(self, robot, self._guarded(self._on_controller_state))
        self._resources.append(states.destroy)
        if values.gate:
            qos = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.RELIABLE, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
            callback, events = self._guarded(self._on_gate_status), qos_events(self, "/gate/status")
            subscription = self.create_subscription(GateStatus, "/gate/status", callback, qos, event_callbacks=events)
            self._resources.append(lambda: self.destroy_subscription(subscription))

    def _advertise(self, robot: RobotDescription) -> None:
        reliable = partial(QoSProfile, reliability=QoSReliabilityPolicy.RELIABLE)
        self._trajectories = {
            arm.name: self.create_lifecycle_publisher(JointTrajectory, f"~/{arm.name}/joint_trajectory", reliable(depth=1)) for arm in robot.arms
        }
        self._convergence = self.create_lifecycle_publisher(Convergence, "~/convergence", reliable(depth=10))
        for publisher in (*self._trajectories.values(), self._convergence):
            self._resources.append(partial(self.destroy_lifecycle_publisher, publisher))

    def _release(self) -> None:
        self._active = self._configured = False
        self._begin_epoch()
        while self._resources:
            try:
                self._resources.pop()()
            except Exception as error:
                self.get_logger().error(f"While cleaning up: {type(error).__name__}: {error}")

    def _begin_epoch(self) -> None:
        """Decisions begun before this move nothing, and what was sent before is not joined."""
        self._epoch += 1
        if hasattr(self, "_schedule"):
            self._schedule.forget()

    # ---- input

    def _now(self) -> Moment:
        return Moment(time.monotonic(), self.get_clock().now().nanoseconds / 1e9)

    def _on_gate_status(self, status: GateStatus) -> None:
        before = self._gate[1] if self._gate else None
        self._gate = (time.monotonic(), status)
        if before is None or before.mode != status.mode or before.hold_id != status.hold_id:
            self._begin_epoch()
        elif status.mode == GateStatus.AUTO and status.refused > before.refused:
            self._schedule.refused()
            self._warn("refused", f"The gate refused a decision: {conversions.printable(status.last_refusal)}")

    def _on_controller_state(self, arm: Arm, message: Any) -> None:
        reference = commanded(message, arm)
        if reference is not None:
            self._commanded[arm.name] = (self._now().ros_s, reference)

    def _present(self, now_s: float) -> Present:
        """The state of all arms as the controllers report it, or, where one does not, as it is measured."""
        tolerance = 0.05 * self._limits.velocity
        reports = [self._commanded.get(arm.name) for arm in self._robot.arms]
        if all(report is not None and abs(now_s - report[0]) <= STATE_AGE_S for report in reports):
            position = np.concatenate([reference.position for _, reference in reports])
            velocity = np.concatenate([reference.velocity for _, reference in reports])
            return Present(position, velocity, tolerance, min(at_s for at_s, _ in reports), commanded=True)
        measured = self._inputs.measured()
        grippers = np.isin(self._robot.joint_names, self._robot.gripper_joints)  # a gripper that holds something is not where it was sent
        return Present(measured, np.zeros_like(measured), np.where(grippers, np.inf, tolerance), now_s, commanded=False)

    # ---- deciding

    def _on_matched(self, matched: Matched) -> None:
        self._consider()

    def _consider(self) -> None:
        """Begin a decision, if one is due and nothing stands in its way."""
        matched = self._inputs.synchronizer.latest() if self._active else None
        if matched is None or matched is self._used or self._asked is not None:
            return
        now = self._now()
        if not (self._held_decision_due(now) if self._standing_back() else self._schedule.due(now.ros_s)):
            return
        if (age_s := matched.age_s(now)) > self._max_age_s:
            self._warn("age", f"No decision: the observation is {age_s:.3f} s old, expected at most {self._max_age_s:g} s.")
            return
        if not self._values.instruction:
            self._warn("instruction", "No decision: there is no instruction. Set parameter instruction or call ~/set_instruction.")
            return
        self._used = matched
        observation = self._inputs.observation(matched, self._values.instruction)
        future = self._worker.submit(observation, self._values.deadline_s or None)
        self._asked = Asked(observation, now, self._epoch, future)
        future.add_done_callback(lambda _: self._result_ready.trigger())

    def _standing_back(self) -> str:
        """Why no trajectory may be sent now; empty when one may."""
        if not self._values.gate:
            return ""
        if self._gate is None or time.monotonic() - self._gate[0] > self._values.gate_timeout_s:
            return "the gate is silent"
        status = self._gate[1]
        names = {GateStatus.HOLD: "holds", GateStatus.TAKEOVER: "passes the teleoperation source"}
        return "" if status.mode == GateStatus.AUTO else f"the gate {names.get(status.mode, 'is in an unknown mode')}: {conversions.printable(status.reason)}"

    def _held_decision_due(self, now: Moment) -> bool:
        wanted = self._values.while_held == "decide" and self._gate is not None
        return wanted and now.steady_s - self._warned.get("held decision", -np.inf) >= self._values.held_period_s

    def _take_result(self) -> None:
        asked = self._asked
        if asked is None or not asked.future.done():
            return
        self._asked = None
        if self._standing_back():
            self._warned["held decision"] = time.monotonic()
        if not self._active:
            return
        try:
            decision = asked.future.result()
        except Exception as error:
            self._warn("failed", f"A decision failed and nothing is published: {type(error).__name__}: {error}", error=True)
            return
        self._sequence += 1
        now_s = self._now().ros_s
        horizon, note = 0, ""
        try:
            horizon = self._publish(decision, asked, now_s)
        except RdvlaError as error:
            note = str(error)
            self._warn("unpublished", f"Decision {self._sequence} moves nothing: {note}")
        self._convergence.publish(
            conversions.convergence_message(
                decision, sequence=self._sequence, now_s=now_s, instruction=asked.observation.instruction, horizon=horizon, published=not note, note=note
            )
        )
        self._consider()

    def _publish(self, decision: Decision, asked: Asked, now_s: float) -> int:
        """Send both arms' trajectories and return the rows they execute; an RdvlaError says why nothing is sent."""
        if decision.stop_reason == StopReason.NON_FINITE or not np.isfinite(decision.chunk.positions).all():
            raise TrajectoryError("The decision is not finite.")
        if reason := self._standing_back():
            raise TrajectoryError(f"Not sent: {reason}")
        if asked.epoch != self._epoch:
            raise TrajectoryError("Not sent: a hold or a new start came during the decision.")
        if decision.stop_reason == StopReason.ITERATION_LIMIT and not self._values.publish_unconverged:
            raise TrajectoryError(f"Not settled within {decision.limit} iterations, and publish_unconverged is false.")
        chunk, lead_s = decision.chunk, self._values.lead_s
        wanted = self._horizon.steps(decision.iterations, len(chunk.positions), decision.step_change)
        elapsed_s = now_s - chunk.stamp_s
        present = self._present(now_s)
        trajectory = plan(
            self._robot.from_policy(chunk.positions), step_s=chunk.step_s, elapsed_s=elapsed_s, horizon=wanted, limits=self._limits, lead_s=lead_s,
            start=self._schedule.reference(now_s + lead_s, present), now=self._schedule.reference(now_s, present), options=self._plan_options,
        )  # fmt: skip
        self._send(trajectory, now_s)
        self._schedule.latency.add(now_s - asked.begun.ros_s)
        return min(wanted, rows_left(len(chunk.positions), chunk.step_s, elapsed_s, lead_s))

    def _send(self, trajectory: Trajectory, now_s: float) -> None:
        stamp = conversions.stamp(now_s)  # one time base for all arms: the gate pairs them by it
        messages = {arm.name: conversions.trajectory_message(trajectory.select(arm.joint_names), stamp) for arm in self._robot.arms}
        for name, message in messages.items():
            self._trajectories[name].publish(message)
        self._schedule.sent(trajectory, now_s, self._values.stop_s)

    # ---- operator

    def _changed(self, values: PolicyParameters) -> None:
        self._values = values

    def _set_instruction(self, request: SetInstruction.Request, response: SetInstruction.Response) -> SetInstruction.Response:
        problem = conversions.instruction_problem(request.instruction)
        if not problem:
            result = self.set_parameters([Parameter("instruction", value=request.instruction)])[0]
            problem = "" if result.successful else result.reason
        response.accepted, response.instruction = not problem, self._values.instruction
        response.message = f"Refused: {problem}. The instruction stays as it was." if problem else "The next decision follows it."
        return response

    def _tick(self) -> None:
        """Say what is missing. Decisions begin with observations, not here: a late tick makes no burst."""
        if not self._active:
            return
        for sentence in self._inputs.missing(SILENCE_S):
            self._warn(sentence.split(":")[0], sentence[0].upper() + sentence[1:])
        if self._values.gate and self._standing_back() == "the gate is silent":
            publishers = self.count_publishers("/gate/status")
            self._warn("gate", f"Waiting for /gate/status: publishers: {publishers}. Without a gate, pass gate:=false.")
        if self._asked and self._now().steady_s - self._asked.begun.steady_s > 5.0:
            self._warn("slow", f"A decision has been running for {self._now().steady_s - self._asked.begun.steady_s:.1f} s.")

    def _log(self, severity: str, text: str) -> None:
        if severity == "error":  # rclpy ties a severity to each line that logs
            self.get_logger().error(text)
        else:
            self.get_logger().warning(text)

    def _warn(self, key: str, text: str, error: bool = False) -> None:
        """At most once per WARN_PERIOD_S and key."""
        now_s = time.monotonic()
        if now_s - self._warned.get(key, -np.inf) >= WARN_PERIOD_S:
            self._warned[key] = now_s
            self._log("error" if error else "warning", text)

    def _guarded(self, callback: Callable) -> Callable:
        """A callback that raises is reported; it ends neither the spin loop nor, for a service, the caller's wait."""

        def guarded(*args: Any) -> Any:
            try:
                return callback(*args)
            except Exception as error:
                self._warn(f"raised {callback}", f"{getattr(callback, '__name__', callback)} failed: {type(error).__name__}: {error}", error=True)
                return args[-1] if len(args) == 2 else None

        return guarded


def main(args: list[str] | None = None) -> None:
    sys.exit(process.run(PolicyNode, args))


if __name__ == "__main__":
    main()
