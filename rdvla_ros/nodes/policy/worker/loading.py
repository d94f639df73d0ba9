"""From settings to a policy that fits the robot, in the decision process; and the settings, in the node. No ROS here."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdvla_ros.nodes.policy.worker.protocol import Loaded
from rdvla_ros.robot import RobotDescription
from rdvla_ros.types import CheckpointError, Decision, Observation

if TYPE_CHECKING:  # the decision process imports no ROS
    from rdvla_ros.nodes.policy.parameters import PolicyParameters
    from rdvla_ros.nodes.policy.worker.main import Decider

LOAD = "rdvla_ros.nodes.policy.worker.loading:load_policy"
READ = ("checkpoint", "device", "threads", "seed", "halting_rule", "halting_threshold", "max_iterations")
MIB = 1 << 20


def settings(parameters: PolicyParameters, robot: RobotDescription) -> dict[str, Any]:
    """What the decision process must know, as JSON can hold it; CheckpointError where no checkpoint is named."""
    if not parameters.checkpoint:
        raise CheckpointError(
            "checkpoint: expected a folder with manifest.json and model.safetensors, got none. Pass checkpoint:=<folder>."
        )
    fits = {
        "joint_names": robot.joint_names,
        "camera_names": robot.camera_names,
        "representation": robot.representation,
        "gripper_joints": robot.gripper_joints,
        "sensors": robot.sensor_sizes,
    }
    values = {name: getattr(parameters, name) for name in READ}
    return {**values, "robot": fits, "memory_bytes": parameters.worker_memory_mib * MIB}


def load_policy(settings: Mapping[str, Any]) -> tuple[Decider, Loaded]:
    """What decides for the robot, and what it is. Called in the process and thread that will decide."""
    import torch

    from rdvla_ros.model.policy import Policy

    torch.set_num_threads(settings["threads"])
    policy = Policy.load(
        settings["checkpoint"], device=settings["device"], halting=halting_settings(settings), seed=settings["seed"]
    )
    policy.require_robot(**settings["robot"])
    policy.warm_up()
    contract = policy.contract
    loaded = Loaded(
        name=policy.name,
        identity=identity(settings["checkpoint"]),
        chunk_length=contract.chunk_length,
        step_s=contract.step_s,
        horizon=policy.horizon_config,
        camera_names=tuple(contract.camera_names),
        sensor_names=policy.sensor_names,
    )
    return partial(decide, policy, inspect.signature(policy.decide).parameters), loaded


def identity(checkpoint: str) -> str:
    """SHA-256 of the manifest, which holds that of the weights."""
    from rdvla_ros.model.checkpoint import MANIFEST

    return hashlib.sha256((Path(checkpoint) / MANIFEST).read_bytes()).hexdigest()


def halting_settings(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The checkpoint's halting rule with what the parameters override; None when they override nothing."""
    from rdvla_ros.model.checkpoint import read_manifest

    named, threshold, limit = (settings[key] for key in ("halting_rule", "halting_threshold", "max_iterations"))
    if not (named or threshold or limit):
        return None
    default = read_manifest(settings["checkpoint"])["inference"]["halting"]
    rule = named or default["rule"]
    chosen = dict(default) if rule == default["rule"] else {"rule": rule}
    if threshold:
        chosen["threshold"] = threshold
    if limit:
        chosen["iterations" if rule == "fixed" else "max_iterations"] = limit
    return chosen


def decide(
    policy: Any,
    takes: Mapping[str, Any],
    observation: Observation,
    deadline_s: float | None,
    executed_steps: int | None,
    factor: int = 1,
) -> Decision:
    """The policy's decision; a note says where joints lie beyond its demonstrations: it sees them at the edge of those. factor:
    times as many iterations as its halting rule allows."""
    extra = {"executed_steps": executed_steps} if "executed_steps" in takes else {}
    with _longer(policy, factor):
        decision = policy.decide(observation, deadline=deadline_s, **extra)
    scaler, names = policy.checkpoint.space.proprio, policy.contract.joint_names
    beyond = [
        f"'{name}' is at {value:.3g}, demonstrated were {low:.3g} .. {high:.3g}"
        for name, value, low, high in zip(names, observation.positions, scaler.low, scaler.high, strict=True)
        if not low <= value <= high
    ]
    note = f"joints outside the demonstrations: {'; '.join(beyond)}"
    return replace(decision, notes=(*decision.notes, note)) if beyond else decision


@contextmanager
def _longer(policy: Any, factor: int) -> Iterator[None]:
    """The policy's halting rule allows `factor` times as many iterations."""
    if factor == 1:
        yield
        return
    from rdvla_ros.model.halting import with_limit

    usual = policy.halting
    policy.halting = with_limit(usual, factor * int(usual.max_iterations))
    try:
        yield
    finally:
        policy.halting = usual


def horizon_rule(parameters: PolicyParameters, default: Mapping[str, Any]) -> Any:
    """The rule that says how much of a chunk is executed: the checkpoint's, or the one named."""
    from rdvla_ros.control.motion.horizon import make_horizon

    if parameters.horizon_rule and parameters.horizon_rule != default["rule"]:
        return make_horizon({"rule": parameters.horizon_rule})
    return make_horizon(default)
