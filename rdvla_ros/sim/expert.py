"""The scripted expert: closed-loop, asked at 50 Hz, able to start from any state of the simulator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rdvla_ros.robot import RobotDescription
from rdvla_ros.sim.kinematics import BimanualKinematics
from rdvla_ros.sim.motion import JOINT_SPEED, Motion
from rdvla_ros.sim.scene import ARMS, JOINT_NAMES, AlohaSim
from rdvla_ros.sim.tasks import Task
from rdvla_ros.sim.tasks.insertion import InsertionStrategy
from rdvla_ros.sim.tasks.press import PressStrategy
from rdvla_ros.sim.tasks.transfer import TransferStrategy
from rdvla_ros.sim.view import View

PERIOD_S = 0.02
STRATEGIES = {"transfer_cube": TransferStrategy, "insertion": InsertionStrategy, "follow_trail": PressStrategy}


@dataclass(frozen=True)
class Memory:
    """All that the expert remembers: the joint references it moves on from, and their velocities, (14,) policy units."""

    reference: np.ndarray
    velocity: np.ndarray


class Expert:
    """References for both arms. One expert serves one task; `style` None is the nominal way, whose actions are labels."""

    def __init__(self, task: Task, robot: RobotDescription, style=None):
        strategy = STRATEGIES[task.name]
        self.strategy = strategy(style or strategy.style_class())
        self.kinematics = BimanualKinematics(task, JOINT_SPEED)
        self._motion = Motion(self.kinematics, PERIOD_S)
        self._robot = robot
        self._grippers = {arm: JOINT_NAMES.index(f"{arm}_gripper") for arm in ARMS}

    def begin(self, sim: AlohaSim, velocity: np.ndarray | None = None) -> Memory:
        """Memory for a simulator in any state: what its actuators are told now; velocity (14,) of that reference."""
        reference = self._robot.to_policy(sim.reference)
        return Memory(reference, np.zeros_like(reference) if velocity is None else np.array(velocity, dtype=np.float64))

    def view(self, sim: AlohaSim) -> View:
        measured = self._robot.to_policy(sim.positions)
        return View(
            tools=self.kinematics.tool_poses(measured),
            openings={arm: float(measured[column]) for arm, column in self._grippers.items()},
            objects={body: sim.object_pose(body) for body in self.strategy.objects},
            target=sim.target,
        )

    def step(self, sim: AlohaSim, memory: Memory) -> tuple[Memory, str]:
        """The next period's reference (in the new memory), and the name of the phase. Does not touch the simulator."""
        goals, phase = self.strategy.goals(self.view(sim))
        measured = self._robot.to_policy(sim.positions)
        reference, velocity = self._motion.step(goals, memory.reference, memory.velocity, measured)
        return Memory(reference, velocity), phase
