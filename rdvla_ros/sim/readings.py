"""What the force sensors in the wrists of the simulated arms read. MuJoCo computes it; the scene needs no sensor for it."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np

from rdvla_ros.robot import Sensor
from rdvla_ros.sim import SimulationError
from rdvla_ros.sim.scene import ARMS, AlohaSim

WRENCH = "geometry_msgs/WrenchStamped"
WRIST_BODY = "vx300s_{arm}/gripper_link"  # the sensor sits between it and the wrist before it


def check_sensors(sensors: Sequence[Sensor]) -> None:
    """SimulationError where the simulated robot has no such sensor."""
    for sensor in sensors:
        if sensor.message != WRENCH or sensor.arm not in ARMS:
            raise SimulationError(
                f"Sensor '{sensor.name}': the simulated robot has one force sensor per wrist, message {WRENCH} with arm "
                f"{' or '.join(ARMS)}; got {sensor.message} with arm '{sensor.arm}'."
            )


def wrist_wrenches(sim: AlohaSim) -> dict[str, np.ndarray]:
    """Arm -> (6,) force [N] and torque [Nm] between wrist and hand, at the hand's origin and in its frame.

    As MuJoCo's force and torque sensors have it: what the wrist exerts on the hand, of which the hand's weight and inertia are
    part. The simulation is not touched.
    """
    model, data, result = sim.model, sim.derived(), {}
    mujoco.mj_rnePostConstraint(model, data)
    for arm in ARMS:
        body = model.body(WRIST_BODY.format(arm=arm)).id
        centre = data.subtree_com[model.body_rootid[body]]  # what MuJoCo's spatial forces refer to
        spatial = np.zeros(6)
        mujoco.mju_transformSpatial(spatial, data.cfrc_int[body], 1, data.xpos[body], centre, data.xmat[body])
        result[arm] = np.concatenate([spatial[3:], spatial[:3]])
    return result


def readings(sim: AlohaSim, sensors: Sequence[Sensor]) -> dict[str, np.ndarray]:
    """Sensor name -> its numbers now."""
    if not sensors:
        return {}
    check_sensors(sensors)
    wrenches = wrist_wrenches(sim)
    return {sensor.name: wrenches[sensor.arm] for sensor in sensors}
