"""`rdvla ablate`: what the parts of the recurrent head are worth, one table row per variant, with seeds.

Heads are trained from scratch on the frozen backbone of a checkpoint: what the backbone makes of every demonstration is computed
once, so that a variant costs minutes and many can be compared with several seeds each. The measure is the mean absolute error of
the normalised chunk on held-out episodes, at several depths. What this cannot show: a backbone trained together with each
variant (this one was trained with the default head, and may have taken over work of the core), and success in closed loop.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from rdvla_ros.learning.config import Augmentation, DataSettings, DepthSampler, TrainingError
from rdvla_ros.learning.data.augment import BatchMaker
from rdvla_ros.learning.data.dataset import Frames, Wanted, build_cache, open_cache
from rdvla_ros.learning.data.lerobot import SENSORS
from rdvla_ros.learning.evaluation.evaluate import DEFAULT_CHECKPOINT, DEFAULT_ROBOT
from rdvla_ros.learning.training.recurrence import chunk_loss, unroll
from rdvla_ros.learning.training.validation import head_error_by_depth
from rdvla_ros.model.checkpoint import Checkpoint, load_checkpoint
from rdvla_ros.model.config import HeadConfig
from rdvla_ros.model.head import RDVLAHead
from rdvla_ros.model.normalization import SensorSpace
from rdvla_ros.robot import RobotDescription
from rdvla_ros.types import nearest_names

DEPTHS = (1, 2, 4, 8, 16, 32)
LABEL_ROWS = 12


@dataclass(frozen=True)
class Variant:
    """head: changes of the head's configuration. depth: iterations drawn in training. warm_start: share of training batches
    that begin with the state that the refinement of the same observations ended with, noise added. readings: what the head is
    told of the sensors of --sensors: nothing, their readings ('given'), or those of another observation ('shuffled')."""

    title: str
    head: Mapping[str, Any] = field(default_factory=dict)
    depth: DepthSampler = DepthSampler(mean=8.0, shallow_fraction=0.0)
    backprop_depth: int = 4
    early_weight: float = 0.0
    warm_start: float = 0.0
    readings: str = ""


VARIANTS = {
    "default": Variant("K = 8, D = 192, truncated normal start, shared weights, gradient through 4, depth drawn around 8"),
    "k4": Variant("K = 4 rows", {"scratchpad_rows": 4}),
    "k16": Variant("K = 16 rows", {"scratchpad_rows": 16}),
    "d96": Variant("D = 96", {"hidden_dim": 96, "num_heads": 3}),
    "d288": Variant("D = 288", {"hidden_dim": 288, "num_heads": 6}),
    "zeros": Variant("start from zeros", {"initial_state": "zeros"}),
    "normal": Variant("start from a normal of standard deviation 0.02", {"initial_state": "normal", "init_std": 0.02}),
    "unshared": Variant("8 sets of core weights", {"unshared_iterations": 8}),
    "backprop1": Variant("gradient through 1 iteration", backprop_depth=1),
    "backprop8": Variant("gradient through 8 iterations", backprop_depth=8),
    "fixed8": Variant("always 8 iterations in training", depth=DepthSampler(mean=8.0, sigma=0.0, shallow_fraction=0.0, fixed=8)),
    "shallow": Variant("half of the batches 1..4 iterations deep", depth=DepthSampler(mean=8.0, shallow_fraction=0.5)),
    "early": Variant("loss on one shallower state too", early_weight=0.3),
    "warm": Variant("half of the batches start warm", warm_start=0.5),
    "readings": Variant("default, with a token per sensor", readings="given"),
    "shuffled": Variant("the same, with the readings of another observation", readings="shuffled"),
}


@dataclass(frozen=True)
class Features:
    """What the frozen backbone makes of N observations. task, latents: layer -> (N, rows, C) float16; proprio (N, A);
    target (N, H, A), normalised; held_out (N,) bool; readings (N, sum of widths), normalised, of the sensors."""

    task: dict[int, Tensor]
    latents: dict[int, Tensor]
    proprio: Tensor
    target: Tensor
    held_out: np.ndarray
    readings: Tensor | None = None
    widths: tuple[int, ...] = ()

    def told(self, readings: str, seed: int) -> Features:
        """With what a variant is told of the sensors."""
        if not readings:
            return dataclasses.replace(self, readings=None, widths=())
        order = torch.randperm(len(self.readings), generator=torch.Generator().manual_seed(seed))
        return self if readings == "given" else dataclasses.replace(self, readings=self.readings[order])


@torch.no_grad()
def features_of(checkpoint: Checkpoint, frames: Frames, batch_size: int = 64) -> Features:
    widths, usable = frames.sensor_widths, ~frames.held_out
    sensors = SensorSpace.fit(widths, frames.readings[usable]) if widths else None
    space = dataclasses.replace(checkpoint.space, sensors=sensors)
    maker = BatchMaker(frames, space, checkpoint.tokenizer, Augmentation(), checkpoint.contract.chunk_length)
    layers, backbone = checkpoint.model.head.config.context_layers, checkpoint.model.backbone.eval()
    parts: list[tuple] = []
    for indices in tqdm(
        np.array_split(np.arange(len(frames)), math.ceil(len(frames) / batch_size)), desc="features", unit="batch"
    ):
        batch = maker.make(indices)
        task, latents = backbone(batch.images, batch.input_ids, layers)
        parts.append(({i: task[i].half() for i in layers}, {i: latents[i].half() for i in layers}, batch.proprio, batch.target))
    task, latents = ({i: torch.cat([part[k][i] for part in parts]) for i in layers} for k in (0, 1))
    proprio, target = (torch.cat([part[k] for part in parts]) for k in (2, 3))
    readings = torch.from_numpy(sensors.encode(frames.readings).astype(np.float32)) if sensors else None
    return Features(task, latents, proprio, target, frames.held_out, readings, tuple(widths.values()))


def train_head(
    variant: Variant, base: HeadConfig, features: Features, steps: int, batch_size: int, seed: int, learning_rate: float = 1e-3
) -> dict[int, float]:
    """depth -> error on the held-out observations, of a head trained from scratch."""
    torch.manual_seed(seed)
    features = features.told(variant.readings, seed)
    own = {"context_dim": base.context_width, "backprop_depth": variant.backprop_depth, "sensors": features.widths}
    changes = {**own, **variant.head}
    head = RDVLAHead(dataclasses.replace(base, **changes))
    optimiser = torch.optim.AdamW(head.parameters(), lr=learning_rate, weight_decay=0.02, betas=(0.9, 0.95), fused=True)
    usable, rng = np.flatnonzero(~features.held_out), np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    head.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / 50, 4 * (steps - step) / steps)
        indices = rng.choice(usable, batch_size)
        loss = _loss(variant, head, features, indices, rng, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return held_out_errors(head.eval(), features)


def _loss(
    variant: Variant,
    head: RDVLAHead,
    features: Features,
    indices: np.ndarray,
    rng: np.random.Generator,
    generator: torch.Generator,
) -> Tensor:
    depth = variant.depth.draw(rng)
    with sdpa_kernel(SDPBackend.MATH):
        context = _encode(head, features, indices)
        state = head.initial_state(len(indices), generator)
        if rng.random() < variant.warm_start:
            with torch.no_grad():
                before = unroll(head, context, state, variant.depth.draw(rng), 1)[-1]
                state = before + 0.1 * before.std() * torch.randn(before.shape, generator=generator)
        states = unroll(head, context, state, depth, variant.backprop_depth)
        early = int(rng.integers(len(states))) if variant.early_weight and len(states) > 1 else None
        return chunk_loss(head, context, states, features.target[indices], early, variant.early_weight)[0]


def _encode(head: RDVLAHead, features: Features, indices: np.ndarray):
    layers = head.config.context_layers
    task, latents = ({i: states[i][indices].float() for i in layers} for states in (features.task, features.latents))
    return head.encode(task, latents, features.proprio[indices], features.readings[indices] if features.widths else None)


def held_out_errors(head: RDVLAHead, features: Features, depths: Sequence[int] = DEPTHS) -> dict[int, float]:
    chosen = np.flatnonzero(features.held_out)
    parts = np.array_split(chosen, math.ceil(len(chosen) / 128))
    return head_error_by_depth(head, ((_encode(head, features, part), features.target[part]) for part in parts), depths)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half of its 95 % interval over seeds (Student's t)."""
    t95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}
    n = len(values)
    half = t95.get(n, 1.96) * float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return float(np.mean(values)), half


def table(results: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Markdown: a row per variant, error at each depth as mean +- half of the 95 % interval over seeds."""
    depths = [str(depth) for depth in DEPTHS]
    lines = ["| variant | seeds | " + " | ".join(f"r = {d}" for d in depths) + " |", "|---" * (len(depths) + 2) + "|"]
    for name, runs in results.items():
        cells = ["{:.4f} ± {:.4f}".format(*interval([run[d] for run in runs])) for d in depths]
        lines.append(f"| {VARIANTS[name].title} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(results: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 4.6), layout="constrained")
    for i, (name, runs) in enumerate(results.items()):
        points = [interval([run[str(d)] for run in runs])[0] for d in DEPTHS]
        axes.plot(DEPTHS, points, "o-" if i < 10 else "s--", ms=3, lw=2.5 if name == "default" else 1.0, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set(xlabel="iterations", ylabel="mean absolute error (normalised), held-out episodes", xticks=DEPTHS)
    axes.set_xticklabels(DEPTHS)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, ncols=2, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="rdvla ablate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=DEFAULT_CHECKPOINT, help="its backbone is used, frozen")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="LeRobotDatasets (v3.0)")
    parser.add_argument("--robot", type=Path, default=DEFAULT_ROBOT)
    parser.add_argument("--variants", nargs="+", help=f"of {', '.join(VARIANTS)}; without it all that the data allows")
    parser.add_argument(
        "--sensors", nargs="+", default=[], help="names of sensors in the data, or NAME=FEATURE; for the variants with readings"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--held-out-every", type=int, default=5, help="every n-th episode is held out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True, help="folder; variants and seeds there are not run again")
    arguments = parser.parse_args(argv)
    sensors = dict((name.partition("=")[::2] if "=" in name else (name, SENSORS + name)) for name in arguments.sensors)
    arguments.variants = arguments.variants or [name for name, v in VARIANTS.items() if sensors or not v.readings]
    for name in arguments.variants:
        if name not in VARIANTS:
            raise TrainingError(f"variant '{name}'. {nearest_names(name, VARIANTS)}")
        if VARIANTS[name].readings and not sensors:
            raise TrainingError(f"variant '{name}' reads sensors: name them with --sensors, such as left_wrist_force.")
    torch.set_num_threads(arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    checkpoint, robot = load_checkpoint(arguments.checkpoint), RobotDescription.load(arguments.robot)
    cameras = checkpoint.model.backbone.config.cameras
    wanted = Wanted(DataSettings(sensors=sensors), cameras, robot, LABEL_ROWS, arguments.held_out_every)
    build_cache(arguments.data, arguments.output / "cache", wanted)
    features = features_of(checkpoint, open_cache(arguments.output / "cache", cameras))
    run(checkpoint.model.head.config, features, arguments)
    return 0


def run(base: HeadConfig, features: Features, arguments: argparse.Namespace) -> None:
    """Every variant and seed that `output` does not have yet, seed after seed, so that a stop leaves whole rows."""
    path = arguments.output / "ablations.json"
    notes = {"checkpoint": arguments.checkpoint.name, "steps": arguments.steps, "batch_size": arguments.batch_size}
    notes |= {"observations": int((~features.held_out).sum()), "held_out": int(features.held_out.sum())}
    notes["sensors"] = sorted(arguments.sensors)
    before = {"sensors": []} | json.loads(path.read_text()) if path.is_file() else {**notes, "results": {}}
    for key, value in notes.items():
        if before.get(key) != value:
            raise TrainingError(f"{path}: its heads had {key} {before.get(key)}, these have {value}. Choose another --output.")
    results: dict[str, list] = before["results"]
    jobs = [(seed, name) for seed in range(arguments.seeds) for name in arguments.variants if len(results.get(name, ())) <= seed]
    for seed, name in tqdm(jobs, desc="heads", unit="head"):
        errors = train_head(VARIANTS[name], base, features, arguments.steps, arguments.batch_size, seed)
        results.setdefault(name, []).append({str(depth): error for depth, error in errors.items()})
        path.write_text(json.dumps({**notes, "results": results}, indent=1) + "\n")
    (arguments.output / "ablations.md").write_text(table(results), encoding="utf-8")
    plot(results, arguments.output / "ablations.png")
    print(table(results))


if __name__ == "__main__":
    raise SystemExit(main())
