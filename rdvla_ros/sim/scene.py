"""The simulated ALOHA: two ViperX arms over a table, the scene of the package gym-aloha in plain MuJoCo.

Joint vectors have 14 entries in policy order (left then right; waist, shoulder, elbow, forearm roll, wrist angle, wrist
rotate, gripper) and controller units: rad, and m for the gripper's finger, whose twin is mirrored.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import mujoco
import numpy as np

from rdvla_ros.sim import SimulationError
from rdvla_ros.sim.rendering import Renderer
from rdvla_ros.sim.tasks import MAX_STAGE, Task, get_task

ARMS = ("left", "right")
ARM_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
JOINT_NAMES = tuple(f"{arm}_{joint}" for arm in ARMS for joint in (*ARM_JOINTS, "gripper"))
# gym-aloha's START_ARM_POSE, one arm: the gripper stands almost closed
START_POSITIONS = np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.02239] * len(ARMS))
SETTLE_S = 0.4  # the objects are placed above the table and fall; an episode starts when they lie still
# what MuJoCo answers with a silent reset of its own
UNSTABLE = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)
STATE = mujoco.mjtState.mjSTATE_INTEGRATION  # all that the next step depends on, warm start included


@dataclass(frozen=True)
class Snapshot:
    """The whole state of a simulation, to return to."""

    state: np.ndarray
    max_stage: int
    reached: bool
    memory: Hashable = None  # the meter's


class AlohaSim:
    """One scene with its task. Nothing here runs by itself: `step` advances by whole steps of 2 ms."""

    def __init__(self, task: str | Task):
        self.task = get_task(task) if isinstance(task, str) else task
        self.model = self.task.model()
        self.data = mujoco.MjData(self.model)
        self.meter = self.task.meter(self.model, self.data)
        self.timestep_s = float(self.model.opt.timestep)
        self._index_joints()
        self._renderer: Renderer | None = None
        self._copy: mujoco.MjData | None = None
        self.max_stage = 0
        self.reached = False
        self.instruction, self.target = self.task.instruction_of(0), self.task.target(0)  # of the seed, from the reset on

    def _index_joints(self) -> None:
        """Addresses of the 14 joints and of the two mirrored fingers."""
        mujoco_names = [f"vx300s_{arm}/{joint}" for arm in ARMS for joint in (*ARM_JOINTS, "left_finger")]
        twin_names = [f"vx300s_{arm}/right_finger" for arm in ARMS]
        actuator_of = {int(self.model.actuator_trnid[i, 0]): i for i in range(self.model.nu)}
        joints = [self.model.joint(name).id for name in mujoco_names]
        twins = [self.model.joint(name).id for name in twin_names]
        self.qpos_index = self.model.jnt_qposadr[joints]
        self.dof_index = self.model.jnt_dofadr[joints]
        self._ctrl_index = np.array([actuator_of[j] for j in joints])
        self._twin_qpos = self.model.jnt_qposadr[twins]
        self._twin_ctrl = np.array([actuator_of[j] for j in twins])
        self.gripper_columns = np.array([i for i, name in enumerate(JOINT_NAMES) if name.endswith("gripper")])
        self.limits = self.model.actuator_ctrlrange[self._ctrl_index]

    def reset(self, seed: int, start_offset: np.ndarray | None = None) -> None:
        """Objects where the task puts them for `seed`, arms at the start pose (+ start_offset (14,)), all at rest."""
        self.instruction, self.target = self.task.instruction_of(int(seed)), self.task.target(int(seed))
        mujoco.mj_resetData(self.model, self.data)
        start = np.clip(START_POSITIONS + (0.0 if start_offset is None else start_offset), *self.limits.T)
        self.data.qpos[self.qpos_index] = start
        self.data.qpos[self._twin_qpos] = -start[self.gripper_columns]
        self.task.place(int(seed), self.model, self.data)
        self.set_reference(start)
        mujoco.mj_forward(self.model, self.data)
        self.meter.begin(int(seed))
        self.step(round(SETTLE_S / self.timestep_s))
        self.data.time = 0.0
        self.max_stage, self.reached = self.stage(), self.meter.reached()

    def set_reference(self, positions: np.ndarray) -> None:
        """Targets of the position actuators, (14,) controller units; the twin fingers follow. Clipped to the limits."""
        positions = np.asarray(positions, dtype=np.float64)
        if positions.shape != (len(JOINT_NAMES),) or not np.isfinite(positions).all():
            raise SimulationError(f"Reference: expected {len(JOINT_NAMES)} finite positions, got {positions!r}.")
        self.data.ctrl[self._ctrl_index] = positions
        self.data.ctrl[self._twin_ctrl] = -positions[self.gripper_columns]
        np.clip(self.data.ctrl, *self.model.actuator_ctrlrange.T, out=self.data.ctrl)

    def put_arms(self, positions: np.ndarray) -> None:
        """Move the arms there at once, (14,) controller units, at rest; for pictures. Clipped to the limits."""
        self.set_reference(positions)
        self.data.qpos[self.qpos_index] = self.reference
        self.data.qpos[self._twin_qpos] = -self.reference[self.gripper_columns]
        self.data.qvel[self.dof_index] = 0.0
        mujoco.mj_forward(self.model, self.data)

    def step(self, steps: int = 1) -> None:
        """Advance by `steps` of 2 ms, and note how far the task has come."""
        mujoco.mj_step(self.model, self.data, steps)
        if any(self.data.warning[kind].number for kind in UNSTABLE):
            raise SimulationError("The simulation became unstable (MuJoCo: bad position, velocity or acceleration); reset it.")
        self.meter.look()
        if self.max_stage < MAX_STAGE:
            self.max_stage = max(self.max_stage, self.stage())
        self.reached = self.reached or self.meter.reached()

    @property
    def time_s(self) -> float:
        return float(self.data.time)

    @property
    def positions(self) -> np.ndarray:
        """(14,) measured positions, controller units."""
        return self.data.qpos[self.qpos_index]

    @property
    def velocities(self) -> np.ndarray:
        """(14,) measured velocities, controller units per second."""
        return self.data.qvel[self.dof_index]

    @property
    def reference(self) -> np.ndarray:
        """(14,) present targets of the actuators, controller units."""
        return self.data.ctrl[self._ctrl_index]

    def stage(self) -> int:
        """Stage of the present state, 0..4; `max_stage` is the best since the reset."""
        return self.meter.stage()

    def object_pose(self, body: str) -> tuple[np.ndarray, np.ndarray]:
        """Position (3,) [m] and rotation matrix (3, 3) of a body in the world."""
        body_data = self.data.body(body)
        return body_data.xpos.copy(), body_data.xmat.reshape(3, 3).copy()

    def derived(self) -> mujoco.MjData:
        """A copy of the present state with all that follows from it (poses, contacts, accelerations). After a step MuJoCo has
        these of the step's beginning."""
        if self._copy is None:
            self._copy = mujoco.MjData(self.model)
        mujoco.mj_copyData(self._copy, self.model, self.data)
        mujoco.mj_forward(self.model, self._copy)
        return self._copy

    def snapshot(self) -> Snapshot:
        state = np.empty(mujoco.mj_stateSize(self.model, STATE))
        mujoco.mj_getState(self.model, self.data, state, STATE)
        return Snapshot(state, self.max_stage, self.reached, self.meter.memory)

    def restore(self, snapshot: Snapshot) -> None:
        """Back to a snapshot, derived quantities (poses, contacts) included."""
        mujoco.mj_setState(self.model, self.data, snapshot.state, STATE)
        mujoco.mj_forward(self.model, self.data)
        mujoco.mj_setState(self.model, self.data, snapshot.state, STATE)  # mj_forward may move the solver's warm start
        self.max_stage, self.reached, self.meter.memory = snapshot.max_stage, snapshot.reached, snapshot.memory

    def render(self, camera: str, width: int, height: int) -> np.ndarray:
        """(height, width, 3) uint8 RGB. SimulationError where no GL context can be had."""
        if self._renderer is None:
            self._renderer = Renderer(self.model)
        return self._renderer.render(self.data, camera, width, height)

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
