"""A film of one episode per trail length: the picture that the head decides from, the iterations it took, and the motion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from rdvla_ros.learning.evaluation.pictures.moving import HALTING, execute
from rdvla_ros.learning.evaluation.pictures.scenes import pictures_of
from rdvla_ros.model.halting import make_halting
from rdvla_ros.robot import RobotDescription
from rdvla_ros.sim.scene import AlohaSim
from rdvla_ros.sim.tasks.base import MAX_STAGE
from rdvla_ros.sim.tasks.follow_trail import FollowTrail, trail_scene

WIDTH, HEIGHT, CAMERA = 480, 360, "top"
RATE_HZ = 8.0
RULE = "change 1e-4"
THINKING_S, AFTER_S = 0.15, 0.8  # a picture for each iteration; the last picture of an episode
BAND, WHITE, GREEN, GREY = 44, (255, 255, 255), (110, 220, 120), (90, 90, 90)


def film(sim: AlohaSim, run: Any, robot: RobotDescription, folder: Path, path: Path, lengths: Sequence[int], seed: int) -> None:
    """An animated GIF. One decision per episode; its iterations are counted up over the first picture, then the arms move."""
    frames, durations_ms = [], []

    def show(picture: np.ndarray, hops: int, iterations: int, done: str, seconds: float) -> None:
        lines = f"{hops} hops: {iterations} iterations, {done}", FollowTrail(hops).instruction_of(seed)
        frames.append(Image.fromarray(_overlay(picture, lines, iterations)).quantize(96))
        durations_ms.append(round(1000.0 * seconds))

    for hops in lengths:
        iterations, positions = _decide(run, folder, hops, seed)
        sim.task = FollowTrail(hops)
        sim.meter = sim.task.meter(sim.model, sim.data)
        sim.reset(seed)
        start = sim.render(CAMERA, WIDTH, HEIGHT)
        for count in range(iterations + 1):
            show(start, hops, count, "thinks", 2 * THINKING_S if count in (0, iterations) else THINKING_S)
        next_s = [sim.time_s]

        def look(hops: int = hops, iterations: int = iterations, next_s: list[float] = next_s) -> None:
            if sim.time_s >= next_s[0]:
                next_s[0] += 1.0 / RATE_HZ
                show(sim.render(CAMERA, WIDTH, HEIGHT), hops, iterations, "moves", 1.0 / RATE_HZ)

        execute(sim, robot, positions, look)
        right = "the right pad" if sim.stage() == MAX_STAGE else "a wrong pad" if sim.meter.memory is not None else "no pad"
        show(sim.render(CAMERA, WIDTH, HEIGHT), hops, iterations, f"pressed {right}", AFTER_S)
    path.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations_ms, loop=0, optimize=True)


@torch.no_grad()
def _decide(run: Any, folder: Path, hops: int, seed: int) -> tuple[int, np.ndarray]:
    """Iterations made, and the motion (ROWS, A) in policy units."""
    pictures = pictures_of([seed], folder / "pictures" / f"film_{hops}_{seed}.npz", hops)
    reader = run.reader.eval()
    starts = torch.tensor([trail_scene(seed, hops).start])
    context = reader.encode_tokens(reader.project(run.tokens(pictures)), starts)
    result = reader.head.refine(context, make_halting(dict(HALTING[RULE])), generator=torch.Generator().manual_seed(1))
    return int(result.iterations[0]), run.motions.positions(result.actions[0].numpy())


def _overlay(picture: np.ndarray, lines: tuple[str, str], iterations: int) -> np.ndarray:
    """lines: above and below the picture."""
    out = np.ascontiguousarray(picture)
    out[:BAND] = (out[:BAND] * 0.3).astype(np.uint8)
    _text(out, lines[0], (8, 20), WHITE)
    _text(out, lines[1], (8, HEIGHT - 12), WHITE)
    for k in range(16):  # a box for each iteration
        colour = GREEN if k < iterations else GREY
        cv2.rectangle(out, (8 + 16 * k, 27), (8 + 16 * k + 12, 38), colour, thickness=-1)
    return out


def _text(out: np.ndarray, text: str, at: tuple[int, int], colour: tuple[int, int, int]) -> None:
    cv2.putText(out, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(out, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.55, colour, 1, cv2.LINE_AA)
