"""From parameters to a policy that fits the robot. torch is imported here and only when a policy is loaded."""

from __future__ import annotations

from typing import Any

from rdvla_ros.nodes.policy_parameters import PolicyParameters
from rdvla_ros.robot import RobotDescription
from rdvla_ros.types import CheckpointError


def load_policy(parameters: PolicyParameters, robot: RobotDescription) -> Any:
    """rdvla_ros.model.policy.Policy, bound to the robot. Call it in the thread that will decide."""
    if not parameters.checkpoint:
        raise CheckpointError(
            "checkpoint: expected a folder with manifest.json and model.safetensors, got none. Pass checkpoint:=<folder>."
        )
    import torch

    from rdvla_ros.model.policy import Policy

    torch.set_num_threads(parameters.threads)
    policy = Policy.load(
        parameters.checkpoint, device=parameters.device, halting=halting_settings(parameters), seed=parameters.seed
    )
    policy.require_robot(robot.joint_names, robot.camera_names, robot.representation, robot.gripper_joints)
    policy.warm_up()
    return policy


def halting_settings(parameters: PolicyParameters) -> dict[str, Any] | None:
    """The checkpoint's halting rule with what the parameters override; None when they override nothing."""
    from rdvla_ros.model.checkpoint import read_manifest

    if not (parameters.halting_rule or parameters.halting_threshold or parameters.max_iterations):
        return None
    default = read_manifest(parameters.checkpoint)["inference"]["halting"]
    rule = parameters.halting_rule or default["rule"]
    settings = dict(default) if rule == default["rule"] else {"rule": rule}
    if parameters.halting_threshold:
        settings["threshold"] = parameters.halting_threshold
    if parameters.max_iterations:
        settings["iterations" if rule == "fixed" else "max_iterations"] = parameters.max_iterations
    return settings


def horizon_rule(parameters: PolicyParameters, policy: Any) -> Any:
    """The rule that says how much of a chunk is executed: the checkpoint's, or the one named."""
    from rdvla_ros.control.horizon import make_horizon

    default = policy.horizon_config
    if parameters.horizon_rule and parameters.horizon_rule != default["rule"]:
        return make_horizon({"rule": parameters.horizon_rule})
    return make_horizon(default)
