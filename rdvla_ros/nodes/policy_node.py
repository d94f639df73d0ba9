"""policy_node: from synchronised observations to one trajectory per arm and one Convergence per decision.

A lifecycle node. configure loads the robot description and the checkpoint, activate begins to decide. When to decide and
what a chunk joins is control/chunk, how it becomes a legal motion control/trajectory; here they are wired to topics.
Whatever is in doubt publishes nothing: the trajectory on the wire ends at rest by itself.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, QoSReliabilityPolicy

from rdvla_ros.msg import Convergence
from rdvla_ros.nodes import conversions, process
from rdvla_ros.nodes.complaints import Complaints
from rdvla_ros.nodes.controller_states import ArmStates
from rdvla_ros.nodes.gate_peer import GatePeer
from rdvla_ros.nodes.inputs import Inputs
from rdvla_ros.nodes.motions import Motions
from rdvla_ros.nodes.parameters import declare
from rdvla_ros.nodes.policy_loading import horizon_rule, load_policy
from rdvla_ros.nodes.policy_parameters import PolicyParameters
from rdvla_ros.nodes.synchronizer import Matched, Moment, Options, free_running_slop_s
from rdvla_ros.nodes.worker import ThreadWorker
from rdvla_ros.robot import RobotDescription
from rdvla_ros.srv import SetInstruction
from rdvla_ros.types import Decision, Observation, RdvlaError, TrajectoryError

TICK_S = 0.1  # how often missing inputs are looked for
SILENCE_S = 1.0  # a stream is reported after this time without a usable message
SLOW_S = 5.0  # a decision that takes longer is reported while it runs
CLOSE_S = 1.0  # at shutdown, a running decision may take this long to end
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


@dataclass(frozen=True)
class Asked:
    """One decision that was begun. epoch: of the node; a result of an earlier one (before a hold, say) moves nothing."""

    observation: Observation
    begun: Moment
    epoch: int
    future: Future


class PolicyNode(LifecycleNode):
    def __init__(self, **options: Any) -> None:
        """options: of rclpy's node (context, parameter_overrides, ...)."""
        super().__init__("policy", **options)
        self._configured = self._active = False
        self._values = declare(self, PolicyParameters, on_change=self._changed, is_configured=lambda: self._configured)
        self._complaints = Complaints(self)
        self._resources: list[Any] = []  # what cleanup undoes, in reverse
        self._motions: Motions | None = None
        self._gate: GatePeer | None = None
        self._epoch = self._sequence = 0
        self._asked: Asked | None = None
        self._used: Matched | None = None
        self._held_decision_s = -np.inf
        guarded, steady = self._complaints.guarded, Clock(clock_type=ClockType.STEADY_TIME)
        self._result_ready = self.create_guard_condition(guarded(self._take_result))
        self.create_timer(TICK_S, guarded(self._tick), clock=steady)
        self.create_service(SetInstruction, "~/set_instruction", guarded(self._set_instruction))
        # rclpy raises from this service on a transition that the state does not have, and the caller would wait for ever
        self._service_change_state.callback = guarded(self._service_change_state.callback)
        if self._values.autostart:
            self._autostart = self.create_timer(0.0, guarded(self._start_by_itself), clock=steady)

    # ---- lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._configure()
        except Exception as error:
            text = str(error) if isinstance(error, RdvlaError) else f"{type(error).__name__}: {error}"
            self.get_logger().error(f"Not configured: {text}")
            self._release()
            return FAILURE
        self._configured = True
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._begin_epoch()
        self._inputs.synchronizer.flush()
        self._sequence, self._active = 0, True
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Nothing more is sent; the arms come to rest at the end of what is on the wire."""
        self._active = False
        self._begin_epoch()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return SUCCESS

    on_shutdown = on_error = on_cleanup

    def close(self) -> None:
        """At the end of the process: nothing more is published, and a running decision is waited for, but not for long."""
        self._release()

    def _start_by_itself(self) -> None:
        self.destroy_timer(self._autostart)
        if self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    def _configure(self) -> None:
        values = self._values
        if not values.robot:
            raise RdvlaError(
                "robot: expected a robot description file, got none. Pass robot:=<file>; docs/robot.md shows how to write one."
            )
        self._robot = robot = RobotDescription.load(values.robot)
        self._worker = ThreadWorker(partial(load_policy, values, robot))
        self._resources.append(partial(self._worker.close, CLOSE_S))
        policy = self._worker.loaded.result()
        self._max_age_s = values.max_observation_age_s or robot.rates.max_observation_age_s
        chunk_s = policy.contract.chunk_length * policy.contract.step_s
        if self._max_age_s >= chunk_s:
            raise RdvlaError(
                f"max_observation_age_s: expected less than the chunk's {chunk_s:g} s, got {self._max_age_s:g}: "
                "every row would be past."
            )
        self._subscribe(robot)
        self._advertise(robot, horizon_rule(values, policy))
        self.get_logger().info(
            f"Configured for {robot.name} ({len(robot.joint_names)} joints, cameras {', '.join(robot.camera_names)}) "
            f"with {values.checkpoint} ({policy.name})."
        )

    def _subscribe(self, robot: RobotDescription) -> None:
        values = self._values
        slop_s = values.slop_s or free_running_slop_s(len(robot.cameras), robot.rates.camera_hz)
        options = Options(slop_s, values.joint_gap_s, values.future_s, zero_stamps=values.zero_stamps)
        self._inputs = Inputs(self, robot, options, self._now, self._complaints.log)
        self._inputs.on_matched(self._on_matched)
        measured = partial(self._inputs.measured, self._max_age_s)
        self._arms = ArmStates(self, robot, lambda: self._now().ros_s, measured, self._complaints)
        self._resources += [self._inputs.destroy, self._arms.destroy]
        if values.gate:
            self._gate = GatePeer(self, values.gate_timeout_s, self._begin_epoch, self._on_refused, self._complaints)
            self._resources.append(self._gate.destroy)

    def _advertise(self, robot: RobotDescription, horizon: Any) -> None:
        self._motions = Motions(self, robot, self._values, self._arms, horizon)
        reliable = QoSProfile(depth=10, reliability=QoSReliabilityPolicy.RELIABLE)
        self._convergence = self.create_lifecycle_publisher(Convergence, "~/convergence", reliable)
        self._resources += [*self._motions.destroy, partial(self.destroy_lifecycle_publisher, self._convergence)]

    def _release(self) -> None:
        self._active = self._configured = False
        self._begin_epoch()
        while self._resources:
            self._complaints.guarded(self._resources.pop())()
        self._gate = None

    def _begin_epoch(self) -> None:
        """Decisions begun before this move nothing, and what was sent before is not joined."""
        self._epoch += 1
        if self._motions:
            self._motions.schedule.forget()

    # ---- deciding

    def _now(self) -> Moment:
        return Moment(time.monotonic(), self.get_clock().now().nanoseconds / 1e9)

    def _standing_back(self) -> str:
        """Why no trajectory may be sent now; empty when one may."""
        return self._gate.standing_back() if self._gate else ""

    def _on_matched(self, matched: Matched) -> None:
        self._motions.schedule.observed(self._now().ros_s)
        self._consider()

    def _consider(self) -> None:
        """Begin a decision, if one is due and nothing stands in its way."""
        matched = self._inputs.synchronizer.latest() if self._active else None
        if matched is None or matched is self._used or self._asked is not None:
            return
        now = self._now()
        if not (self._held_decision_due(now) if self._standing_back() else self._motions.schedule.due(now.ros_s)):
            return
        if (age_s := matched.age_s(now)) > self._max_age_s:
            self._complaints.say(
                "age", f"No decision: the observation is {age_s:.3f} s old, expected at most {self._max_age_s:g} s."
            )
            return
        if not self._values.instruction:
            self._complaints.say(
                "instruction", "No decision: there is no instruction. Set parameter instruction or call ~/set_instruction."
            )
            return
        self._used = matched
        observation = self._inputs.observation(matched, self._values.instruction)
        future = self._worker.submit(observation, self._values.deadline_s or None)
        self._asked = Asked(observation, now, self._epoch, future)
        future.add_done_callback(lambda _: self._result_ready.trigger())

    def _held_decision_due(self, now: Moment) -> bool:
        wanted = self._values.while_held == "decide" and not self._gate.silent()
        return wanted and now.steady_s - self._held_decision_s >= self._values.held_period_s

    def _take_result(self) -> None:
        """The worker is done: publish what became of the decision, and begin the next one if it is due already."""
        asked = self._asked
        if asked is None or not asked.future.done():
            return
        self._asked = None
        if not self._active:
            return
        if self._standing_back():
            self._held_decision_s = time.monotonic()
        try:
            decision = asked.future.result()
        except Exception as error:
            self._complaints.say(
                "failed", f"A decision failed and nothing is published: {type(error).__name__}: {error}", "error"
            )
            return
        for text in decision.notes:
            self._complaints.say(text, f"The decision says: {conversions.printable(text)}")
        self._sequence += 1
        now_s, horizon, note = self._now().ros_s, 0, ""
        self._motions.schedule.latency.add(now_s - asked.begun.ros_s)
        try:
            horizon = self._publish(decision, asked, now_s)
        except RdvlaError as error:
            note = str(error)
            self._complaints.say("unpublished", f"Decision {self._sequence} moves nothing: {note}")
        self._convergence.publish(
            conversions.convergence_message(
                decision,
                sequence=self._sequence,
                now_s=now_s,
                instruction=asked.observation.instruction,
                horizon=horizon,
                published=not note,
                note=note,
            )
        )
        self._consider()

    def _publish(self, decision: Decision, asked: Asked, now_s: float) -> int:
        """Send the arms' trajectories and return the rows they execute; an RdvlaError says why nothing is sent."""
        if reason := self._standing_back():
            raise TrajectoryError(f"Not sent: {reason}.")
        if asked.epoch != self._epoch:
            raise TrajectoryError("Not sent: a hold or a new start came during the decision.")
        return self._motions.send(decision, now_s, publish_unconverged=self._values.publish_unconverged)

    def _on_refused(self, reason: str) -> None:
        self._motions.schedule.refused()
        self._complaints.say("refused", f"The gate refused a decision: {reason}")

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
            self._complaints.say(sentence.split(":")[0], sentence)
        if self._gate:
            self._gate.complain_if_silent()
        if self._asked and (running_s := self._now().steady_s - self._asked.begun.steady_s) > SLOW_S:
            self._complaints.say("slow", f"A decision has been running for {running_s:.1f} s.")


def main(args: list[str] | None = None) -> None:
    process.leave(process.run(PolicyNode, args))


if __name__ == "__main__":
    main()
