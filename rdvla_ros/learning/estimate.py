"""`rdvla estimate`: memory and time of the published architecture on a given GPU, without one.

One training step and one decision are run on tensors that have shapes but no values. What lives at the same time, and how many
multiplications are made, is counted from that, so it follows the code: LoRA, frozen parts, checkpointed activations, truncated
back-propagation. Times are lower bounds (all the arithmetic, or all the memory, at the GPU's full rate) and what a usual share of
it gives; nobody has measured them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from rdvla_ros.learning.config import PRECISIONS, PRISMATIC, TrainConfig, TrainingError
from rdvla_ros.learning.counting import counted
from rdvla_ros.learning.training.adapters import adapt, learning
from rdvla_ros.learning.training.recurrence import chunk_loss, unroll
from rdvla_ros.learning.tuning import PARTS, Tuning
from rdvla_ros.model.backbones.prismatic import PrismaticBackbone, Prompt
from rdvla_ros.model.backbones.prismatic_config import PrismaticConfig
from rdvla_ros.model.backbones.prismatic_sizes import PROMPT_TOKENS, SIZES, configs
from rdvla_ros.model.checkpoint import read_manifest
from rdvla_ros.model.config import HeadConfig
from rdvla_ros.model.context import HeadContext
from rdvla_ros.model.head import RDVLAHead
from rdvla_ros.model.rdvla import RDVLA
from rdvla_ros.types import nearest_names

GIB = 1 << 30
USUAL_SHARE = 0.4  # of the peak arithmetic, which large matrix products reach in training
CONTEXT_GIB = 0.8  # of a CUDA process: kernels, libraries, what the allocator cannot use


@dataclass(frozen=True)
class Gpu:
    """memory [GiB], bfloat16 arithmetic without sparsity [TFLOP/s], memory bandwidth [GB/s], by the makers' data sheets."""

    memory_gib: float
    tflops: float
    gb_s: float


GPUS = {
    "rtx3090": Gpu(24, 71, 936),
    "rtx4090": Gpu(24, 165, 1008),
    "l4": Gpu(24, 121, 300),
    "l40s": Gpu(48, 362, 864),
    "a100-40": Gpu(40, 312, 1555),
    "a100-80": Gpu(80, 312, 2039),
    "h100": Gpu(80, 989, 3350),
    "h200": Gpu(131, 989, 4800),
}


@dataclass(frozen=True)
class Work:
    """Of one training step or decision. bytes: category -> at the moment when their sum is highest. flop: floating point
    operations (a multiplication and an addition are two). parameters, learning: how many there are, and how many learn."""

    bytes: dict[str, int]
    flop: int
    parameters: int
    learning: int

    @property
    def total(self) -> int:
        return sum(self.bytes.values())


def training(
    sizes: tuple[PrismaticConfig, HeadConfig], config: TrainConfig, images: int, tokens: int = PROMPT_TOKENS, fused: bool = True
) -> Work:
    """One optimiser step of one process on its whole batch, after a first one, so that the moments are there.

    fused: attention that keeps no scores, as on a GPU; False: written out, as rdvla train does on a CPU.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    narrow = config.precision == "bfloat16"
    backbone = _backbone(sizes[0], config.tuning, narrow)
    with FakeTensorMode():
        model = _placed(backbone, sizes[1]).train()
        if config.tuning.checkpointing:
            model.backbone.save_activations(False)
        learns = list(learning(model).values())
        optimiser = torch.optim.AdamW(learns, lr=1e-4, fused=True)
        average = [torch.empty_like(parameter) for parameter in learns]
        inputs = _inputs(sizes, config.batch_size, images, tokens, torch.float32)
        target = torch.zeros(config.batch_size, sizes[1].chunk_length, sizes[1].action_dim)
        depth = max(config.backprop_depth, round(config.depth.mean))

        def step() -> None:
            with _attention(fused):
                with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
                    context = _encode(model, *inputs)
                    states = unroll(
                        model.head, context, model.head.initial_state(config.batch_size), depth, config.backprop_depth
                    )
                    loss = chunk_loss(model.head, context, states, target, None, 0.0)[0]
                loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

        found, flop = counted(step, model, optimiser, rounds=2)
        found["averaged weights"] = sum(tensor.nbytes for tensor in average)
        return Work(found, flop, model.num_parameters, sum(p.numel() for p in learns))


def decision(
    sizes: tuple[PrismaticConfig, HeadConfig], images: int, iterations: int, dtype: torch.dtype, tokens: int = PROMPT_TOKENS
) -> Work:
    """One decision of a batch of one with `iterations` of the core and a decoding after each."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    backbone = _backbone(sizes[0])
    with FakeTensorMode(), torch.no_grad():
        model = _placed(backbone, sizes[1], dtype).eval().requires_grad_(False)
        inputs = _inputs(sizes, 1, images, tokens, dtype)

        def decide() -> None:
            context = _encode(model, *inputs)
            state = model.head.initial_state(1)
            for k in range(iterations):
                state = model.head.iterate(context, state, k)
                model.head.decode(context, state)

        found, flop = counted(decide, model, None, rounds=1)
        return Work(found, flop, model.num_parameters, 0)


def _backbone(config: PrismaticConfig, tuning: Tuning | None = None, narrow: bool = False) -> PrismaticBackbone:
    """Without memory for its weights."""
    backbone = PrismaticBackbone.empty(config)
    adapt(backbone, tuning or Tuning(), narrow)
    return backbone


def _placed(backbone: PrismaticBackbone, config: HeadConfig, dtype: torch.dtype | None = None) -> RDVLA:
    """In a FakeTensorMode: the whole model, of weights that have a place but no values (Module.to does not take those)."""
    for module in backbone.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))
    model = RDVLA(backbone, RDVLAHead(config))
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            empty = torch.empty(parameter.shape, dtype=dtype or parameter.dtype)
            setattr(module, name, torch.nn.Parameter(empty, requires_grad=parameter.requires_grad))
    return model


def _inputs(sizes: tuple, batch: int, images: int, tokens: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    side = sizes[0].dino.image
    pixels = torch.zeros(batch, 6 * images, side, side, dtype=dtype)
    return pixels, torch.zeros(batch, tokens, dtype=torch.long), torch.zeros(batch, sizes[1].proprio_dim, dtype=dtype)


def _encode(model: RDVLA, pixels: Tensor, ids: Tensor, proprio: Tensor) -> HeadContext:
    backbone = model.backbone
    embedded = Prompt(backbone.language.embed_tokens(ids))
    states = backbone.fuse(backbone.see(pixels), embedded, model.head.config.context_layers)
    return model.head.encode(*states, proprio, check=False)


def _attention(fused: bool):
    return contextlib.nullcontext() if fused else sdpa_kernel(SDPBackend.MATH)


def times_ms(work: Work, gpu: Gpu) -> dict[str, float]:
    """lower bound: all arithmetic at the full rate, or all weights read once, whichever takes longer; usual: see USUAL_SHARE."""
    arithmetic, reading = work.flop / (gpu.tflops * 1e9), work.bytes["weights"] / (gpu.gb_s * 1e6)
    return {"lower bound": max(arithmetic, reading), "usual": max(arithmetic / USUAL_SHARE, reading)}


def sizes_of(name: str) -> tuple[PrismaticConfig, HeadConfig]:
    """A name of SIZES, or an imported checkpoint's folder."""
    if name in SIZES:
        return configs(name)
    if not Path(name).is_dir():
        raise TrainingError(f"--model: expected {', '.join(SIZES)} or a folder of import-checkpoint, got '{name}'.")
    model = read_manifest(name)["model"]
    if model["backbone"] != PRISMATIC:
        raise TrainingError(f"{name}: expected a '{PRISMATIC}' model, got '{model['backbone']}': only that one is estimated.")
    return PrismaticConfig.from_dict(model["backbone_config"]), HeadConfig.from_dict(model["head_config"])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="rdvla estimate", description=__doc__)
    parser.add_argument("--model", default="full", help=f"{', '.join(SIZES)}, or an imported checkpoint (default: full)")
    parser.add_argument("--gpu", default="h100", help=f"one of {', '.join(GPUS)} (default: h100)")
    parser.add_argument("--memory-gib", type=float, help="of another GPU; with --tflops and --gb-s")
    parser.add_argument("--tflops", type=float, help="bfloat16, without sparsity")
    parser.add_argument("--gb-s", type=float, help="memory bandwidth [GB/s]")
    parser.add_argument("--config", type=Path, help="training configuration, whose sections tuning and depth count")
    parser.add_argument("--lora", type=int, metavar="RANK", help="LoRA of this rank on vision and language")
    parser.add_argument("--checkpointing", action="store_true", help="activations computed again")
    parser.add_argument("--batch-size", type=int, help="of one process")
    parser.add_argument("--images", type=int, default=3, help="cameras (default: 3)")
    parser.add_argument("--iterations", type=int, default=8, help="of a decision (default: 8)")
    parser.add_argument("--precision", choices=PRECISIONS, help="of the training (default: bfloat16)")
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    given = parser.parse_args(argv)
    if min(given.images, given.iterations, given.lora or 1, given.batch_size or 1) < 1:
        raise TrainingError("Estimate: expected --images, --iterations, --lora and --batch-size of at least 1.")
    gpu, config, sizes = _gpu(given), _config(given), sizes_of(given.model)
    works = {
        "training step": training(sizes, config, given.images),
        "decision, bfloat16": decision(sizes, given.images, given.iterations, torch.bfloat16),
    }
    report = {
        name: asdict(work) | {"total": work.total, "ms": times_ms(work, gpu), "fits": _fits(work, gpu)}
        for name, work in works.items()
    }
    _print(report, gpu, given, config)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps({"gpu": asdict(gpu), "works": report}, indent=1) + "\n", encoding="utf-8")
    return 0


def _fits(work: Work, gpu: Gpu) -> bool:
    return work.total / GIB + CONTEXT_GIB < gpu.memory_gib


def _gpu(given: argparse.Namespace) -> Gpu:
    own = (given.memory_gib, given.tflops, given.gb_s)
    if any(value is not None for value in own):
        if any(value is None or not value > 0 for value in own):
            raise TrainingError("--memory-gib, --tflops, --gb-s: expected all three, above 0, for a GPU of your own.")
        return Gpu(*own)
    if given.gpu not in GPUS:
        raise TrainingError(f"--gpu: '{given.gpu}'. {nearest_names(given.gpu, GPUS)} Or give --memory-gib, --tflops and --gb-s.")
    return GPUS[given.gpu]


def _config(given: argparse.Namespace) -> TrainConfig:
    config = TrainConfig.load(given.config) if given.config else TrainConfig(batch_size=8, backprop_depth=8)
    if given.config and config.model.backbone != PRISMATIC:
        raise TrainingError(
            f"{given.config}: model.backbone: expected '{PRISMATIC}', got '{config.model.backbone}': only the published "
            "architecture is estimated."
        )
    model = replace(config.model, backbone=PRISMATIC)
    precision = given.precision or (config.precision if given.config else "bfloat16")
    tuning = config.tuning
    if given.lora:
        tuning = replace(tuning, vision="lora", language="lora", rank=given.lora, alpha=2.0 * given.lora)
    tuning = replace(tuning, checkpointing=tuning.checkpointing or given.checkpointing)
    return replace(config, model=model, precision=precision, tuning=tuning, batch_size=given.batch_size or config.batch_size)


def _print(report: dict[str, Any], gpu: Gpu, given: argparse.Namespace, config: TrainConfig) -> None:
    table = Table(title=f"Estimate (GiB): {given.model}, {given.images} images, batch {config.batch_size}, {config.precision}")
    table.add_column("")
    for name in report:
        table.add_column(name, justify="right")
    for kind in dict.fromkeys(kind for work in report.values() for kind in work["bytes"]):
        table.add_row(kind, *(f"{work['bytes'].get(kind, 0) / GIB:.2f}" for work in report.values()))
    table.add_row("together", *(f"{work['total'] / GIB:.2f}" for work in report.values()))
    console = Console()
    console.print(table)
    console.print(f"{_words(config.tuning)}; {report['training step']['learning'] / 1e6:.0f} M of "
                  f"{report['training step']['parameters'] / 1e6:.0f} M parameters learn")  # fmt: skip
    for name, work in report.items():
        ms, fits = work["ms"], "fits into" if work["fits"] else "does NOT fit into"
        console.print(
            f"{name}: {fits} {gpu.memory_gib:g} GiB with {CONTEXT_GIB} GiB for the process; {work['flop'] / 1e12:.2f} TFLOP, at "
            f"least {ms['lower bound']:.1f} ms, usual {ms['usual']:.1f} ms (not measured; launches of small kernels come on top)"
        )


def _words(tuning: Tuning) -> str:
    parts = ", ".join(f"{part} {getattr(tuning, part)}" for part in PARTS)
    return f"{parts}, activations {'computed again' if tuning.checkpointing else 'kept'}"
