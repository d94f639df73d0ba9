"""The policy node with a policy that needs no torch and is there at once: arms that swing, decisions as long as is wished.

For the parts of `rdvla bench control` that kill the policy a hundred times, and for its watchdog: told to "hang", a decision
writes when it was begun into the folder that the parameter `checkpoint` names, and does not end. Inference takes INFERENCE_S of
one core.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rdvla_ros.nodes.worker_messages import Loaded
from rdvla_ros.types import ActionChunk, Decision, Observation, StopReason

LOAD = "rdvla_ros.nodes.bench.control.stand_in:load"
ROWS, STEP_S, INFERENCE_S = 12, 0.1, 0.1
SWING, PERIOD_S = 0.12, 2.5  # [rad], of every joint
HANG, BEGUN = "hang", "hangs_since"


def load(settings: Mapping[str, Any]) -> tuple[Any, Loaded]:
    robot = settings["robot"]
    grippers = np.isin(robot["joint_names"], robot["gripper_joints"])
    folder, home = Path(settings["checkpoint"]), []

    def decide(observation: Observation, deadline_s: float | None, executed_steps: int | None) -> Decision:
        if observation.instruction == HANG:
            (folder / BEGUN).write_text(repr(time.monotonic()))
            time.sleep(3600.0)
        home.append(observation.positions) if not home else None
        end_s = time.monotonic() + INFERENCE_S
        while time.monotonic() < end_s:
            np.linalg.norm(np.ones((200, 200)))
        due_s = observation.stamp_s % PERIOD_S + (np.arange(ROWS) + 1) * STEP_S
        rows = home[0] + SWING * np.sin(2.0 * np.pi * due_s / PERIOD_S)[:, None] * ~grippers
        return _decision(ActionChunk(rows, STEP_S, observation.stamp_s))

    return decide, Loaded("a stand-in", "bench", ROWS, STEP_S, {"rule": "fixed", "length": ROWS}, tuple(robot["camera_names"]))


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
    from rdvla_ros.nodes import process
    from rdvla_ros.nodes.policy_node import PolicyNode

    class StandIn(PolicyNode):
        load = LOAD

    return process.run(StandIn)


if __name__ == "__main__":
    raise SystemExit(main())
