"""One episode in the simulator: the policy decides, control/ plans, the joints follow; as on the robot, without ROS."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rdvla_ros.control.motion.limits import JointLimits
from rdvla_ros.control.motion.trajectory import PlanOptions, Reference, Trajectory, plan
from rdvla_ros.learning.evaluation.conditions import Conditions, Eyes
from rdvla_ros.model.policy import Policy
from rdvla_ros.robot import RobotDescription
from rdvla_ros.sim.expert import STRATEGIES, Expert
from rdvla_ros.sim.readings import readings
from rdvla_ros.sim.scene import AlohaSim
from rdvla_ros.sim.tasks import MAX_STAGE
from rdvla_ros.types import Decision, Observation, TrajectoryError

LEAD_S = 0.04  # from the moment a trajectory is there to its first point: the nodes' lead_s and some of their wait for a point


@dataclass(frozen=True)
class RolloutConfig:
    """time_limit_s: of the episode. latency_s: from an observation to its trajectory (simulated time; the arms move on).
    conditions: what is wrong with the pictures. instruction: what the policy is told; None: what the task says."""

    time_limit_s: float = 15.0
    latency_s: float = 0.0
    conditions: Conditions = Conditions()
    instruction: str | None = None

    def steps_to_next(self, horizon: int, step_s: float) -> int:
        """Action steps from one observation to the next: early enough that the next trajectory is there in time."""
        return max(1, horizon - math.ceil(self.latency_s / step_s - 1e-9))


@dataclass
class EpisodeResult:
    """stage_s: stage -> time it was first reached [s]. refused: chunks that no legal motion follows. phases: of the task at each
    decision, as the scripted expert sees it."""

    seed: int
    max_stage: int = 0
    reached: bool = False
    reached_s: float | None = None
    stage_s: dict[int, float] = field(default_factory=dict)
    decisions: int = 0
    iterations: list[int] = field(default_factory=list)
    horizons: list[int] = field(default_factory=list)
    head_s: list[float] = field(default_factory=list)
    decide_s: list[float] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)
    refused: int = 0

    @property
    def success(self) -> bool:
        return self.max_stage >= MAX_STAGE


# Called at every action step before anything moves with (reference (A,), its velocity (A,), both in policy units; the decision
# just made, or None). The episode goes on past success for it, until it returns False or the time is up.
Watcher = Callable[[np.ndarray, np.ndarray, Decision | None], bool]


class Rollout:
    """A policy on one simulator. `horizon`: object of control.horizon that says how many rows of a chunk are executed."""

    def __init__(
        self, policy: Policy, sim: AlohaSim, robot: RobotDescription, horizon: Any, config: RolloutConfig = RolloutConfig()
    ):
        self.policy, self.sim, self.robot, self.horizon, self.config = policy, sim, robot, horizon, config
        self.limits = JointLimits.of_robot(robot)
        read = getattr(policy, "sensor_names", ())  # what stands in for a policy need have none
        self._sensors = [sensor for sensor in robot.sensors if sensor.name in read]
        self._options = PlanOptions(may_lag=robot.gripper_joints)  # as the policy node plans
        self.eyes = Eyes(sim, robot.cameras, config.conditions)
        self.film: Callable[[AlohaSim], None] | None = None  # called at every action step, to make pictures for people
        self._expert = Expert(sim.task, robot) if sim.task.name in STRATEGIES else None
        self._sim_steps = round(policy.contract.step_s / sim.timestep_s)
        self._widths = robot.from_policy(np.ones(len(robot.joints))) - robot.from_policy(np.zeros(len(robot.joints)))

    def run(self, seed: int, watch: Watcher | None = None) -> EpisodeResult:
        """One episode from the seed's start to success or the time limit."""
        sim, config, step_s = self.sim, self.config, self.policy.contract.step_s
        sim.reset(seed)
        if hasattr(self.horizon, "reset"):  # what it learnt from other episodes must not reach into this one
            self.horizon.reset()
        self.eyes.begin(seed)
        result = EpisodeResult(seed)
        motion, stamp_s = None, 0.0  # what the controllers follow, and its time base
        pending: tuple[float, Decision, int] | None = None
        next_observation_s, observed_s = 0.0, None
        while sim.time_s < config.time_limit_s - 1e-9 and not (result.success and watch is None):
            decision = None
            if sim.time_s >= next_observation_s - 1e-6:
                executed = None if observed_s is None else round((sim.time_s - observed_s) / step_s)
                decision, observed_s = self.policy.decide(self._observe(), executed_steps=executed), sim.time_s
                steps = self._horizon_steps(decision)
                self._note(result, decision, steps)
                pending = (sim.time_s + config.latency_s, decision, steps)
                next_observation_s = sim.time_s + step_s * config.steps_to_next(steps, step_s)
            elif sim.time_s >= next_observation_s - step_s - 1e-6:
                self.eyes.soon()
            if self.film is not None:
                self.film(sim)
            if watch is not None:
                reference = self._reference(motion, sim.time_s - stamp_s)
                if not watch(self.robot.to_policy(reference.position), reference.velocity / self._widths, decision):
                    break
            for _ in range(self._sim_steps):
                if pending is not None and sim.time_s >= pending[0] - 1e-9:
                    motion, stamp_s = self._replan(motion, stamp_s, *pending[1:], result)
                    pending = None
                sim.set_reference(self._reference(motion, sim.time_s - stamp_s + sim.timestep_s).position)
                sim.step()
                self._progress(result)
        return result

    def _observe(self) -> Observation:
        sim, told = self.sim, self.config.instruction
        positions, instruction = self.robot.to_policy(sim.positions), sim.instruction if told is None else told
        return Observation(self.eyes.look(), positions, instruction, sim.time_s, readings(sim, self._sensors))

    def _horizon_steps(self, decision: Decision) -> int:
        rows = len(decision.chunk.positions)
        steps = self.horizon.steps(decision.iterations, rows, decision.step_change)
        return int(np.clip(steps, 1, rows))

    def _reference(self, motion: Trajectory | None, elapsed_s: float) -> Reference:
        return Reference.at_rest(self.sim.reference) if motion is None else motion.at(elapsed_s)

    def _replan(
        self, motion: Trajectory | None, stamp_s: float, decision: Decision, steps: int, result: EpisodeResult
    ) -> tuple[Trajectory | None, float]:
        """The new motion from now on; the old one (which ends at rest by itself) where the chunk cannot be followed."""
        now_s = self.sim.time_s
        try:
            new = plan(
                self.robot.from_policy(decision.chunk.positions),
                step_s=decision.chunk.step_s,
                elapsed_s=now_s - decision.chunk.stamp_s,
                horizon=steps,
                start=self._reference(motion, now_s - stamp_s + LEAD_S),
                limits=self.limits,
                lead_s=LEAD_S,
                now=self._reference(motion, now_s - stamp_s),
                options=self._options,
            )
        except TrajectoryError:
            result.refused += 1
            return motion, stamp_s
        return new, now_s

    def _note(self, result: EpisodeResult, decision: Decision, steps: int) -> None:
        result.decisions += 1
        result.iterations.append(decision.iterations)
        result.horizons.append(steps)
        if self._expert is not None:
            result.phases.append(self._expert.strategy.goals(self._expert.view(self.sim))[1])
        result.head_s.append(decision.timings["head"])
        result.decide_s.append(decision.timings["total"])

    def _progress(self, result: EpisodeResult) -> None:
        sim = self.sim
        if sim.reached and not result.reached:
            result.reached, result.reached_s = True, sim.time_s
        if sim.max_stage > result.max_stage:
            for stage in range(result.max_stage + 1, sim.max_stage + 1):
                result.stage_s[stage] = sim.time_s
            result.max_stage = sim.max_stage
