"""`rdvla study trail-policy`: a checkpoint that follows trails in closed loop, deciding again while an arm is on its way.

1. Moving: the head of `rdvla study symbols` gets chunks of all joints, and learns to go on: a later decision begins from the
   scratchpad that the decision before left, sees the arm on its way and fewer pads, and goes on to the same end.
2. Seeing: the view's stem learns to make the symbols' tokens of pictures, its text token to make those of the words.
3. Together: the same lessons on what is seen.
Stopped anywhere, the same command goes on. Scenes: seeds 31000.. and 32000..; seeds 0.. are for evaluation.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from rdvla_ros.learning.evaluation.evaluate import DEFAULT_ROBOT
from rdvla_ros.learning.evaluation.pictures.motions import motions_of
from rdvla_ros.learning.evaluation.pictures.run import load_symbols
from rdvla_ros.learning.evaluation.symbols.recipes import RECIPES
from rdvla_ros.learning.evaluation.trail_policy.build import VIEW, named_by, new_checkpoint, symbol_tokens
from rdvla_ros.learning.evaluation.trail_policy.eye import EyeTrainer, teach_words
from rdvla_ros.learning.evaluation.trail_policy.lessons import Lessons
from rdvla_ros.learning.evaluation.trail_policy.paths import PressPaths
from rdvla_ros.learning.evaluation.trail_policy.sights import Sights, sights
from rdvla_ros.learning.evaluation.trail_policy.training import Settings, Trainer
from rdvla_ros.model.backbones.compact import CameraStem
from rdvla_ros.model.checkpoint import save_checkpoint
from rdvla_ros.robot import RobotDescription
from rdvla_ros.sim.scene import AlohaSim

FIRST_MOTION_SEED, FIRST_SEED = 31000, 32000
SAVE_EVERY_S, SHOWN = 60.0, 20


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="rdvla study trail-policy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--symbols", type=Path, required=True, help="runs/<recipe>_<seed>.pt of 'rdvla study symbols'")
    parser.add_argument("--recipe", default="default", choices=sorted(RECIPES), help="of that run")
    parser.add_argument("--scenes", type=int, default=2000, help="two pictures are made of each")
    parser.add_argument("--motions", type=int, default=40, help="scenes whose ten pads the expert presses")
    parser.add_argument("--steps", type=int, nargs=3, default=(3000, 900, 2500), metavar=("MOVING", "SEEING", "TOGETHER"))
    parser.add_argument("--robot", type=Path, default=DEFAULT_ROBOT)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True, help="states of the training, and checkpoint/ at the end")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    folder, robot = arguments.output, RobotDescription.load(arguments.robot)
    folder.mkdir(parents=True, exist_ok=True)
    seeds = range(FIRST_MOTION_SEED, FIRST_MOTION_SEED + arguments.motions)
    motions = motions_of(seeds, robot, folder / "motions.npz")
    paths = PressPaths(motions, rest(robot))
    pictures = sights(robot, VIEW, paths, range(FIRST_SEED, FIRST_SEED + arguments.scenes), folder / "sights.pt")
    reader = load_symbols(arguments.symbols, arguments.recipe)
    checkpoint = new_checkpoint(reader, robot, paths, motions)
    tokens, lessons = symbol_tokens(reader), Lessons(checkpoint.space, paths, pictures)
    head, backbone, named = checkpoint.model.head, checkpoint.model.backbone, named_by(checkpoint)
    moving = Trainer(head, tokens, named, lessons, Settings(steps=arguments.steps[0]))
    run(moving, folder / "moving.pt", "moving")
    head.load_state_dict(moving.average)
    tokens.requires_grad_(False)
    stem = backbone.stems[VIEW.name]
    EyeTrainer(stem, tokens, pictures, arguments.steps[1]).run(folder / "seeing.pt")
    print(f"Words: {teach_words(backbone.text.beside, checkpoint.tokenizer, tokens):.1e} of the variance is not explained.")
    lessons.tokens = seen(stem, pictures)
    settings = Settings(steps=arguments.steps[2], learning_rate=5e-4, naming_weight=0.0)
    together = Trainer(head, tokens, named, lessons, settings, seed=1)
    run(together, folder / "together.pt", "together")
    head.load_state_dict(together.average)
    notes = {
        "robot": robot.name,
        "step": sum(arguments.steps),
        "minutes": round((moving.progress.seconds + together.progress.seconds) / 60.0, 1),
        "data": [f"scenes of seeds {FIRST_SEED}..{FIRST_SEED + arguments.scenes - 1}", f"motions of {seeds[0]}..{seeds[-1]}"],
        "instructions": ["follow the trail from the <colour> pad and press its end"],
        "signals of training only": "pad after each hop, its colours, places of the pads in the picture, what an arm hides",
    }
    save_checkpoint(folder / "checkpoint", replace(checkpoint, training=notes), dtype="float32")
    print(f"{folder / 'checkpoint'}: 'rdvla evaluate --task follow_trail --checkpoint {folder / 'checkpoint'}' measures it.")
    return 0


def rest(robot: RobotDescription) -> torch.Tensor:
    """(A,) references at the start [policy units]."""
    sim = AlohaSim("follow_trail")
    sim.reset(0)
    return torch.from_numpy(robot.to_policy(sim.reference))


def run(trainer: Trainer, path: Path, title: str, until: int | None = None) -> None:
    """To the last step, or to step `until`; from where `path` is, and saved there."""
    if path.is_file():
        trainer.restore(path)
    steps, saved, recent = until or trainer.settings.steps, time.monotonic(), []
    progress = tqdm(total=steps, initial=trainer.progress.step, desc=title, unit="step", mininterval=2.0)
    while trainer.progress.step < steps:
        recent = [*recent[1 - SHOWN :], trainer.take_step()]
        progress.update()
        shown = {name: np.mean([row[name] for row in recent if name in row]) for name in recent[-1]}
        progress.set_postfix_str(", ".join(f"{name} {value:.4f}" for name, value in shown.items()), refresh=False)
        if time.monotonic() - saved > SAVE_EVERY_S or trainer.progress.step == steps:
            trainer.save(path)
            saved = time.monotonic()
    progress.close()


@torch.no_grad()
def seen(stem: CameraStem, pictures: Sights) -> torch.Tensor:
    """(N, P, D) tokens of the stem that stands still now."""
    parts = (part.float() / 127.5 - 1.0 for part in pictures.views.split(100))
    return torch.cat([stem.eval()(part.contiguous(memory_format=torch.channels_last)) for part in parts])


if __name__ == "__main__":
    raise SystemExit(main())
