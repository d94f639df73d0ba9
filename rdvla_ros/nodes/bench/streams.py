"""Streams of random chunks, through the code that the policy and the gate use, to what the controllers put out at 1 kHz.

No clock is read and no process started: everything follows from a seed. One stream is a robot at rest somewhere in its range,
then a number of decisions with random latencies, horizons and jumps between them, and now and then a hold. Every message
reaches each arm's controller at a random moment of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from rdvla_ros.control.chunk import Latency, Schedule
from rdvla_ros.control.followed import Present
from rdvla_ros.control.handover import at_once
from rdvla_ros.control.limits import JointLimits
from rdvla_ros.control.playback import RATE_HZ, Playback, Samples
from rdvla_ros.control.seam import Seam, make_seam
from rdvla_ros.control.stop import stop
from rdvla_ros.control.trajectory import PlanOptions, Reference, Trajectory
from rdvla_ros.robot import RobotDescription
from rdvla_ros.types import TrajectoryError

LEAD_S = 0.03  # as the policy node's default
HOLD_LEAD_S = 0.02  # as the gate's
HOLDS = 0.05  # share of decisions that are holds
STEPS_S = (0.1, 0.1, 0.05, 0.02)  # rows of a chunk at 10, 20 and 50 Hz
WILDNESS = (0.0, 0.0, 0.003, 0.01, 0.03)  # noise of the rows, in seconds of the joints' largest speed


@dataclass
class Tally:
    """What streams came to: chunks planned or refused, holds, the largest share of every limit, and what went beyond one."""

    chunks: int = 0
    refused: int = 0
    holds: int = 0
    samples: int = 0
    skews: int = 0
    largest: dict[str, float] = field(default_factory=dict)
    violations: list[dict] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        for name in ("chunks", "refused", "holds", "samples", "skews"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for what, share in other.largest.items():
            self.largest[what] = max(share, self.largest.get(what, 0.0))
        self.violations += other.violations


class Robot:
    """The description's limits, and which joints nobody waits for."""

    def __init__(self, description: RobotDescription):
        self.limits = JointLimits.of_robot(description)
        self.slices = dict(description.arm_slices)
        self.options = PlanOptions(knot_s=2 * LEAD_S, may_lag=description.gripper_joints)


class Stream:
    """One robot's stream; `chunk()` makes the next decision, or a hold, and `finish()` lets the last motion end."""

    def __init__(self, robot: Robot, seed: int, seam: Seam | None = None):
        self.seed, self._robot, self._random = seed, robot, np.random.default_rng(seed)
        self._seam = seam or make_seam({"method": "cut_and_blend"})
        limits = robot.limits
        self._where = limits.lower + self._random.uniform(0.05, 0.95, len(limits.names)) * limits.range
        self._follows = bool(self._random.integers(2))
        self._controllers = {arm: Playback(self._where[part], follows=self._follows) for arm, part in robot.slices.items()}
        self._put_out: dict[str, list[Samples]] = {arm: [] for arm in robot.slices}
        self._schedule = Schedule(Latency(0.3), lead_s=LEAD_S, observation_period_s=0.1)
        self._present = Present(self._where, np.zeros_like(self._where), np.full(len(self._where), np.inf), 0.0, commanded=False)
        self._now_s = 0.05
        self._speed = self._random.choice([0.1, 0.5, 1.0])
        self._wildness = self._random.choice(WILDNESS)
        self.tally = Tally()

    def chunk(self) -> None:
        """A decision, from a random time to a random one."""
        self._now_s += float(self._random.choice([0.03, 0.15, 0.4, 1.0]) * self._random.uniform(0.5, 1.5))
        if self._random.random() < HOLDS:
            return self._hold()
        over = self._schedule.handover(self._now_s, self._present)
        step_s = float(self._random.choice(STEPS_S))
        rows = int(self._random.integers(4, 17)) if step_s > 0.03 else int(self._random.integers(10, 51))
        elapsed_s = float(min(self._random.uniform(0.02, 0.45), (rows - 0.6) * step_s - over.lead_s))
        self.tally.chunks += 1
        try:
            motion = self._seam.plan(
                self._targets(rows, step_s, elapsed_s, over.switch_s),
                step_s=step_s,
                elapsed_s=elapsed_s,
                horizon=int(self._random.integers(1, rows + 1)),
                start=self._reference(over.switch_s),
                limits=self._robot.limits,
                lead_s=over.lead_s,
                now=self._reference(over.send_s),
                now_s=over.send_s - over.stamp_s,
                options=self._robot.options,
            )
        except TrajectoryError:
            self.tally.refused += 1
            return None
        self._send(motion, over.stamp_s, over.send_s)
        return None

    def finish(self) -> Tally:
        """Until everything rests; returns what came of it."""
        self._advance({arm: self._now_s + 4.0 for arm in self._controllers})
        whole = Samples.side_by_side([Samples.joined(self._put_out[arm]) for arm in self._robot.slices])
        shares = whole.shares(self._robot.limits)
        self.tally.samples, self.tally.largest = len(whole.times_s), shares
        for what, share in shares.items():
            if share > 1.0 + 1e-6:
                self.tally.violations.append({"seed": self.seed, "what": what, "share": share})
        if np.abs(whole.velocity[-1]).max() > 0.0:
            self.tally.violations.append({"seed": self.seed, "what": "no rest at the end", "share": float("nan")})
        return self.tally

    def _targets(self, rows: int, step_s: float, elapsed_s: float, switch_s: float) -> np.ndarray:
        """Rows from about where the arms will be: straight on, turning, with noise; now and then beyond the limits, or far."""
        limits, random = self._robot.limits, self._random
        begin = self._reference(switch_s)
        slope = 0.7 * begin.velocity + 0.3 * self._speed * random.uniform(-1, 1, len(begin.position)) * limits.velocity
        bend = random.uniform(-1, 1, len(slope)) * 0.3 * self._speed * limits.velocity
        t = ((np.arange(rows) + 1) * step_s - elapsed_s)[:, None]
        noise = self._wildness * random.standard_normal((rows, len(slope))) * limits.velocity
        jump = random.choice([0.0, 0.01, 0.1, 0.6], p=[0.4, 0.4, 0.17, 0.03])
        offset = jump * random.standard_normal(len(slope)) * limits.velocity
        return begin.position + offset + slope * t + bend * t**2 / 2 + noise

    def _hold(self) -> None:
        """As the gate does it (control/passage)."""
        motion, base_s = self._last if hasattr(self, "_last") else (None, 0.0)
        points_s = [] if motion is None else base_s + motion.times_s
        over = at_once(self._now_s, HOLD_LEAD_S, points_s)
        if over.via_s and self._follows:  # the one case that is not exact on master (control/handover)
            return
        held = stop(self._reference(over.switch_s), limits=self._robot.limits, lead_s=over.lead_s)
        held = held.preceded_by([t - over.stamp_s for t in over.via_s], [self._reference(t) for t in over.via_s])
        held = replace(held, before=self._reference(self._now_s), before_s=self._now_s - over.stamp_s)
        self.tally.holds += 1
        self._send(held, over.stamp_s, over.send_s)

    def _send(self, motion: Trajectory, base_s: float, send_s: float) -> None:
        """To every arm at a moment of its own, at the latest at the time base (Jazzy and older: at the first point)."""
        latest_s = (base_s if self._follows else base_s + motion.times_s[0]) - 1.1 / RATE_HZ  # and an update comes before it
        arrivals = {arm: float(self._random.uniform(send_s, max(send_s, latest_s))) for arm in self._controllers}
        self._advance(arrivals)
        for arm, columns in self._robot.slices.items():
            self._controllers[arm].accept(motion.select(motion.joint_names[columns]), base_s)
        self._schedule.sent(motion, base_s, self._robot.options.stop_s)
        self._last = motion, base_s
        self._now_s = max(self._now_s, *arrivals.values())

    def _advance(self, until_s: dict[str, float]) -> None:
        for arm, controller in self._controllers.items():
            self._put_out[arm].append(controller.advance(until_s[arm]))

    def _reference(self, at_s: float) -> Reference:
        return self._schedule.reference(at_s, self._present)


def run(robot: Robot, seed: int, chunks: int) -> Tally:
    """One stream of so many decisions."""
    stream = Stream(robot, seed)
    for _ in range(chunks):
        stream.chunk()
    return stream.finish()
