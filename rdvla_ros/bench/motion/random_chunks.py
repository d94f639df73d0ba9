"""Streams of random chunks, through the code that the policy and the gate use, to what the controllers put out at 1 kHz.

No clock is read and no process started: everything follows from a seed. One stream is a robot with limits of its own, at rest
somewhere in its range, then a number of decisions with random latencies, horizons and jumps between them, and now and then a
hold, after which the policy begins anew from what the controllers report. A motion reaches the gate, and every arm's
controller, at random moments.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from rdvla_ros.control.motion.followed import MOVED_S, Present
from rdvla_ros.control.motion.limits import JointLimits
from rdvla_ros.control.motion.playback import Playback, Samples
from rdvla_ros.control.motion.schedule import Latency, Schedule
from rdvla_ros.control.motion.seam import Seam, make_seam
from rdvla_ros.control.motion.trajectory import PlanOptions, Reference, Trajectory
from rdvla_ros.control.supervision.motion_check import LateError, MotionCheck, MotionCheckOptions
from rdvla_ros.robot import ControllerRule, RobotDescription
from rdvla_ros.types import TrajectoryError

LEAD_S = 0.06  # as the policy node's default, where the way is not slow
HOLD_LEAD_S = 0.02  # as the gate's
REACH_S = MotionCheckOptions().reach_s  # by which the ways from the gate to a controller differ
SLOW_S = (0.0, 0.0, 0.0, 0.015, 0.045)  # and how long they take at least: busy machines, whose gate has seen that
HOLDS = 0.05  # share of decisions that are holds
STEPS_S = (0.1, 0.1, 0.05, 0.02)  # rows of a chunk at 10, 20 and 50 Hz
WILDNESS = (0.0, 0.0, 0.003, 0.01, 0.03)  # noise of the rows, in seconds of the joints' largest speed
ACCELERATIONS, JERKS = (0.4, 1.0, 2.5), (0.3, 1.0, 10.0)  # robots: factors of the description's limits
RULES, RATES_HZ = ("humble", "jazzy"), (100.0, 250.0, 500.0, 1000.0)  # of the controllers


@dataclass
class Tally:
    """What streams came to: chunks planned or refused (by the plan, by the gate, by the gate as too late), holds, the largest
    share of every limit, and what went beyond one. waited: decisions that moved nothing because the arms still came to rest
    from a hold."""

    chunks: int = 0
    refused: int = 0
    refused_by_gate: int = 0
    late: int = 0
    waited: int = 0
    holds: int = 0
    samples: int = 0
    largest: dict[str, float] = field(default_factory=dict)
    violations: list[dict] = field(default_factory=list)

    @property
    def followed(self) -> int:
        return self.chunks - self.refused - self.refused_by_gate - self.late - self.waited

    def add(self, other: Tally) -> None:
        for name in ("chunks", "refused", "refused_by_gate", "late", "waited", "holds", "samples"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for what, share in other.largest.items():
            self.largest[what] = max(share, self.largest.get(what, 0.0))
        self.violations += other.violations


class Stream:
    """One robot's stream; `chunk()` makes the next decision, or a hold, and `finish()` lets the last motion end."""

    def __init__(self, description: RobotDescription, seed: int, seam: Seam | None = None, slow_s: float | None = None):
        self.seed, self._random = seed, np.random.default_rng(seed)
        factors = (float(self._random.choice(x)) for x in (ACCELERATIONS, JERKS))
        controller = ControllerRule(str(self._random.choice(RULES)), float(self._random.choice(RATES_HZ)))
        self._robot = robot = _varied(description, *factors, controller)
        self._seam = seam or make_seam({"method": "cut_and_blend"})
        self._limits = limits = JointLimits.of_robot(robot)
        self._options = PlanOptions(may_lag=robot.gripper_joints)
        where = limits.lower + self._random.uniform(0.05, 0.95, len(limits.names)) * limits.range
        how = {"rule": robot.controller.rule, "rate_hz": robot.controller.update_rate_hz}
        self._controllers = {arm: Playback(where[part], **how) for arm, part in robot.arm_slices.items()}
        self._put_out: dict[str, list[Samples]] = {arm: [] for arm in self._controllers}
        self._slow_s = float(np.random.default_rng([seed, 1]).choice(SLOW_S)) if slow_s is None else slow_s
        self._gate = MotionCheck(robot)
        way = self._gate.delivery  # as the gate's status tells the policy
        self._schedule = Schedule(Latency(0.3), lead_s=LEAD_S, observation_period_s=0.1, delay_s=lambda: way.delay_s)
        for arm, controller in self._controllers.items():  # it has seen how long its way takes
            self._gate.delivery.reported(arm, -0.9 + self._slow_s, 0.0)
            self._gate.delivery.sent(arm, -1.0, -0.9)
            self._gate.delivery.reported(arm, -0.9 + self._slow_s + controller.period_s, 0.1 + self._slow_s + controller.period_s)
        self._now_s = 0.05
        self._speed = self._random.choice([0.1, 0.5, 1.0])
        self._wildness = self._random.choice(WILDNESS)
        self.tally = Tally()

    def chunk(self) -> None:
        """A decision, from a random time to a random one."""
        self._now_s += float(self._random.choice([0.03, 0.15, 0.4, 1.0]) * self._random.uniform(0.5, 1.5))
        present = self._report()
        if self._random.random() < HOLDS:
            return self._hold()
        self.tally.chunks += 1
        if not self._schedule.joinable(present):
            self.tally.waited += 1
            return None
        over = self._schedule.handover(self._now_s, present)
        step_s = float(self._random.choice(STEPS_S))
        rows = int(self._random.integers(4, 17)) if step_s > 0.03 else int(self._random.integers(10, 51))
        elapsed_s = float(min(self._random.uniform(0.02, 0.45), (rows - 0.6) * step_s - over.lead_s))
        start = self._schedule.reference(over.switch_s, present)
        try:
            motion = self._seam.plan(
                self._targets(start, rows, step_s, elapsed_s),
                step_s=step_s,
                elapsed_s=elapsed_s,
                horizon=int(self._random.integers(1, rows + 1)),
                start=start,
                limits=self._limits,
                lead_s=over.lead_s,
                options=self._options,
            )
        except TrajectoryError:
            self.tally.refused += 1
            return None
        return self._send(self._schedule.message(motion, over, present), over.stamp_s, over.send_s)

    def finish(self) -> Tally:
        """Until everything rests; returns what came of it."""
        self._advance(dict.fromkeys(self._controllers, self._now_s + 4.0))
        whole = Samples.side_by_side([Samples.joined(self._put_out[arm]) for arm in self._controllers])
        shares = whole.shares(self._limits)
        self.tally.samples, self.tally.largest = len(whole.times_s), shares
        for what, share in shares.items():
            if share > 1.0 + 1e-6:
                self.tally.violations.append({"seed": self.seed, "what": what, "share": share})
        if np.abs(whole.velocity[-1]).max() > 0.0:
            self.tally.violations.append({"seed": self.seed, "what": "no rest at the end", "share": float("nan")})
        return self.tally

    def _targets(self, begin: Reference, rows: int, step_s: float, elapsed_s: float) -> np.ndarray:
        """Rows from about where the arms will be: straight on, turning, with noise; now and then beyond the limits, or far."""
        limits, random = self._limits, self._random
        slope = 0.7 * begin.velocity + 0.3 * self._speed * random.uniform(-1, 1, len(begin.position)) * limits.velocity
        bend = random.uniform(-1, 1, len(slope)) * 0.3 * self._speed * limits.velocity
        t = ((np.arange(rows) + 1) * step_s - elapsed_s)[:, None]
        noise = self._wildness * random.standard_normal((rows, len(slope))) * limits.velocity
        jump = random.choice([0.0, 0.01, 0.1, 0.6], p=[0.4, 0.4, 0.17, 0.03])
        offset = jump * random.standard_normal(len(slope)) * limits.velocity
        return begin.position + offset + slope * t + bend * t**2 / 2 + noise

    def _report(self) -> Present:
        """What the controllers say that they command, up to 20 ms ago: to the policy, and to the gate."""
        at_s = self._now_s - float(self._random.uniform(0.0, 0.02))
        states = {arm: controller.at(at_s) for arm, controller in self._controllers.items()}
        for arm, state in states.items():
            self._gate.report_controller(arm, Reference(*state, np.zeros_like(state[0])), at_s)
        position, velocity = (np.concatenate([state[i] for state in states.values()]) for i in (0, 1))
        return Present(position, velocity, MOVED_S * self._limits.velocity, at_s, commanded=True)

    def _hold(self) -> None:
        """By the gate, at once. What the policy sends afterwards begins from what the controllers report."""
        held = self._gate.stop(self._now_s, HOLD_LEAD_S)
        self.tally.holds += 1
        self._pass(held.motions, held.stamp_s, self._now_s)
        self._schedule.forget()

    def _send(self, motion: Trajectory, stamp_s: float, send_s: float) -> None:
        """Through the gate, which hears of it up to 50 ms later, now and then much later."""
        gate_s = send_s + float(self._random.uniform(0.0, self._random.choice([0.005, 0.05, 0.15], p=[0.6, 0.3, 0.1])))
        try:
            out = self._gate.check({arm: motion.select(c.names) for arm, c in self._gate.limits.items()}, stamp_s, gate_s)
        except LateError:
            self.tally.late += 1
            return
        except TrajectoryError:
            self.tally.refused_by_gate += 1
            return
        self._pass(out.motions, out.stamp_s, gate_s)
        self._schedule.sent(motion, stamp_s, self._options.stop_s)

    def _pass(self, parts: dict[str, Trajectory], stamp_s: float, gate_s: float) -> None:
        """To every arm at a moment of its own."""
        arrivals = {arm: float(gate_s + self._slow_s + self._random.uniform(0.0, REACH_S)) for arm in self._controllers}
        self._gate.passed(parts, stamp_s, gate_s)
        self._advance(arrivals)
        for arm, controller in self._controllers.items():
            controller.accept(parts[arm], stamp_s)
            self._gate.delivery.reported(arm, controller.due_s - controller.period_s, 0.0)  # they report every update
            self._gate.delivery.reported(arm, controller.due_s, controller.due_s - stamp_s)
        self._now_s = max(self._now_s, *arrivals.values())

    def _advance(self, until_s: dict[str, float]) -> None:
        for arm, controller in self._controllers.items():
            self._put_out[arm].append(controller.advance(until_s[arm]))


def _varied(description: RobotDescription, acceleration: float, jerk: float, controller: ControllerRule) -> RobotDescription:
    """The same robot with other limits and other controllers."""

    def joint(j):
        return replace(j, acceleration=acceleration * j.acceleration, jerk=jerk * j.jerk)

    arms = tuple(replace(arm, joints=tuple(map(joint, arm.joints))) for arm in description.arms)
    return replace(description, arms=arms, controller=controller)


def run(description: RobotDescription, seed: int, chunks: int) -> Tally:
    """One stream of so many decisions."""
    stream = Stream(description, seed)
    for _ in range(chunks):
        stream.chunk()
    return stream.finish()
