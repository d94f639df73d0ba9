"""The same measures without controllers: what is sent, by this package and by others, into the emulation; no clock, no ROS graph.

Sent are the motions of bench.motion.policy_loop (schedule, planner, gate), and for the same ideal motion, with decisions that err
by as much, the forms of bridges.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tqdm import tqdm
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from rdvla_ros.bench.controllers import measure
from rdvla_ros.bench.controllers.bridges import POINTS_HZ, REPLAN_S
from rdvla_ros.bench.controllers.emulated import points_of
from rdvla_ros.bench.controllers.states import SECOND, States, nanoseconds
from rdvla_ros.bench.motion.policy_loop import SWINGING_S, Loop, LoopOptions
from rdvla_ros.control.motion.seam import make_seam
from rdvla_ros.control.motion.trajectory import Trajectory
from rdvla_ros.nodes.common import conversions
from rdvla_ros.robot import ControllerRule, RobotDescription
from rdvla_ros.sim.controller import JointTrajectoryController

BASE_S = 1000.0  # of the loop's times
ARRIVAL_S = 0.003  # after sending


@dataclass(frozen=True)
class Sent:
    """One message to each arm. arrives_s counts from the loop's beginning."""

    arrives_s: float
    messages: dict[str, JointTrajectory]


class Wire(Loop):
    """Keeps what reached the controllers."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.sent: list[Sent] = []

    def _send(self, motion: Trajectory, stamp_s: float, gate_s: float, switch_s: float) -> None:
        before = self._counts["sent"]
        super()._send(motion, stamp_s, gate_s, switch_s)
        if self._counts["sent"] > before:
            stamp = conversions.motion_stamp(BASE_S + stamp_s)
            parts = {arm.name: motion.select(arm.joint_names) for arm in self._robot.arms}
            messages = {name: conversions.trajectory_message(part, stamp) for name, part in parts.items()}
            self.sent.append(Sent(gate_s + ARRIVAL_S, messages))


class Recorded:
    """What the emulated controllers report, as `StateRecorder` keeps it, at updates that are off by up to `unpunctual` of their
    period; then the header's stamp is late by up to 15 % of that share."""

    def __init__(self, robot: RobotDescription, sent: list[Sent], *, unpunctual: float = 0.0, seed: int = 0):
        self.sent: dict[str, list[tuple[int, JointTrajectory]]] = {arm.name: [] for arm in robot.arms}
        self._states: dict[str, States] = {}
        for arm in robot.arms:
            self._states[arm.name] = self._follow(arm, robot.controller, sent, unpunctual, np.random.default_rng(seed))

    def states(self, arm: str) -> States:
        return self._states[arm]

    def stamps_ns(self, arm: str) -> list[int]:
        return [stamp for stamp, _ in self.sent[arm] if stamp]

    def _follow(self, arm, rule: ControllerRule, sent: list[Sent], unpunctual: float, random: np.random.Generator) -> States:
        first = np.array(sent[0].messages[arm.name].points[0].positions)
        controller = JointTrajectoryController(arm.joint_names, first, rule=rule.rule, update_rate_hz=rule.update_rate_hz)
        now_s, waiting, rows, begun_ns = BASE_S + sent[0].arrives_s - 0.01, list(sent), [], 0
        end_s = BASE_S + sent[-1].arrives_s + 0.2
        while now_s < end_s:
            now_ns = round(now_s * SECOND)
            while waiting and BASE_S + waiting[0].arrives_s <= now_s:
                message = waiting.pop(0).messages[arm.name]
                stamp_ns = nanoseconds(message.header.stamp)
                self.sent[arm.name].append((stamp_ns, message))
                if controller.accept(points_of(message, stamp_ns / SECOND), now_s):
                    begun_ns = stamp_ns or now_ns
            reference = controller.update(now_s)
            late_ns = round(0.15 * rule.period_s * SECOND * random.uniform(0.0, unpunctual))
            rows.append((now_ns + late_ns, now_ns - begun_ns, reference, controller.command))
            now_s = round(now_s + rule.period_s * random.uniform(1.0 - unpunctual, 1.0 + unpunctual), 6)
        header, from_start, references, commands = zip(*rows, strict=True)
        return States(
            np.array(header, dtype=np.int64),
            np.array(from_start, dtype=np.int64),
            *(np.array([getattr(r, field) for r in references]) for field in ("position", "velocity", "acceleration")),
            np.array([c.position for c in commands]),
        )


def ours(robot: RobotDescription, options: LoopOptions, boundaries: int) -> list[Sent]:
    wire = Wire(robot, make_seam({"method": "cut_and_blend"}), options)
    wire.run(boundaries)
    return wire.sent


def chunks(robot: RobotDescription, options: LoopOptions, seconds: float) -> Iterator[Sent]:
    """Positions only, from the observation on, replaced every REPLAN_S."""
    policy, random = Loop(robot, make_seam({"method": "replace"}), options), np.random.default_rng(options.seed)
    for sent_s in np.arange(0.0, SWINGING_S + seconds, REPLAN_S):
        after_s = (np.arange(options.rows) + 1) * options.step_s
        rows = policy.ideal.at(sent_s + after_s).position + policy.error * random.standard_normal(len(robot.joints))
        yield _sent(robot, sent_s, rows, after_s, BASE_S + sent_s)


def points(robot: RobotDescription, options: LoopOptions, seconds: float, *, stamped: bool = False) -> Iterator[Sent]:
    """One point, to be there at once; the error is that of the decision it comes from."""
    policy, random, error = Loop(robot, make_seam({"method": "replace"}), options), np.random.default_rng(options.seed), None
    for count, sent_s in enumerate(np.arange(0.0, SWINGING_S + seconds, 1.0 / POINTS_HZ)):
        if count % round(REPLAN_S * POINTS_HZ) == 0:
            error = policy.error * random.standard_normal(len(robot.joints))
        yield _sent(robot, sent_s, policy.ideal.at(np.array([sent_s])).position + error, [0.0], stamped * (BASE_S + sent_s))


def _sent(robot: RobotDescription, sent_s: float, rows: np.ndarray, after_s: Any, stamp_s: float) -> Sent:
    messages = {}
    for arm, columns in robot.arm_slices.items():
        message = JointTrajectory(joint_names=list(robot.joint_names[columns]))
        message.header.stamp = conversions.motion_stamp(stamp_s)
        message.points = [
            JointTrajectoryPoint(positions=row.tolist(), time_from_start=conversions.duration(float(t)))
            for row, t in zip(rows[:, columns], after_s, strict=True)
        ]
        messages[arm] = message
    return Sent(float(sent_s) + ARRIVAL_S, messages)


def measured(robot: RobotDescription, rate_hz: float, boundaries: int, inference_s: float, seconds: float) -> dict[str, Any]:
    """As main's result of running controllers."""
    robot = replace(robot, controller=ControllerRule("jazzy", rate_hz))
    options = LoopOptions(inference_s=inference_s, rows=12, rate_hz=rate_hz)
    ways: dict[str, Callable[[], list[Sent]]] = {
        "this package": lambda: ours(robot, options, boundaries),
        "plain chunks": lambda: list(chunks(robot, options, seconds)),
        "single points": lambda: list(points(robot, options, seconds)),
        "single points, stamped now": lambda: list(points(robot, options, seconds, stamped=True)),
    }
    found = {}
    for name, way in tqdm(ways.items(), desc=f"{rate_hz:g} Hz"):
        sent = way()
        recorded = Recorded(robot, sent)
        begin_ns = round((BASE_S + SWINGING_S) * SECOND)
        windows = [(begin_ns, round((BASE_S + sent[-1].arrives_s) * SECOND))]
        found[name] = {
            "messages": len(sent),
            "moved": round(measure.moved(recorded, [arm.name for arm in robot.arms]), 4),
            "limits": measure.numbers(recorded, robot, {"boundaries": windows}),
            "smoothness": measure.smooth(recorded, robot, windows),
        }
    return {"update_rate_hz": rate_hz, "on": "the emulation", "ours": found.pop("this package"), "others": found}
