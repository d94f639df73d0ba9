"""`rdvla study three-tasks`: one checkpoint for cube transfer, insertion and trails, chosen by the instruction alone.

1. Observing: the backbone of the policy that knows two tasks looks at its own episodes and at scenes of trails. It stands still.
2. Wide: the head that `rdvla study trail-policy` made learns to follow trails in as many rows and beside as many tokens as the
   other head has, with chunks as short.
3. Joint: both heads become one (their direct sum), and all of its weights are trained on trails and, by distillation, on what the
   known head does. Between the rounds the new policy runs itself, and the known head says what it would do there.
Stopped anywhere, the same command goes on. Seeds: 32000.. trails, 40000.. episodes of the known policy, 50000.. of the new one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rdvla_ros.learning.evaluation.evaluate import DEFAULT_ROBOT
from rdvla_ros.learning.evaluation.pictures.motions import motions_of
from rdvla_ros.learning.evaluation.three_tasks import build
from rdvla_ros.learning.evaluation.three_tasks.direct_sum import Sizes, norms_of
from rdvla_ros.learning.evaluation.three_tasks.observed import Observed, episodes, joined, of_trails
from rdvla_ros.learning.evaluation.three_tasks.training import JointTrainer, KnownSettings, Teacher, WideTrainer
from rdvla_ros.learning.evaluation.three_tasks.widened import wide_config, widened
from rdvla_ros.learning.evaluation.trail_policy.build import VIEW
from rdvla_ros.learning.evaluation.trail_policy.lessons import Lessons, PadTokens
from rdvla_ros.learning.evaluation.trail_policy.main import FIRST_MOTION_SEED, FIRST_SEED, rest, run, seen
from rdvla_ros.learning.evaluation.trail_policy.paths import PressPaths
from rdvla_ros.learning.evaluation.trail_policy.sights import sights
from rdvla_ros.learning.evaluation.trail_policy.training import Settings
from rdvla_ros.model.backbones.compact import CameraInput
from rdvla_ros.model.checkpoint import load_checkpoint, save_checkpoint
from rdvla_ros.robot import RobotDescription, shipped_policy
from rdvla_ros.sim.tasks import get_task
from rdvla_ros.sim.trails import PADS

KNOWN_TASKS = ("transfer_cube", "insertion")
FIRST_KNOWN_SEED, FIRST_OWN_SEED = 40000, 50000
WIDTH = 128  # of the trails' half; the head it comes from has 64
TIMES = {"transfer_cube": 1, "insertion": 2}  # an observation comes up; those of own episodes twice as often


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="rdvla study three-tasks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--known", type=Path, default=shipped_policy("insertion"), help="checkpoint of the other two tasks")
    parser.add_argument("--trails", type=Path, required=True, help="output folder of 'rdvla study trail-policy'")
    parser.add_argument("--scenes", type=int, default=2000, help="of trails; as many as that run had")
    parser.add_argument("--motions", type=int, default=40, help="as many as that run had")
    parser.add_argument("--episodes", type=int, default=40, help="of the known policy, of each task")
    parser.add_argument("--own", type=int, default=12, help="episodes of the new policy, of each task after each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, nargs=2, default=(1800, 1600), metavar=("WIDE", "JOINT"))
    parser.add_argument("--robot", type=Path, default=DEFAULT_ROBOT)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True, help="states of the training, and checkpoint/ at the end")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    made = ThreeTasks(arguments)
    made.wide()
    for stage in range(1, arguments.rounds + 1):
        made.joint(stage)
    folder = arguments.output / "checkpoint"
    print(f"{folder}: 'rdvla evaluate --task insertion --checkpoint {folder}' measures it.")
    return 0


class ThreeTasks:
    """What the stages have in common."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments, self.folder, trails = arguments, arguments.output, arguments.trails
        self.robot = robot = RobotDescription.load(arguments.robot)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.known, self.trails = load_checkpoint(arguments.known), load_checkpoint(trails / "checkpoint")
        state = torch.load(trails / "together.pt", map_location="cpu", weights_only=True)
        width = self.trails.model.head.config.hidden_dim
        self.tokens, self.naming_state = PadTokens(width), state["naming"]
        self.tokens.load_state_dict(state["tokens"])
        motions = motions_of(range(FIRST_MOTION_SEED, FIRST_MOTION_SEED + arguments.motions), robot, trails / "motions.npz")
        paths, seeds = PressPaths(motions, rest(robot)), range(FIRST_SEED, FIRST_SEED + arguments.scenes)
        pictures = sights(robot, VIEW, paths, seeds, trails / "sights.pt")
        self.space = build.common_space(self.known.space, self.trails.space)
        self.lessons = Lessons(self.space, paths, pictures)
        self.lessons.tokens = seen(self.trails.model.backbone.stems[VIEW.name], pictures)
        self.around = of_trails(arguments.known, robot, paths, seeds, self.folder / "around.pt")
        self.episodes = self._episodes(arguments.known, FIRST_KNOWN_SEED, arguments.episodes, "known", VIEW)
        parts = [self.around, *self.episodes["insertion"], *self.episodes["transfer_cube"]]
        latents = torch.cat([part.latents.flatten(0, 2)[::8].float() for part in parts])
        self.directions = build.free_directions(latents, width)
        teacher = self.known.model.head
        build.rescale_proprio(teacher, self.known.space.proprio, self.space.proprio)
        self.teacher = Teacher(teacher, PADS + 1, KnownSettings())
        instructions = tuple(get_task(task).instruction for task in KNOWN_TASKS)
        self.backbone, self.tokenizer = build.extended_backbone(
            self.known, self.trails, self.tokens, self.directions, instructions
        )
        self._add_tokens(instructions)
        self.head = widened(self.trails.model.head, wide_config(teacher.config, WIDTH), self.directions)
        self.head.proprio.load_state_dict(teacher.proprio.state_dict())
        self.head.proprio.requires_grad_(False)

    def wide(self) -> None:
        settings = Settings(steps=self.arguments.steps[0], batch=48, seen_share=0.4, late_s=1.8, early_share=0.75)
        naming = self._naming(WIDTH, 0, self.naming_state)
        trainer = WideTrainer(self.head, self.tokens, self.lessons, settings, naming, self.directions, self.around)
        run(trainer, self.folder / "wide.pt", "wide")
        self.head.load_state_dict(trainer.average)
        self.naming_state = trainer.naming.state_dict()

    def joint(self, stage: int) -> None:
        """The steps up to this round's, then (except after the last) episodes of its policy."""
        whole, rounds = self.arguments.steps[1], self.arguments.rounds
        trainer, path = self._trainer(), self.folder / "joint.pt"
        run(trainer, path, f"joint, round {stage} of {rounds}", until=whole * stage // rounds)
        head = trainer.head
        head.load_state_dict(trainer.average)
        print(
            f"Distance to the known head's chunk: {trainer.error(head, torch.arange(0, len(trainer.known), 37)):.4f}, normalised."
        )
        notes = {
            "robot": self.robot.name,
            "step": self.arguments.steps[0] + trainer.progress.step,
            "minutes": round(trainer.progress.seconds / 60.0, 1),
            "data": [
                f"scenes of trails {FIRST_SEED}..",
                f"episodes {FIRST_KNOWN_SEED}.. and {FIRST_OWN_SEED}.. of both other tasks",
            ],
            "instructions": [get_task(task).instruction for task in (*KNOWN_TASKS, "follow_trail")],
            "signals of training only": "pad after each hop, its colours, the chunks of the policy that knew the other two tasks",
        }
        made = build.checkpoint_of(self.known, self.backbone, head, self.tokenizer, self.space, notes)
        folder = self.folder / ("checkpoint" if stage == rounds else f"round_{stage}")
        save_checkpoint(folder, made, dtype="float16")
        if stage < rounds:
            first = FIRST_OWN_SEED + (stage - 1) * self.arguments.own
            own = self._episodes(folder, first, self.arguments.own, f"round_{stage}_episodes")
            for task in KNOWN_TASKS:
                self.episodes[task] += own[task]

    def _trainer(self) -> JointTrainer:
        arguments = self.arguments
        settings = Settings(
            steps=arguments.steps[1], batch=16, decoded=2, seen_share=0.5, learning_rate=6e-4, backprop_depth=5, late_s=1.8,
            early_share=0.75,
        )  # fmt: skip
        known = joined([part for task in KNOWN_TASKS for part in self.episodes[task]])
        order, head = self._order(), self.teacher.head
        joint = build.joined_head(head, self.head, self._sizes(known), self.directions, self.space)
        naming = self._naming(joint.config.hidden_dim, head.config.hidden_dim, self.naming_state)
        trainer = JointTrainer(joint, self.tokens, self.lessons, settings, naming, self.directions, self.around, seed=2)
        trainer.teach(self.teacher, known, order)
        return trainer

    @torch.no_grad()
    def _add_tokens(self, instructions: tuple[str, ...]) -> None:
        """To the known policy's episodes: what the new backbone sees and reads besides. The new policy's own have it."""
        stem, words = self.backbone.stems[VIEW.name], self.backbone.text.beside
        for task, instruction in zip(KNOWN_TASKS, instructions, strict=True):
            text = words(torch.tensor([self.tokenizer.encode(instruction)]))
            made = []
            for part in self.episodes[task]:
                views = (part.views.float() / 127.5 - 1.0).contiguous(memory_format=torch.channels_last)
                made.append(part.with_tokens(torch.cat([stem(views), text.expand(len(part), -1, -1)], 1)))
            self.episodes[task] = made

    def _order(self) -> Tensor:
        rows, at = [], 0
        for task in KNOWN_TASKS:
            for number, part in enumerate(self.episodes[task]):
                times = TIMES[task] * (1 if number < self.arguments.episodes else 2)
                rows += [torch.arange(at, at + len(part))] * times
                at += len(part)
        return torch.cat(rows)

    def _sizes(self, known: Observed) -> Sizes:
        rows = torch.arange(0, len(known), 40)
        wide = WideTrainer(
            self.head, self.tokens, self.lessons, Settings(batch=64), self._naming(WIDTH, 0), self.directions, self.around
        )

        def at_home(head) -> None:
            task, latents = known.states(rows, head.config.context_layers)
            extra = 0 if head is self.head else PADS + 1
            latents = {layer: part[:, : part.shape[1] - extra] for layer, part in latents.items()}
            _decide(head, head.encode(task, latents, self.lessons.proprio(known.positions[rows]), check=False))

        def away(head) -> None:
            trainer, rng = wide, np.random.default_rng(5)
            trainer.head, kept = head, trainer.head
            _decide(head, trainer._context(trainer.batch(rng)[0], rng)[0])
            trainer.head = kept

        first, second = self.teacher.head, self.head
        return Sizes(norms_of(first, at_home), norms_of(second, at_home), norms_of(first, away), norms_of(second, away))

    def _episodes(
        self, checkpoint: Path, first: int, count: int, name: str, view: CameraInput | None = None
    ) -> dict[str, list[Observed]]:
        seeds = range(first, first + count)
        return {task: episodes(checkpoint, self.robot, task, seeds, self.folder / name, view) for task in KNOWN_TASKS}

    def _naming(self, width: int, before: int, state: dict[str, Tensor] | None = None) -> nn.Linear:
        """Reads the columns from `before` on as the helper in `state` reads all of its own."""
        naming = nn.Linear(width, 2 * self.tokens.colours.embedding_dim)
        if state is not None:
            with torch.no_grad():
                naming.weight.zero_()
                naming.weight[:, before : before + state["weight"].shape[1]] = state["weight"]
                naming.bias.copy_(state["bias"])
        return naming


@torch.no_grad()
def _decide(head, context) -> None:
    state = head.initial_state(len(context.anchor))
    for k in range(3):
        state = head.iterate(context, state, k)
    head.decode(context, state)


if __name__ == "__main__":
    raise SystemExit(main())
