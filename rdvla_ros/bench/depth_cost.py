"""`rdvla bench depth`: what depth costs. A training step over the iterations unrolled and those that the gradient goes back
through; a decision over its iterations.

Memory is counted, not measured: the bytes of all tensors that live at the same time, so it is the same in every run; of the
training step without weights, gradients and moments. Times are ratios within one round, all sizes in turn, so that what else the
machine does meets them alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from rdvla_ros.bench.machine import machine
from rdvla_ros.learning.counting import Alive, counted
from rdvla_ros.learning.training.recurrence import chunk_loss, unroll
from rdvla_ros.model.context import HeadContext
from rdvla_ros.model.halting import ActionChange
from rdvla_ros.model.head import RDVLAHead
from rdvla_ros.model.policy import Policy
from rdvla_ros.robot import shipped_policy

DEPTHS = (4, 8, 16, 32, 64, 128)
BACKPROP = (1, 3, 6, 12)
BASE = (8, 6)  # iterations unrolled, gone back through: of this step the times are multiples
DECISION_DEPTHS = (2, 8, 32, 128, 1024)
MIB = 1 << 20


class TrainingStep:
    """One optimiser step of the head on a batch whose context does not change: the backbone's cost is the same at any depth."""

    def __init__(self, policy: Policy, batch: int):
        self.head = RDVLAHead(policy.model.head.config).train()
        self._context = _inputs(policy, batch)
        config = self.head.config
        self._target = torch.zeros(batch, config.chunk_length, config.action_dim)
        self._batch = batch
        self.optimiser = torch.optim.AdamW(self.head.parameters(), lr=1e-4)

    def run(self, depth: int, backprop_depth: int) -> None:
        with sdpa_kernel(SDPBackend.MATH):
            context: HeadContext = self.head.encode(*self._context)
            states = unroll(self.head, context, self.head.initial_state(self._batch), depth, backprop_depth)
            chunk_loss(self.head, context, states, self._target, None, 0.0)[0].backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def activation_bytes(self, depth: int, backprop_depth: int) -> int:
        found, _ = counted(lambda: self.run(depth, backprop_depth), self.head, self.optimiser, rounds=2)
        return found["activations and temporary"]


def _inputs(policy: Policy, batch: int) -> tuple[Any, ...]:
    """Random numbers of the shapes that this policy's backbone gives its head."""
    backbone, layers = policy.model.backbone, policy.model.head.config.context_layers
    with torch.no_grad():
        images = {view.name: torch.zeros(1, 3, view.height, view.width) for view in backbone.config.cameras}
        words = torch.tensor([policy.checkpoint.tokenizer.encode(_instruction(policy))])
        task, latents = backbone.fuse(backbone.see(images), backbone.text(words), layers)
    drawn = [{i: torch.randn(batch, *t.shape[1:]) for i, t in states.items()} for states in (task, latents)]
    return (*drawn, torch.randn(batch, policy.model.head.config.proprio_dim))


def _instruction(policy: Policy) -> str:
    return " ".join(policy.checkpoint.tokenizer.vocabulary[:6])


def training_costs(
    step: TrainingStep,
    depths: Sequence[int],
    backprop: Sequence[int],
    rounds: int,
    clock: Callable[[], float] = time.process_time,
) -> list[dict[str, Any]]:
    """One row for each pair; backprop_depth of a row with "all" is its depth."""
    pairs = [(depth, back) for depth in depths for back in sorted({*(b for b in backprop if b < depth), depth})]
    pairs = sorted({*pairs, BASE})
    seconds: dict[tuple[int, int], list[float]] = {pair: [] for pair in pairs}
    for turn in tqdm(range(-1, rounds), desc="training steps", unit="round", disable=None):
        for pair in pairs:
            began = clock()
            step.run(*pair)
            if turn >= 0:
                seconds[pair].append(clock() - began)
    rows = []
    for pair in pairs:
        ratios = [own / base for own, base in zip(seconds[pair], seconds[BASE], strict=True)]
        rows.append({
            "depth": pair[0],
            "backprop_depth": pair[1],
            "time_ratio": round(statistics.median(ratios), 3),
            "ms": round(1e3 * statistics.median(seconds[pair]), 2),
            "activation_bytes": step.activation_bytes(*pair),
        })  # fmt: skip
    return rows


@torch.no_grad()
def decision_costs(
    policy: Policy, depths: Sequence[int], rounds: int, clock: Callable[[], float] = time.process_time
) -> list[dict[str, Any]]:
    """Of the head with this policy's weights: bytes alive in a decision of r iterations (every chunk decoded), and its time."""
    head = policy.model.head
    inputs = _inputs(policy, 1)
    start = head.initial_state(1)
    rules = {depth: ActionChange(1e-30, max_iterations=depth, min_iterations=depth, evaluate="every") for depth in depths}
    seconds: dict[int, list[float]] = {depth: [] for depth in depths}
    for turn in tqdm(range(-1, rounds), desc="decisions", unit="round", disable=None):
        for depth, rule in rules.items():
            began = clock()
            head.refine(head.encode(*inputs), rule, start)
            if turn >= 0:
                seconds[depth].append(clock() - began)
    rows = []
    for depth, rule in rules.items():
        alive = Alive()
        with alive:
            head.refine(head.encode(*inputs), rule, start)
        ratio = statistics.median(own / base for own, base in zip(seconds[depth], seconds[depths[0]], strict=True))
        rows.append({"iterations": depth, "bytes": alive.peak, "time_ratio": round(ratio, 2)})
    return rows


def tables(report: dict[str, Any]) -> list[Table]:
    rows = report["training"]
    backs = sorted({row["backprop_depth"] for row in rows if row["backprop_depth"] < row["depth"]})
    found = {(row["depth"], row["backprop_depth"]): row for row in rows}
    training = Table(
        title=f"Training step of {report['batch']}: time as a multiple of depth {BASE[0]}, gradient through {BASE[1]}; MiB"
    )
    training.add_column("iterations", justify="right")
    for back in (*(f"gradient through {b}" for b in backs), "through all"):
        training.add_column(back, justify="right")
    for depth in sorted({row["depth"] for row in rows}):
        cells = [found.get((depth, b)) for b in backs if b < depth]
        cells += [None] * (len(backs) - len(cells)) + [found.get((depth, depth))]
        training.add_row(str(depth), *(_cell(cell) for cell in cells))
    decision = Table(title="Head of one decision: memory and time over its iterations")
    for title in ("iterations", "KiB alive", "time, of the first"):
        decision.add_column(title, justify="right")
    for row in report["decision"]:
        decision.add_row(str(row["iterations"]), f"{row['bytes'] / 1024:.1f}", f"{row['time_ratio']:.2f}")
    return [training, decision]


def _cell(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{row['time_ratio']:.2f}, {row['activation_bytes'] / MIB:.1f}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="rdvla bench depth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, help="whose head (default: the shipped one of the trail)")
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS, help="iterations unrolled in training")
    parser.add_argument(
        "--backprop", type=int, nargs="+", default=BACKPROP, help="iterations that the gradient goes back through"
    )
    parser.add_argument("--decisions", type=int, nargs="+", default=DECISION_DEPTHS, help="iterations of a decision")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1, help="times are processor times, so more than one adds them up")
    parser.add_argument("--out", type=Path, default=Path("docs/bench/depth.json"))
    options = parser.parse_args(argv)
    numbers = (*options.depths, *options.backprop, *options.decisions, options.batch_size, options.rounds)
    if min(*numbers, min(options.decisions) - 1) < 1:
        parser.error(f"expected numbers of at least 1 (decisions: 2), got {min(numbers)}")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    folder = options.checkpoint or shipped_policy("follow_trail")
    policy = Policy.load(folder)
    report = {
        "command": "rdvla bench depth " + " ".join(sys.argv[2:] if argv is None else argv),
        "machine": machine(),
        "checkpoint": policy.name,
        "batch": options.batch_size,
        "rounds": options.rounds,
        "training": training_costs(TrainingStep(policy, options.batch_size), options.depths, options.backprop, options.rounds),
        "decision": decision_costs(policy, sorted(options.decisions), options.rounds),
    }
    for table in tables(report):
        Console().print(table)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"saved {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
