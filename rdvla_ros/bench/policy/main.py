"""`rdvla bench policy`: a whole decision of the published architecture, stage by stage, against the published way of running it.

Random weights of a chosen size, the same for both; both are timed in turn, and their actions are compared before. What the time
means depends on what else the machine does: the report holds the load beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from rdvla_ros.bench.head.baseline import Baseline
from rdvla_ros.bench.machine import machine
from rdvla_ros.bench.policy.plain import PlainBackbone, fast_decision, plain_decision
from rdvla_ros.bench.policy.tokens import compare
from rdvla_ros.model.backbones.prismatic import PrismaticBackbone
from rdvla_ros.model.backbones.prismatic_sizes import PROMPT_TOKENS, SIZES, configs
from rdvla_ros.model.head import RDVLAHead
from rdvla_ros.model.memory import require_device, require_memory
from rdvla_ros.model.rdvla import RDVLA
from rdvla_ros.types import RdvlaError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.2}  # of the largest action, over some 70 layers of random weights


@dataclass(frozen=True)
class PolicyInputs:
    """One observation: camera images, prompt ids, proprioception and the first scratchpad."""

    images: list[np.ndarray]
    ids: torch.Tensor
    proprio: torch.Tensor
    start: torch.Tensor

    def pixels(self, backbone: PrismaticBackbone) -> torch.Tensor:
        prepared = torch.cat([backbone.prepare(image, None) for image in self.images], 1)
        return prepared.to(self.proprio.device, self.proprio.dtype)


def make_model(name: str, dtype: torch.dtype, device: torch.device, seed: int) -> RDVLA:
    """Random weights; those of the backbone straight in their place and number format, without a copy in float32."""
    backbone_config = configs(name)[0]
    head = make_head(name, dtype, device, seed)
    backbone = PrismaticBackbone.empty(backbone_config)
    require_memory(int(1.3 * sum(p.numel() for p in backbone.parameters()) * torch.finfo(dtype).bits / 8), f"size {name}")
    backbone = backbone.to(dtype).to_empty(device=device)
    for parameter in backbone.parameters():
        spread = parameter.shape[1:].numel() ** -0.5 if parameter.ndim > 1 else 0.0
        parameter.data.normal_(std=spread) if spread else parameter.data.fill_(1.0)
    for parameter_name, parameter in backbone.named_parameters():
        if parameter_name.endswith("bias"):
            parameter.data.zero_()
    backbone.loaded()
    return RDVLA(backbone, head).eval().requires_grad_(False)


def make_head(name: str, dtype: torch.dtype, device: torch.device, seed: int) -> RDVLAHead:
    """The same weights for the same seed."""
    torch.manual_seed(seed)
    return RDVLAHead(configs(name)[1]).to(device, dtype).eval().requires_grad_(False)


def make_inputs(model: RDVLA, images: int, seed: int) -> PolicyInputs:
    rng, head = np.random.default_rng(seed), model.head
    frames = [rng.integers(0, 256, (480, 640, 3), dtype=np.uint8) for _ in range(images)]
    vocabulary = model.backbone.config.text.vocabulary
    ids = torch.from_numpy(rng.integers(0, vocabulary, (1, PROMPT_TOKENS))).to(head.device)
    proprio = torch.from_numpy(rng.uniform(-1, 1, (1, 14))).to(head.device, head.dtype)
    return PolicyInputs(frames, ids, proprio, head.initial_state(1))


def measure(
    size: str, images: int, rounds: int, iterations: int, dtype: str, device: str, seed: int = 0, against_tokens: bool = False
) -> dict[str, Any]:
    """Medians [ms] per stage of both ways, and what they were measured on. RdvlaError where the two do not agree."""
    kind, place = DTYPES[dtype], torch.device(device)
    require_device(place, kind)
    model = make_model(size, kind, place, seed)
    model.head.pack()
    inputs = make_inputs(model, images, seed)
    mine = fast_decision(model, inputs, iterations)[0]
    memory = {"fast": _peak_gib(place)}  # before anything of the plain way exists
    head, plain = Baseline(make_head(size, kind, place, seed)), PlainBackbone(model.backbone)
    theirs = plain_decision(plain, head, inputs, iterations)[0]
    error = float((mine - theirs).abs().max() / theirs.abs().max())
    if not error < TOLERANCE[dtype]:
        raise RdvlaError(
            f"Bench: expected the same actions of both ways within {TOLERANCE[dtype]:g}, got a difference of {error:.2g}."
        )
    seconds: dict[str, list[dict[str, float]]] = {"fast": [], "plain": []}
    for _ in range(rounds):
        seconds["fast"].append(fast_decision(model, inputs, iterations)[1])
        seconds["plain"].append(plain_decision(plain, head, inputs, iterations)[1])
    memory["both"] = _peak_gib(place)
    parts = {"backbone": model.backbone, "head": model.head}
    report = {
        "settings": dict(size=size, images=images, rounds=rounds, iterations=iterations, dtype=dtype, device=device, seed=seed),
        "machine": machine() | {"threads": torch.get_num_threads(), "load": os.getloadavg()[0], "torch": torch.__version__},
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
        "peak_memory_gib": memory,
        "difference": error,
        "ms": {way: _medians(runs) for way, runs in seconds.items()},
        "ratio": {
            "with the logits": _ratio(seconds, ()),
            "without the logits": _ratio(seconds, ("logits",)),
        },
    }
    if against_tokens:
        report["tokens"] = compare(model, plain, inputs, iterations, rounds)
    return report


def _peak_gib(device: torch.device) -> float:
    """Of the whole process, the libraries included; on a GPU, of what torch allocated there."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    stages = {stage: 1e3 * statistics.median(run[stage] for run in runs) for stage in runs[0]}
    return stages | {"total": 1e3 * statistics.median(sum(run.values()) for run in runs)}


def _ratio(seconds: dict[str, list[dict[str, float]]], without: tuple[str, ...]) -> float:
    """Median over the rounds of fast / plain."""

    def total(run: dict[str, float]) -> float:
        return sum(value for stage, value in run.items() if stage not in without)

    return statistics.median(total(a) / total(b) for a, b in zip(seconds["fast"], seconds["plain"], strict=True))


def print_report(report: dict[str, Any]) -> None:
    settings, ms = report["settings"], report["ms"]
    table = Table(
        title=f"One decision (ms), median of {settings['rounds']}: size {settings['size']}, {settings['images']} images"
    )
    for heading in ("stage", "fast", "plain"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    stages = dict.fromkeys([*ms["fast"], *ms["plain"]])
    for stage in sorted(stages, key=lambda name: name == "total"):
        table.add_row(stage, *(f"{ms[way][stage]:.1f}" if stage in ms[way] else "-" for way in ("fast", "plain")))
    console = Console()
    console.print(table)
    ratios = ", ".join(f"{value:.2f} {name}" for name, value in report["ratio"].items())
    console.print(f"fast / plain: {ratios}; actions differ by {report['difference']:.1e} of the largest")
    memory = report["peak_memory_gib"]
    console.print(
        f"peak memory: fast alone {memory['fast']} GiB, with the plain way beside it {memory['both']} GiB; load of the machine: "
        f"{report['machine']['load']:.1f}"
    )
    if "tokens" in report:
        _print_tokens(console, report["tokens"])


def _print_tokens(console: Console, found: dict[str, Any]) -> None:
    ms = found["ms"]
    console.print(
        f"Against tokens: a decision {ms['RD-VLA decision']:.0f} ms, up to the first token "
        f"{ms['tokens before the first']:.0f} ms, each further token {ms['each token']:.1f} ms"
    )
    for name, count in found["tokens"].items():
        console.print(
            f"  {count['reasoning']} tokens of reasoning and {count['action']} for {name}: {ms[f'tokens, {name}']:.0f} ms, "
            f"{found['ratio'][name]:.1f} times a decision (which is a whole chunk)"
        )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="rdvla bench policy", description=__doc__)
    parser.add_argument("--size", choices=tuple(SIZES), default="small", help="'full' is the published 0.5 B model")
    parser.add_argument("--images", type=int, default=2, help="cameras")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=8, help="of the core")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of torch (default: as many as it takes)")
    parser.add_argument(
        "--against-tokens", action="store_true", help="also the same backbone writing 150 tokens of reasoning, then the action"
    )
    parser.add_argument("--out", type=Path, help="JSON file for the report")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.rounds < 1 or options.images < 1 or options.iterations < 1:
        raise RdvlaError("Bench: expected --rounds, --images and --iterations of at least 1.")
    numbers = (options.size, options.images, options.rounds, options.iterations, options.dtype, options.device)
    report = measure(*numbers, against_tokens=options.against_tokens)
    print_report(report)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0
