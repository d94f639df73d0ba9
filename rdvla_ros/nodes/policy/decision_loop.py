"""From matched inputs to decisions, and from decisions to motions: when to begin one, and what becomes of it.

One decision is under way at a time, in the worker's process. Everything here runs in the node's executor and waits for nothing.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from rdvla_ros.control.supervision.input_quality import ImageFlaws, digest
from rdvla_ros.control.supervision.output_quality import ConstantOutput
from rdvla_ros.control.supervision.policy_halts import PolicyHalts
from rdvla_ros.control.supervision.watchdog import Streak
from rdvla_ros.nodes.common import conversions
from rdvla_ros.nodes.common.guard import NUMBER, Guard
from rdvla_ros.nodes.common.moment import Moment
from rdvla_ros.nodes.policy.alarm_response import AlarmResponse
from rdvla_ros.nodes.policy.gate_client import GateLink
from rdvla_ros.nodes.policy.motion_sender import MotionSender, NotNowError
from rdvla_ros.nodes.policy.observations import Observations
from rdvla_ros.nodes.policy.parameters import PolicyParameters
from rdvla_ros.nodes.policy.synchronizer import Matched
from rdvla_ros.nodes.policy.worker.protocol import WorkerError, WorkerLost
from rdvla_ros.nodes.policy.worker.supervisor import WorkerSupervisor
from rdvla_ros.types import Decision, InfeasibleError, Observation, ObservationError, RdvlaError, StopReason, TrajectoryError

INFEASIBLE_TO_HOLD = 5  # one decision too fast for the joints happens to every policy; so many in a row are a fault


@dataclass(frozen=True)
class Asked:
    """One decision that was begun. epoch: a result of an earlier one (before a hold, say) moves nothing. seen: digest of the
    images. doubts: what their decoders say about them."""

    observation: Observation
    begun: Moment
    epoch: int
    future: Future
    seen: int
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parts:
    """What deciding is made of. now(): both clocks. values(): the parameters as they are now. result_ready(): called by
    another thread when a decision is there; `take_result` is due then. publish: a Convergence."""

    inputs: Observations
    motions: MotionSender
    keeper: WorkerSupervisor
    gate: GateLink | None
    guard: Guard
    now: Callable[[], Moment]
    values: Callable[[], PolicyParameters]
    result_ready: Callable[[], None]
    publish: Callable[[Any], None]
    alarm: AlarmResponse | None = None


class DecisionLoop:
    """halts: what keeps the arms from being moved; hold(reason): asks for one that only a resume ends."""

    def __init__(self, parts: Parts, halts: PolicyHalts, hold: Callable[[str], None], max_age_s: float):
        self._p, self._halts, self._hold, self._max_age_s = parts, halts, hold, max_age_s
        values = parts.values()
        self._constant, self._flaws = ConstantOutput(values.constant_decisions), defaultdict(ImageFlaws)
        self._unsettled = Streak(values.unsettled_to_pause or 1 << 60)
        self._infeasible = Streak(INFEASIBLE_TO_HOLD)
        self.unsettled = ""  # why the last decisions cannot be relied on, a cause for a pause
        self._epoch = self._sequence = 0
        self._asked: Asked | None = None
        self._used: Matched | None = None
        self._last_stamp_s: float | None = None  # of the observation whose decision moves the arms now
        self._idle_decision_s = -np.inf
        self._instruction = ""
        self.active = False

    def begin(self) -> None:
        self.new_epoch()
        self.believe()
        self._p.inputs.synchronizer.flush()
        self._sequence, self.active = 0, True

    def new_epoch(self) -> None:
        """Decisions begun before this move nothing, and what was sent before is not joined."""
        self._epoch += 1
        self._last_stamp_s = None
        self._constant.forget()
        self._p.motions.schedule.forget()

    def believe(self) -> None:
        """An operator wants to see the next decisions, whatever the last ones were like."""
        self.unsettled = ""
        self._unsettled.succeeded()
        self._infeasible.succeeded()
        if self._p.alarm:
            self._p.alarm.reset()

    def refused(self) -> None:
        """The motion that was sent last did not reach the controllers."""
        self._p.motions.schedule.refused()

    def on_matched(self, matched: Matched) -> None:
        self._p.motions.schedule.observed(self._p.now().ros_s)
        self.consider()

    def standing_back(self) -> str:
        """Why no trajectory may be sent now; empty when one may."""
        return (self._p.gate.standing_back() if self._p.gate else "") or self._halts.why_not()

    def consider(self) -> None:
        """Begin a decision, if one is due and nothing stands in its way."""
        matched = self._p.inputs.synchronizer.latest() if self.active else None
        if matched is None or matched is self._used or self._asked is not None:
            return
        now = self._p.now()
        due = self._idle_due(now) if self.standing_back() else self._p.motions.schedule.due(now.ros_s)
        if not due:
            return
        if why := self._unfit(matched, now):
            self._p.guard.report(why.split(":")[0], f"No decision: {why}")
            return
        self._used = matched
        values = self._p.values()
        try:
            observation = self._p.inputs.observation(matched, values.instruction)
        except ObservationError as error:
            self._p.guard.report(str(error).split(":")[0], f"No decision: {conversions.printable(str(error))}")
            return
        if values.instruction != self._instruction and self._p.alarm:
            self._p.alarm.reset()
        self._instruction = values.instruction
        factor = self._p.alarm.factor() if self._p.alarm else 1
        more = {"factor": factor} if factor != 1 else {}
        executed = self._executed_steps(observation)
        future = self._p.keeper.submit(observation, now.steady_s, values.deadline_s or None, executed, **more)
        seen = sum(digest(image[::16, ::16].tobytes()) for image in observation.images.values())
        self._asked = Asked(observation, now, self._epoch, future, seen, self._p.inputs.doubts)
        future.add_done_callback(lambda _: self._p.result_ready())

    def _unfit(self, matched: Matched, now: Moment) -> str:
        if (age_s := matched.age_s(now)) > self._max_age_s:
            return f"the observation is {age_s:.3f} s old, expected at most {self._max_age_s:g} s."
        if not self._p.values().instruction:
            return "there is no instruction. Set parameter instruction or call ~/set_instruction."
        return self._p.keeper.why_not()

    def _idle_due(self, now: Moment) -> bool:
        """Decisions without motions: while the gate holds and that is asked for, or to see whether decisions settle again."""
        gate_held = self._p.gate is not None and self._p.gate.standing_back()
        asked_for = gate_held and self._p.values().while_held == "decide" and not self._p.gate.silent()
        period_s = self._p.values().held_period_s if gate_held else 0.0
        return (asked_for or bool(self.unsettled)) and now.steady_s - self._idle_decision_s >= period_s

    def _executed_steps(self, observation: Observation) -> int | None:
        """Chunk steps from the observation before to this one, for a policy that starts from its last plan."""
        if self._last_stamp_s is None:
            return None
        return max(0, round((observation.stamp_s - self._last_stamp_s) / self._p.keeper.first.result().step_s))

    def take_result(self) -> None:
        """The worker is done: publish what became of the decision, and begin the next one if it is due already."""
        asked = self._asked
        if asked is None or not asked.future.done():
            return
        self._asked = None
        if not self.active:
            return
        if self.standing_back():
            self._idle_decision_s = time.monotonic()
        if (error := asked.future.exception()) is not None:
            self._failed(error)
            return
        decision = asked.future.result()
        self._sequence += 1
        now_s, horizon, note = self._p.now().ros_s, 0, ""
        self._count_unsettled(decision)
        if asked.epoch == self._epoch and now_s > asked.begun.ros_s:
            self._p.motions.schedule.latency.add(now_s - asked.begun.ros_s)
        try:
            horizon = self._publish(decision, asked, now_s)
        except RdvlaError as error:
            note = str(error)
            self._p.guard.report("unpublished", f"Decision {self._sequence} moves nothing: {note}")
        self.consider()
        shaped = not self._misshapen(decision, len(asked.observation.positions))
        if shaped and np.isfinite(decision.chunk.positions).all():
            self._p.motions.send_chunk(decision, asked.observation.positions)
        doubts = [*decision.notes, *self._doubts(asked, decision)]  # neither the arms nor the next decision wait for these
        self._p.publish(
            conversions.convergence_message(
                decision,
                sequence=self._sequence,
                now_s=now_s,
                instruction=asked.observation.instruction,
                horizon=horizon,
                published=not note,
                note=note,
                doubts=doubts,
            )
        )
        for text in doubts:
            self._p.guard.report(NUMBER.sub("", text)[:80], f"The decision says: {conversions.printable(text)}")

    def _failed(self, error: BaseException) -> None:
        """What the policy was given may be at fault; anything else leaves in doubt whether there is a policy at all."""
        text = f"{type(error).__name__}: {error}"
        self._p.guard.report("failed", f"A decision failed and nothing is published: {text}", "error")
        by_input = isinstance(error, WorkerError) and error.failure.input or isinstance(error, ObservationError)
        if not by_input and not isinstance(error, WorkerLost):  # of a lost worker the keeper tells
            self._hold(f"a decision failed: {error}")

    def _doubts(self, asked: Asked, decision: Decision) -> list[str]:
        """What is doubtful about the images it was made from, and about what comes out of the network."""
        flaws = {name: self._flaws[name].see(image) for name, image in asked.observation.images.items()}
        doubts = [*asked.doubts, *(f"the image of camera '{name}' is {flaw}" for name, flaw in flaws.items() if flaw)]
        fits = not self._misshapen(decision, len(asked.observation.positions))
        constant = fits and self._constant.see(decision.chunk.positions, asked.observation.positions, asked.seen)
        return [*doubts, constant] if constant else doubts

    def _count_unsettled(self, decision: Decision) -> None:
        if decision.stop_reason != StopReason.ITERATION_LIMIT:
            self._unsettled.succeeded()
            self.unsettled = ""
        elif self._unsettled.failed() and self._p.values().unsettled_to_pause:
            self.unsettled = f"{self._unsettled.count} decisions in a row had not settled within {decision.limit} iterations."

    def _misshapen(self, decision: Decision, joints: int) -> str:
        policy, shape = self._p.keeper.first.result(), decision.chunk.positions.shape
        expected = (policy.chunk_length, joints)
        if shape != expected or decision.chunk.step_s != policy.step_s:
            return (
                f"Expected a chunk of {expected[0]} steps of {policy.step_s:g} s for {expected[1]} joints, got one of shape "
                f"{shape} with steps of {decision.chunk.step_s:g} s."
            )
        return ""

    def _publish(self, decision: Decision, asked: Asked, now_s: float) -> int:
        """Send the arms' trajectories and return the rows they execute; an RdvlaError says why nothing is sent."""
        if reason := self.standing_back() or self.unsettled:
            raise TrajectoryError(f"Not sent: {reason.rstrip('.')}.")
        if asked.epoch != self._epoch:
            raise TrajectoryError("Not sent: a hold or a new start came during the decision.")
        try:
            if problem := self._misshapen(decision, len(asked.observation.positions)):
                raise TrajectoryError(problem)
            rows = self._p.motions.send(decision, now_s, publish_unconverged=self._p.values().publish_unconverged)
        except NotNowError:
            raise
        except InfeasibleError as error:  # the arms follow what they have, to its end at rest
            if self._infeasible.failed():
                self._hold(f"{self._infeasible.count} decisions in a row could not be followed: {error}")
            raise
        except TrajectoryError as error:  # the whole chunk, of both arms
            self._hold(f"a decision that may not be followed: {error}")
            raise
        self._infeasible.succeeded()
        self._halts.moved()
        self._last_stamp_s = asked.observation.stamp_s
        return rows
