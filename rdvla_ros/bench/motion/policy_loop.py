"""The policy's loop without ROS and without a clock: observations, slow decisions, seams, and what the controllers put out.

Schedule, seam method, gate and controllers are those of the nodes; the policy knows the ideal motion, and every decision errs
by a little of its own. Everything follows from a seed. J joints, controller units.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from rdvla_ros.control.motion.followed import MOVED_S, Present
from rdvla_ros.control.motion.limits import JointLimits
from rdvla_ros.control.motion.playback import Playback, Samples
from rdvla_ros.control.motion.schedule import Latency, Schedule, rows_left
from rdvla_ros.control.motion.seam import Seam
from rdvla_ros.control.motion.trajectory import PlanOptions, Reference, Trajectory
from rdvla_ros.control.supervision.motion_check import MotionCheck, Outgoing
from rdvla_ros.robot import ControllerRule, RobotDescription
from rdvla_ros.types import TrajectoryError

TRANSPORT_S = 0.02  # from an image to the node
WAY_S = 0.003  # from the policy to the gate, and on to the controllers
PERIOD_S = 3.1  # of the ideal motion
SHARE_OF_SPEED = 0.35  # of the joints' limits that it uses
SWINGING_S = 3.0  # until then it grows from rest; only later boundaries count


@dataclass(frozen=True)
class LoopOptions:
    """inference_s: how long a decision takes. rows, step_s: of a chunk. disagreement_s: by how much a decision errs, in seconds
    of the joints' largest speed. observation_s: between two observations. rule, rate_hz: of the controllers."""

    inference_s: float
    rows: int = 16
    step_s: float = 0.1
    disagreement_s: float = 0.005
    observation_s: float = 0.1
    lead_s: float = 0.06
    rule: str = "jazzy"
    rate_hz: float = 1000.0
    seed: int = 0


@dataclass
class Run:
    """samples: what was put out, boundaries_s: when a new chunk took over, both from SWINGING_S on. planned: decisions that made
    a motion. refused: those that made none. refused_by_gate: those that would move nothing on the robot."""

    samples: Samples
    ideal: Samples
    boundaries_s: np.ndarray
    planned: int = 0
    sent: int = 0
    refused: int = 0
    refused_by_gate: int = 0
    gate_said: dict[str, int] = field(default_factory=dict)


class IdealMotion:
    """Every joint swings about the middle of its range, each at a phase of its own, so that the arms never stand still."""

    def __init__(self, limits: JointLimits, moves: np.ndarray, random: np.random.Generator):
        self._rate = 2.0 * np.pi / PERIOD_S
        reach = np.minimum(SHARE_OF_SPEED * limits.velocity / self._rate, 0.4 * limits.range)
        self._reach, self._middle = np.where(moves, reach, 0.0), (limits.lower + limits.upper) / 2
        self._phase = random.uniform(0.0, 2.0 * np.pi, len(reach))

    def at(self, times_s: np.ndarray) -> Samples:
        times_s = np.asarray(times_s, dtype=np.float64)
        angle = self._rate * times_s[:, None] + self._phase
        sine, cosine = self._reach * np.sin(angle), self._reach * self._rate * np.cos(angle)
        x = np.clip(times_s / SWINGING_S, 0.0, 1.0)[:, None]
        grown, rate = x**2 * (3.0 - 2.0 * x), 6.0 * x * (1.0 - x) / SWINGING_S
        bend = (6.0 - 12.0 * x) / SWINGING_S**2 * (x < 1.0)
        acceleration = bend * sine + 2.0 * rate * cosine - self._rate**2 * grown * sine
        return Samples(times_s, self._middle + grown * sine, rate * sine + grown * cosine, acceleration)


class Loop:
    """gated: what the gate refuses does not reach the controllers; otherwise it is only counted."""

    def __init__(self, robot: RobotDescription, seam: Seam, options: LoopOptions, *, gated: bool = True):
        self._robot, self._seam, self._options, self._gated = robot, seam, options, gated
        self._random = np.random.default_rng(options.seed)
        self.limits = JointLimits.of_robot(robot)
        moves = np.array([name not in robot.gripper_joints for name in robot.joint_names])
        self.ideal = IdealMotion(self.limits, moves, self._random)
        self.error = options.disagreement_s * self.limits.velocity * moves
        self._plan = PlanOptions(may_lag=robot.gripper_joints)
        self._schedule = Schedule(Latency(options.inference_s), lead_s=options.lead_s, observation_period_s=options.observation_s)
        self._gate = MotionCheck(replace(robot, controller=ControllerRule(options.rule, options.rate_hz)))
        begin, how = self.ideal.at(np.zeros(1)).position[0], {"rule": options.rule, "rate_hz": options.rate_hz}
        self._controllers = {arm: Playback(begin[columns], **how) for arm, columns in robot.arm_slices.items()}
        self._put_out: dict[str, list[Samples]] = {arm: [] for arm in self._controllers}
        self._boundaries_s: list[float] = []
        self._counts = {"planned": 0, "sent": 0, "refused": 0, "refused_by_gate": 0}
        self._said: dict[str, int] = {}

    def run(self, boundaries: int) -> Run:
        """Until so many chunks have taken over from the one before."""
        options, newest, free_s = self._options, 0, 0.0  # observations are counted
        while sum(at_s > SWINGING_S for at_s in self._boundaries_s) < boundaries:
            newest += 1
            came_s = newest * options.observation_s + TRANSPORT_S
            self._schedule.observed(came_s)
            begin_s = max(came_s, free_s)  # as soon as it is there, or the decision before is
            if begin_s >= came_s + options.observation_s or not self._schedule.due(begin_s):
                continue
            free_s = begin_s + options.inference_s
            self._schedule.latency.add(options.inference_s)
            self._decided(newest * options.observation_s, free_s)
        end_s = self._boundaries_s[-1] + 0.2
        whole = Samples.side_by_side(
            [Samples.joined([*self._put_out[arm], c.advance(end_s)]) for arm, c in self._controllers.items()]
        )
        kept = whole.times_s > SWINGING_S
        samples = Samples(*(getattr(whole, name)[kept] for name in Samples.__dataclass_fields__))
        boundaries_s = np.array([at_s for at_s in self._boundaries_s if at_s > SWINGING_S])
        return Run(samples, self.ideal.at(samples.times_s), boundaries_s, gate_said=self._said, **self._counts)

    def _decided(self, observed_s: float, now_s: float) -> None:
        """A decision from an observation is there."""
        options = self._options
        present = self._present(now_s)
        if not rows_left(options.rows, options.step_s, now_s - observed_s, options.lead_s):
            self._counts["refused"] += 1
            return
        over = self._schedule.handover(now_s, present)
        over = over if self._seam.joins else over.without_history()
        due_s = observed_s + (np.arange(options.rows) + 1) * options.step_s
        try:
            motion = self._seam.plan(
                self.ideal.at(due_s).position + self.error * self._random.standard_normal(len(self.error)),
                step_s=options.step_s,
                elapsed_s=over.send_s - observed_s,
                horizon=options.rows,
                start=self._schedule.reference(over.switch_s, present),
                limits=self.limits,
                lead_s=over.lead_s,
                options=self._plan,
            )
        except TrajectoryError:
            self._counts["refused"] += 1
            return
        self._send(self._schedule.message(motion, over, present), over.stamp_s, now_s + WAY_S, over.switch_s)

    def _send(self, motion: Trajectory, stamp_s: float, gate_s: float, switch_s: float) -> None:
        self._counts["planned"] += 1
        parts = {arm: motion.select(limits.names) for arm, limits in self._gate.limits.items()}
        passed = Outgoing(parts, stamp_s)
        try:
            passed = self._gate.check(parts, stamp_s, gate_s)
        except TrajectoryError as error:
            self._counts["refused_by_gate"] += 1
            self._said[type(error).__name__] = self._said.get(type(error).__name__, 0) + 1
            if self._gated:
                return
        self._counts["sent"] += 1
        for arm, controller in self._controllers.items():
            self._put_out[arm].append(controller.advance(gate_s + WAY_S))
            controller.accept(passed.motions[arm], passed.stamp_s)
        self._gate.passed(passed.motions, passed.stamp_s, gate_s)
        self._schedule.sent(motion, stamp_s, self._plan.stop_s)
        self._boundaries_s.append(switch_s)

    def _present(self, now_s: float) -> Present:
        states = {arm: controller.at(now_s) for arm, controller in self._controllers.items()}
        for arm, state in states.items():
            self._gate.report_controller(arm, Reference(*state, np.zeros_like(state[0])), now_s)
        position, velocity = (np.concatenate([state[i] for state in states.values()]) for i in (0, 1))
        return Present(position, velocity, MOVED_S * self.limits.velocity, now_s, commanded=True)
