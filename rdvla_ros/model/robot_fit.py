"""Whether a checkpoint was made for a robot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rdvla_ros.model.checkpoint import Checkpoint
from rdvla_ros.types import CheckpointError, nearest_names


def require_robot(
    checkpoint: Checkpoint,
    joint_names: Sequence[str],
    camera_names: Sequence[str],
    representation: str,
    gripper_joints: Sequence[str] | None,
    sensors: Mapping[str, int],
) -> None:
    """CheckpointError that names the first difference."""
    contract = checkpoint.contract
    if len(joint_names) != len(contract.joint_names):
        raise CheckpointError(
            f"Checkpoint for another robot: it has {len(contract.joint_names)} joints "
            f"({', '.join(contract.joint_names)}), the "
            f"robot {len(joint_names)}. Choose a checkpoint trained for this robot, or its robot description."
        )
    for index, (expected, got) in enumerate(zip(contract.joint_names, joint_names, strict=True)):
        if expected != got:
            raise CheckpointError(
                f"Checkpoint for another robot: joint {index} is '{expected}' in the checkpoint and '{got}' in the robot "
                f"description. The checkpoint's order: {', '.join(contract.joint_names)}."
            )
    for camera in contract.camera_names:
        if camera not in camera_names:
            raise CheckpointError(
                f"The checkpoint needs camera '{camera}', which the robot lacks. {nearest_names(camera, camera_names)}"
            )
    space = checkpoint.space.sensors
    for sensor, width in ({} if space is None else space.widths).items():
        if sensor not in sensors:
            raise CheckpointError(
                f"The checkpoint needs readings of sensor '{sensor}', which the robot lacks. "
                f"{nearest_names(sensor, sensors)} docs/robot.md says how to describe it (sensors)."
            )
        if sensors[sensor] != width:
            raise CheckpointError(
                f"Sensor '{sensor}': the checkpoint was trained with {width} numbers, the robot's has {sensors[sensor]}."
            )
    if representation != contract.representation:
        raise CheckpointError(
            f"The checkpoint's actions are {contract.representation}, the robot description says '{representation}'. Set "
            f"actions.representation to '{contract.representation}', or choose another checkpoint."
        )
    if gripper_joints is not None and set(gripper_joints) != set(contract.gripper_joints):
        raise CheckpointError(
            f"Gripper joints: the checkpoint has {', '.join(contract.gripper_joints) or 'none'}, the robot "
            f"{', '.join(gripper_joints) or 'none'}. Both must name the same, because they are scaled to 0..1."
        )
