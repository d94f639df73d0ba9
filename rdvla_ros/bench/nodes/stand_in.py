"""The policy node with a policy that needs no torch and is there at once: arms that swing, decisions as long as is wished.

For the parts of `rdvla bench control` that kill the policy a hundred times, and for its watchdog: told to "hang", a decision
writes when it was begun into the folder that the parameter `checkpoint` names, and does not end. Inference takes INFERENCE_S of
one core; told to "infer 0.4" a decision takes that long instead, what is beyond INFERENCE_S asleep.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rdvla_ros.nodes.policy.worker.protocol import Loaded
from rdvla_ros.types import ActionChunk, Decision, Observation, StopReason

LOAD = "rdvla_ros.bench.nodes.stand_in:load"
ROWS, STEP_S, INFERENCE_S = 12, 0.1, 0.1
SWING, PERIOD_S = 0.12, 2.5  # [rad], of every joint, each at a phase of its own: the arms never stand still
HANG, BEGUN = "hang", "hangs_since"
INFER = "infer "


def load(settings: Mapping[str, Any]) -> tuple[Any, Loaded]:
    robot = settings["robot"]
    grippers = np.isin(robot["joint_names"], robot["gripper_joints"])
    folder, home = Path(settings["checkpoint"]), []

    def decide(observation: Observation, deadline_s: float | None, executed_steps: int | None) -> Decision:
        if observation.instruction == HANG:
            (folder / BEGUN).write_text(repr(time.monotonic()))
            time.sleep(3600.0)
        home.append(observation.positions) if not home else None
        _think(observation.instruction)
        due_s = observation.stamp_s + (np.arange(ROWS) + 1) * STEP_S
        rows = home[0] + SWING * np.sin(angles(due_s, len(grippers))) * ~grippers
        return _decision(ActionChunk(rows, STEP_S, observation.stamp_s))

    return decide, Loaded("a stand-in", "bench", ROWS, STEP_S, {"rule": "fixed", "length": ROWS}, tuple(robot["camera_names"]))


def angles(times_s: np.ndarray, joints: int) -> np.ndarray:
    """(T, A) of the swing at ROS times."""
    return 2.0 * np.pi * ((np.asarray(times_s) % PERIOD_S / PERIOD_S)[:, None] + 0.618 * np.arange(joints))


def swing_velocity(times_s: np.ndarray, joints: int) -> np.ndarray:
    """(T, A) [rad/s] of the motion that all decisions agree on; not for grippers, which stay."""
    return SWING * 2.0 * np.pi / PERIOD_S * np.cos(angles(times_s, joints))


def _think(instruction: str) -> None:
    begun_s = time.monotonic()
    wanted_s = float(instruction.removeprefix(INFER)) if instruction.startswith(INFER) else INFERENCE_S
    while time.monotonic() < begun_s + min(wanted_s, INFERENCE_S):
        np.linalg.norm(np.ones((200, 200)))
    time.sleep(max(0.0, begun_s + wanted_s - time.monotonic()))


def _decision(chunk: ActionChunk) -> Decision:
    return Decision(
        chunk=chunk,
        refinement=None,
        timings={"total": INFERENCE_S},
        iterations=3,
        limit=16,
        threshold=1e-3,
        change=np.array([np.nan, 0.1, 1e-4]),
        step_change=np.full(ROWS, 1e-4),
        stop_reason=StopReason.CONVERGED,
        converged=True,
    )


def main() -> int:
    from rdvla_ros.nodes.common.run import run
    from rdvla_ros.nodes.policy.node import PolicyNode

    class StandIn(PolicyNode):
        load = LOAD

    return run(StandIn)


if __name__ == "__main__":
    raise SystemExit(main())
