"""Differential inverse kinematics of both arms (mink), on a model of the arms alone: no objects, nothing stepped.

A tool frame stands between the fingertips of each gripper: x points out of the hand, the fingers open along y.
"""

from __future__ import annotations

import mink
import mujoco
import numpy as np

from rdvla_ros.sim.scene import ARM_JOINTS, ARMS, START_POSITIONS
from rdvla_ros.sim.tasks import Task

TOOL_OFFSET_M = 0.14  # from the body gripper_link along its x axis; the fingertips end at 0.154
POSITION_COST, ORIENTATION_COST, POSTURE_COST = 1.0, 0.3, 1e-3
RANGE_MARGIN = 1e-3  # [rad] kept from the joint limits, so that the problem has a solution
JOINTS_PER_ARM = len(ARM_JOINTS) + 1
ARM_PREFIX = "vx300s_"  # of every name of an arm


def tool_body(arm: str) -> str:
    return f"vx300s_{arm}/gripper_link"


class BimanualKinematics:
    """Joint velocities that move the tools as asked. Joint vectors: (14,), see scene.py; grippers are not touched."""

    def __init__(self, task: Task, velocity_limit: float):
        """velocity_limit: [rad/s] for every joint of the arms."""
        self.model = _arms_model(task)
        self.configuration = mink.Configuration(self.model)
        joints = [f"vx300s_{arm}/{joint}" for arm in ARMS for joint in ARM_JOINTS]
        self._qpos = np.array([self.model.joint(name).qposadr[0] for name in joints])
        self._dof = np.array([self.model.joint(name).dofadr[0] for name in joints])
        limits = self.model.jnt_range[[self.model.joint(name).id for name in joints]].T
        self._range = limits + np.array([[RANGE_MARGIN], [-RANGE_MARGIN]])
        self._columns = np.concatenate([np.arange(6) + JOINTS_PER_ARM * i for i in range(len(ARMS))])
        self._q = np.array([self.model.qpos0[i] for i in range(self.model.nq)])
        self._frames = {
            arm: mink.FrameTask(tool_body(arm), "body", POSITION_COST, ORIENTATION_COST, lm_damping=1e-3) for arm in ARMS
        }
        posture = mink.PostureTask(self.model, cost=POSTURE_COST)
        self._q[self._qpos] = START_POSITIONS[self._columns]
        posture.set_target(self._q)
        self._tasks = [*self._frames.values(), posture]
        self._limits = [
            mink.ConfigurationLimit(self.model),
            mink.VelocityLimit(self.model, {name: velocity_limit for name in joints}),
        ]

    def tool_poses(self, positions: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Arm -> (position (3,), rotation (3, 3)) of the tool frame, for joint positions (14,)."""
        self._q[self._qpos] = np.clip(positions[self._columns], *self._range)
        self.configuration.update(self._q)
        poses = {}
        for arm in ARMS:
            body = self.configuration.data.body(tool_body(arm))
            rotation = body.xmat.reshape(3, 3).copy()
            poses[arm] = (body.xpos + TOOL_OFFSET_M * rotation[:, 0], rotation)
        return poses

    def velocities(self, targets: dict[str, tuple[np.ndarray, np.ndarray]], period_s: float) -> np.ndarray:
        """(14,) joint velocities [rad/s] that bring the tools of the last `tool_poses` call to `targets` in one period."""
        for arm, (position, rotation) in targets.items():
            origin = position - TOOL_OFFSET_M * rotation[:, 0]
            pose = mink.SE3.from_rotation_and_translation(mink.SO3.from_matrix(rotation), origin)
            self._frames[arm].set_target(pose)
        result = np.zeros(len(START_POSITIONS))
        try:
            velocity = mink.solve_ik(self.configuration, self._tasks, period_s, "daqp", damping=1e-4, limits=self._limits)
        except mink.NoSolutionFound:  # numerically between two limits: stand for one period
            return result
        result[self._columns] = velocity[self._dof]
        return result


def _arms_model(task: Task) -> mujoco.MjModel:
    """The scene without its objects: every body whose joint is none of an arm is dropped, and so are the keyframes."""
    spec = task.spec()
    for body in list(spec.bodies):
        if any(not joint.name.startswith(ARM_PREFIX) for joint in body.joints):
            spec.delete(body)
    for key in list(spec.keys):
        spec.delete(key)
    return spec.compile()
