"""One decision per episode: the head's chunk is the whole motion of both arms to the end, executed in the simulator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from rdvla_ros.learning.evaluation.pictures.motions import ROWS, STEP_S, ExpertMotions
from rdvla_ros.learning.evaluation.pictures.scenes import pictures_of
from rdvla_ros.learning.evaluation.symbols.scenes import SymbolScenes
from rdvla_ros.model.halting import make_halting
from rdvla_ros.model.head import RDVLAHead
from rdvla_ros.robot import RobotDescription
from rdvla_ros.sim.scene import JOINT_NAMES, AlohaSim
from rdvla_ros.sim.tasks.base import MAX_STAGE
from rdvla_ros.sim.tasks.follow_trail import FollowTrail, trail_scene

PERIOD_S = 0.02  # between two references of the actuators
WAIT_S = 0.6  # after the last row
HALTING = {
    "r = 1": {"rule": "fixed", "iterations": 1},
    "r = 3": {"rule": "fixed", "iterations": 3},
    "r = 6": {"rule": "fixed", "iterations": 6},
    "r = 12": {"rule": "fixed", "iterations": 12},
    "change 1e-4": {"rule": "action_change", "threshold": 1e-4, "max_iterations": 32},
    "two-hit 1e-4": {"rule": "two_hit", "threshold": 1e-4, "max_iterations": 32},
}


def moving_head(head: RDVLAHead) -> RDVLAHead:
    """The same head whose output is a motion of all joints; only its last linear map is new."""
    moving = RDVLAHead(replace(head.config, chunk_length=ROWS, action_dim=len(JOINT_NAMES)))
    kept = {name: tensor for name, tensor in head.state_dict().items() if not name.startswith("output.")}
    moving.load_state_dict(kept, strict=False)
    return moving


def as_motions(scenes: SymbolScenes, motions: ExpertMotions) -> SymbolScenes:
    """The scenes with motions instead of places to press."""
    return replace(scenes, press=motions.of(scenes.place, scenes.hand))


def execute(sim: AlohaSim, robot: RobotDescription, positions: np.ndarray, look: Callable[[], None] = lambda: None) -> None:
    """Follow rows (ROWS, A) in policy units, 0.1 s apart, in straight lines between them. look: called every PERIOD_S."""
    last, steps = robot.to_policy(sim.reference), round(PERIOD_S / sim.timestep_s)
    for row in [*positions, *[positions[-1]] * round(WAIT_S / STEP_S)]:
        for share in np.linspace(0.0, 1.0, round(STEP_S / PERIOD_S) + 1)[1:]:
            sim.set_reference(robot.from_policy(last + share * (row - last)))
            sim.step(steps)
            look()
        last = row
        if sim.meter.memory is not None:
            return


@torch.no_grad()
def perform(sim: AlohaSim, run: Any, robot: RobotDescription, folder: Path, hops: int, count: int) -> dict[str, Any]:
    """halting -> successes, presses and iterations, over the task's scenes of seeds 0 .. count - 1. run: see run.py."""
    reader = run.reader.eval()
    pictures = pictures_of(range(count), folder / "pictures" / f"length_{hops}.npz", hops)
    starts = torch.tensor([trail_scene(seed, hops).start for seed in range(count)])
    context = reader.encode_tokens(reader.project(run.tokens(pictures)), starts)
    sim.task = FollowTrail(hops)
    sim.meter = sim.task.meter(sim.model, sim.data)
    found = {}
    for name, settings in HALTING.items():
        result = reader.head.refine(context, make_halting(dict(settings)), generator=torch.Generator().manual_seed(1))
        found[name] = _episodes(sim, robot, run.motions, result, tqdm(range(count), desc=f"{hops} hops, {name}"))
    return found


def _episodes(sim: AlohaSim, robot: RobotDescription, motions: ExpertMotions, result: Any, seeds: Any) -> Mapping[str, Any]:
    outcomes = []
    for seed in seeds:
        sim.reset(seed)
        execute(sim, robot, motions.positions(result.actions[seed].numpy()))
        outcomes.append((sim.stage() == MAX_STAGE, sim.meter.memory is not None))
    successes, presses = (int(sum(column)) for column in zip(*outcomes, strict=True))
    iterations = result.iterations[: len(outcomes)].tolist()
    return {"success": successes, "pressed": presses, "of": len(outcomes), "iterations": iterations}
