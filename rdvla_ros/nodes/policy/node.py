"""policy_node: from synchronised observations to one trajectory per arm and one Convergence per decision.

A lifecycle node. configure loads the robot description and the checkpoint, activate begins to decide. When to decide and
what a chunk joins is control/chunk, how it becomes a legal motion control/trajectory; here they are wired to topics.
Whatever is in doubt publishes nothing: the trajectory on the wire ends at rest by itself.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidHandle
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from rdvla_ros.control.supervision.clock import ClockWatch
from rdvla_ros.control.supervision.freshness import StallWatch
from rdvla_ros.control.supervision.policy_halts import PolicyHalts
from rdvla_ros.msg import Convergence, GateStatus
from rdvla_ros.nodes.common import conversions, names, qos
from rdvla_ros.nodes.common.controller_states import ArmStates
from rdvla_ros.nodes.common.executor import WAIT_SET
from rdvla_ros.nodes.common.guard import NUMBER, Guard
from rdvla_ros.nodes.common.heartbeat import HeartbeatLink
from rdvla_ros.nodes.common.hooks import NodeHooks
from rdvla_ros.nodes.common.moment import Moment
from rdvla_ros.nodes.common.parameters import declare
from rdvla_ros.nodes.common.run import leave, run
from rdvla_ros.nodes.policy.alarm_response import AlarmResponse
from rdvla_ros.nodes.policy.decision_loop import DecisionLoop, Parts
from rdvla_ros.nodes.policy.gate_client import GateLink
from rdvla_ros.nodes.policy.motion_sender import MotionSender
from rdvla_ros.nodes.policy.observations import Checks, Observations
from rdvla_ros.nodes.policy.parameters import PolicyParameters
from rdvla_ros.nodes.policy.stamped_stream import Options
from rdvla_ros.nodes.policy.synchronizer import free_running_slop_s
from rdvla_ros.nodes.policy.worker.client import ProcessWorker
from rdvla_ros.nodes.policy.worker.loading import LOAD, horizon_rule, settings
from rdvla_ros.nodes.policy.worker.supervisor import WorkerSupervisor
from rdvla_ros.robot import RobotDescription
from rdvla_ros.srv import SetInstruction
from rdvla_ros.types import RdvlaError

TICK_S = 0.1  # how often missing inputs are looked for
WATCH_S = 0.01  # how often it is looked whether all is there that moving needs
SILENCE_S = 1.0  # a stream is reported after this time without a usable message
PAUSE_AFTER_S = 0.1  # inputs this much older than they may be for a decision stop moving arms, where no parameter says otherwise
CLOSE_S = 0.5  # at shutdown, a running decision may take this long to end
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class PolicyNode(NodeHooks, LifecycleNode):
    RECEIVES_IMAGES = True
    EXECUTOR = WAIT_SET  # its cleanup destroys what events may wait for
    load = LOAD  # what the decision process runs

    def __init__(self, **options: Any) -> None:
        """options: of rclpy's node (context, parameter_overrides, ...)."""
        super().__init__(names.POLICY, **options)
        self._configured = self._active = False
        self._values = declare(self, PolicyParameters, on_change=self._changed, is_configured=lambda: self._configured)
        self._guard = Guard(self)
        self._resources: list[Any] = []  # what cleanup undoes, in reverse
        self._deciding: DecisionLoop | None = None
        self._keeper: WorkerSupervisor | None = None
        self._gate: GateLink | None = None
        self._halts = PolicyHalts(healthy_s=self._values.healthy_s, hold_after_s=self._values.longest_pause_s)
        self._clock_watch, self._stall = ClockWatch(), StallWatch(self._values.stall_s)
        peers = {names.GATE_HEARTBEAT: self._values.gate_heartbeat_s} if self._values.gate else {}
        self._heart = HeartbeatLink(
            self,
            peers,
            causes=self._causes,
            on_watch=self._watch_gate,
            alive_s={names.GATE_HEARTBEAT: self._values.gate_alive_s},
            yields=lambda: not self._active,
        )
        guarded, steady = self._guard.wrap, Clock(clock_type=ClockType.STEADY_TIME)
        self._result_ready = self.create_guard_condition(guarded(self._take_result))
        self.create_timer(TICK_S, guarded(self._tick), clock=steady)
        self.create_timer(WATCH_S, guarded(self._watch), clock=steady)
        self.create_service(SetInstruction, "~/set_instruction", guarded(self._set_instruction))
        # rclpy raises from this service on a transition that the state does not have, and the caller would wait for ever
        self._service_change_state.callback = guarded(self._service_change_state.callback)
        if self._values.autostart:
            self._autostart = self.create_timer(0.0, guarded(self._start_by_itself), clock=steady)
        self._guard.then = self._hold  # a node with a bug: who knows what it will send next
        self._heart.side.guard.then = self._heart.ask_for_hold  # in another thread: the gate holds
        self._heart.start()

    # ---- lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            with self._heart.busy("loading the policy"):
                self._configure()
        except Exception as error:
            text = str(error) if isinstance(error, RdvlaError) else f"{type(error).__name__}: {error}"
            self.get_logger().error(f"Not configured: {text}")
            self._release()
            return FAILURE
        self._configured = True
        gc.collect()
        gc.freeze()  # what is there now stays: no collection walks through it while the arms move
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        if duplicate := self._heart.duplicate(time.monotonic()):
            self.get_logger().error(f"Not activated: {duplicate}")
            return FAILURE
        self._halts.lifted()
        self._heart.hold = ""
        self._stall.stood_still_for(time.monotonic())  # loading was no stall
        now = self._now()
        self._inputs.look()
        self._halts.look(self._what_is_wrong(now), now.steady_s)  # `_watch` does, but a decision may come before it
        self._deciding.begin()
        self._active = True
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Nothing more is sent; the arms come to rest at the end of what is on the wire."""
        self._stop_deciding()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return SUCCESS

    on_shutdown = on_error = on_cleanup

    def close(self) -> None:
        """At the end of the process. Without a gate the last that is published is the arms' stop; with one, its silence is. A
        running decision is waited for, but not for long."""
        if self._active and not self._gate:
            self._guard.wrap(self._stop_here)()
        self._heart.close()
        self._release()

    def destroy_node(self) -> None:
        """rclpy's state machine keeps the middleware's node, and the process ends without taking the interpreter apart: others
        would see the policy in the graph until its lease ends."""
        self._heart.close()
        super().destroy_node()
        with contextlib.suppress(InvalidHandle):  # destroyed before
            self._state_machine.destroy_when_not_in_use()

    def on_escaped(self, sentence: str) -> None:
        self._hold(sentence)

    def _start_by_itself(self) -> None:
        """Nobody waits to configure it a second time: one that cannot be configured ends its process, and so the launch."""
        self.destroy_timer(self._autostart)
        if self.trigger_configure() == SUCCESS:
            self.trigger_activate()
        else:
            self.failed = "The policy was expected to be configured at its start (autostart) and was not; its log says why."

    def _configure(self) -> None:
        values = self._values
        if not values.robot:
            raise RdvlaError(
                "robot: expected a robot description file, got none. Pass robot:=<file>; docs/robot.md shows how to write one."
            )
        self._robot = robot = RobotDescription.load(values.robot).in_namespace(self.get_namespace())
        self._max_age_s = values.max_observation_age_s or robot.rates.max_observation_age_s
        self._pause_after_s = values.pause_after_s or self._max_age_s + PAUSE_AFTER_S
        self._keeper = self._started_worker(robot)
        policy = self._keeper.loaded(values.load_timeout_s)
        chunk_s = policy.chunk_length * policy.step_s
        if self._max_age_s >= chunk_s:
            raise RdvlaError(
                f"max_observation_age_s: expected less than the chunk's {chunk_s:g} s, got {self._max_age_s:g}: "
                "every row would be past."
            )
        self._subscribe(robot, policy.sensor_names)
        self._advertise(robot, horizon_rule(values, policy.horizon))
        self.get_logger().info(
            f"Configured for {robot.name} ({len(robot.joint_names)} joints, cameras {', '.join(robot.camera_names)}) "
            f"with {values.checkpoint} ({policy.name})."
        )

    def _started_worker(self, robot: RobotDescription) -> WorkerSupervisor:
        """The process that decides, which begins to load. `load` stands in for the policy's own in tests."""
        values = self._values
        cameras = [(camera.name, camera.height, camera.width) for camera in robot.cameras]
        start = partial(ProcessWorker, self.load, settings(values, robot), cameras)
        limits = {"timeout_s": values.decision_timeout_s, "load_timeout_s": values.load_timeout_s}
        keeper = WorkerSupervisor(start, now_s=time.monotonic(), **limits)
        self._resources.append(partial(keeper.close, CLOSE_S))
        return keeper

    def _subscribe(self, robot: RobotDescription, sensors: Sequence[str]) -> None:
        values = self._values
        slop_s = values.slop_s or free_running_slop_s(len(robot.cameras), robot.rates.camera_hz)
        options = Options(slop_s, values.joint_gap_s, values.future_s, zero_stamps=values.zero_stamps)
        checks = Checks(values.frozen_frames, values.corrupt_images, values.joint_jump_factor, values.joint_merge_s)
        self._inputs = Observations(self, robot, options, checks, self._now, self._guard.log, self._on_contradiction, sensors)
        measured = partial(self._inputs.measured, self._max_age_s)
        self._arms = ArmStates(self, robot, lambda: self._now().ros_s, measured, self._guard)
        self._resources += [self._inputs.destroy, self._arms.destroy]
        if values.gate:
            callbacks = (self._on_gate, self._on_refused, self._guard)
            self._gate = GateLink(self, values.gate_timeout_s, *callbacks, self._heart)
            self._resources.append(self._gate.destroy)

    def _advertise(self, robot: RobotDescription, horizon: Any) -> None:
        delay_s = self._gate.delivery_delay_s if self._gate else lambda: 0.0
        self._motions = MotionSender(self, robot, self._values, self._arms, horizon, delay_s)
        convergence = self.create_lifecycle_publisher(Convergence, "~/convergence", qos.RELIABLE)
        self._resources += [*self._motions.destroy, partial(self.destroy_lifecycle_publisher, convergence)]
        alarm = AlarmResponse(self, self._values.on_alarm, self._values.alarm_after, self._guard)
        self._motions.shortened = alarm.horizon
        self._resources.append(alarm.destroy)
        parts = Parts(
            inputs=self._inputs,
            motions=self._motions,
            keeper=self._keeper,
            gate=self._gate,
            guard=self._guard,
            now=self._now,
            values=lambda: self._values,
            result_ready=self._result_ready.trigger,
            publish=convergence.publish,
            alarm=alarm,
        )
        self._deciding = DecisionLoop(parts, self._halts, self._hold, self._max_age_s)
        self._inputs.on_matched(self._guard.wrap(self._deciding.on_matched))

    def _take_result(self) -> None:
        if self._deciding:
            self._look_at_time(self._now())
            self._deciding.take_result()

    def _stop_deciding(self) -> None:
        self._active = False
        if self._deciding:
            self._deciding.active = False
            self._deciding.new_epoch()

    def _release(self) -> None:
        self._configured = False
        self._stop_deciding()
        while self._resources:
            self._guard.wrap(self._resources.pop())()
        self._gate = self._keeper = self._deciding = None

    # ---- clocks, gate, and what keeps the arms from being moved

    def _now(self) -> Moment:
        return Moment(time.monotonic(), self.get_clock().now().nanoseconds / 1e9)

    def _on_gate(self, before: int | None, mode: int) -> None:
        """Another mode, or another hold. What the gate has stopped is not joined; a resume lifts what was held here."""
        self._deciding.new_epoch()
        if mode == GateStatus.AUTO and before != GateStatus.PAUSE:
            self._halts.lifted()
            self._deciding.believe()

    def _watch_gate(self, now_s: float) -> None:
        """Beside the callbacks, whatever these do."""
        if gate := self._gate:
            gate.watch(now_s)

    def _on_refused(self, reason: str) -> None:
        self._deciding.refused()
        self._guard.report("refused", f"The gate refused a decision: {reason}")

    def _on_contradiction(self, sentence: str) -> None:
        """While nothing is moved, input that is wrong only makes no decision."""
        if self._halts.moving:
            self._hold(sentence)

    def _hold(self, reason: str) -> None:
        """The arms rest until an operator resumes (without a gate: until the node is activated again)."""
        if not self._active or not self._halts.hold(reason):
            return
        self._say_hold(reason)
        self._come_to_rest()

    def _say_hold(self, reason: str) -> None:
        self.get_logger().error(f"Hold: {conversions.printable(reason)}")

    def _come_to_rest(self) -> None:
        """With a gate, the gate stops the arms, told by the next heartbeat; without one, a motion of our own does."""
        self._deciding.new_epoch() if self._gate else self._guard.wrap(self._stop_here)()
        if self._gate and self._halts.holding and not self._gate.holds():
            self._heart.ask_for_hold(self._halts.holding)

    def _stop_here(self) -> None:
        try:
            if not self._motions.schedule.resting(self._now().ros_s):
                self._motions.stop(self._now().ros_s)
        finally:
            self._deciding.new_epoch()

    def _causes(self) -> tuple[str, ...]:
        """For the heartbeat, whose thread calls this: what keeps this node from moving the arms."""
        if not self._active:
            return ("The policy is not active.",)
        return self._halts.causes

    def _watch(self) -> None:
        """Every WATCH_S: is there still all that moving the arms needs?"""
        now = self._now()
        if lost := self._keeper.watch(now.steady_s) if self._keeper else "":
            self._guard.report("worker", lost, "error")
            self._hold(lost)
        if not self._active:
            self._stall.stood_still_for(now.steady_s)
            return
        if elder := self._heart.older_duplicate(now.steady_s):  # the discovery was slower than the activation
            self.get_logger().error(f"Deactivated: {elder}")
            self.trigger_deactivate()
            return
        self._look_at_time(now)
        began = self._halts.look(self._what_is_wrong(now), now.steady_s)
        if began == "hold":
            self._say_hold(self._halts.holding)
        elif began:
            self._guard.report("pause", f"Pause: {conversions.printable(self._halts.pausing)}")
        if began:
            self._come_to_rest()

    def _look_at_time(self, now: Moment) -> None:
        """What was begun before the clock jumped, or before this process stood still, moves nothing."""
        if jump := self._clock_watch.look(now.ros_s, now.steady_s, self._simulated()):
            self._guard.report("clock", f"{jump} All inputs and decisions from before are dropped.", "error")
            self._inputs.synchronizer.flush()
            self._deciding.new_epoch()
        if gap_s := self._stall.stood_still_for(now.steady_s):
            self._guard.report("stall", f"The callbacks stood still for {gap_s:.2f} s; decisions begun before are dropped.")
            self._deciding.new_epoch()

    def _what_is_wrong(self, now: Moment) -> list[str]:
        wrong = [*self._inputs.contradictions(now), *self._inputs.too_old(now, self._pause_after_s)]
        wrong += [*self._inputs.alternating, *self._inputs.frozen(), *self._inputs.corrupt()]
        wrong += filter(None, [self._keeper.why_not(), self._deciding.unsettled, self._clock_stands(now), self._apart()])
        return wrong

    def _clock_stands(self, now: Moment) -> str:
        return self._clock_watch.standing(now.steady_s, self._simulated())

    def _simulated(self) -> bool:
        return bool(self.get_clock().ros_time_is_active)

    def _apart(self) -> str:
        """Streams whose clocks differ: told while the arms move, and no reason to stop them; but none to start them either."""
        skew, unknown = self._inputs.skew(), self._inputs.delays_unknown()
        if unknown and not self._halts.moving:
            return f"{unknown[0]}: too few messages have come yet to know how far its stamps lie behind the clock."
        if skew is None or skew.by_s <= self._values.skew_warn_s:
            return ""
        text = (
            f"The stamps of {skew.slow} lie {skew.by_s:.3f} s further back than those of {skew.fast}, expected at most "
            f"{self._values.skew_warn_s:g} s. Are the clocks of their hosts synchronised?"
        )
        self._guard.report("skew", text)
        return text if skew.by_s > self._values.skew_limit_s and not self._halts.moving else ""

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
        who, text = conversions.printable(request.who or "operator", 60), conversions.printable(request.instruction)
        self.get_logger().info(f"Instruction '{text}' by {who}: {response.message}")
        return response

    def _tick(self) -> None:
        """Say what is missing. Decisions begin with observations, not here: a late tick makes no burst."""
        if not self._active:
            return
        for sentence in self._inputs.look():
            self._on_contradiction(sentence)
        for sentence in self._inputs.missing(SILENCE_S) or self._halts.causes:
            self._guard.report(NUMBER.sub("", sentence.split(";")[0]), conversions.printable(sentence))
        if self._gate:
            self._gate.complain_if_silent()


def main(args: list[str] | None = None) -> None:
    leave(run(PolicyNode, args))


if __name__ == "__main__":
    main()
