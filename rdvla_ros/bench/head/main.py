"""`rdvla bench head`: the head's time against the published way of running it, same weights, same numbers, same run.

All variants of a depth are timed in turn, round after round, so that whatever else the machine does meets them alike.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rdvla_ros.bench.head.baseline import Baseline
from rdvla_ros.bench.head.report import draw, print_report
from rdvla_ros.model.config import HeadConfig
from rdvla_ros.model.halting import ActionChange, FixedDepth
from rdvla_ros.model.head import RDVLAHead
from rdvla_ros.model.layers import HeadLayer
from rdvla_ros.model.packed_linear import packing_works
from rdvla_ros.model.refine import typical_ratio
from rdvla_ros.model.sketch_ratio import Experience
from rdvla_ros.types import RdvlaError

FULL_SIZE = HeadConfig(
    hidden_dim=896,
    num_heads=8,
    prelude_layers=(11,),
    core_layers=(23, 23),
    coda_layers=(23,),
    chunk_length=8,
    action_dim=14,
    proprio_dim=14,
    rotary_form="published",
)
VISION_ROWS, LATENT_ROWS = 512, 64
DEPTHS = (1, 2, 4, 8, 12, 16, 24, 32)
MIXED = (5, 6, 7, 8, 9, 10, 11)  # adaptive stops of mean 8
COPY_BYTES = 128 << 20
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05}  # relative to the largest action


class BenchError(RdvlaError):
    """A comparison that would compare different things."""


@dataclass(frozen=True)
class Subject:
    """One decision's input, and the two heads that answer it."""

    head: RDVLAHead
    baseline: Baseline
    inputs: tuple[dict[int, Tensor], dict[int, Tensor], Tensor]
    start: Tensor

    def ours(self, rule: Any) -> Any:
        with torch.no_grad():
            return self.head.refine(self.head.encode(*self.inputs), rule, self.start)

    def published(self, depth: int, threshold: float | None = None) -> tuple[Tensor, int]:
        return self.baseline.run(*self.inputs, self.start, depth, threshold)


def make_subject(
    dtype: torch.dtype,
    device: torch.device,
    config: HeadConfig = FULL_SIZE,
    seed: int = 0,
    rows: tuple[int, int] = (VISION_ROWS, LATENT_ROWS),
) -> Subject:
    """Random weights under which the change shrinks to 0.6 per iteration, about as published checkpoints do."""
    torch.manual_seed(seed)
    head = RDVLAHead(config).eval().requires_grad_(False)
    head.adapter_state.weight.mul_(0.7)
    for layer in head.modules():
        if isinstance(layer, HeadLayer):
            layer.gate.fill_(0.7)
    vision, latents = rows
    task = {i: torch.randn(1, vision, config.context_width) for i in config.context_layers}
    latent = {i: torch.randn(1, latents, config.context_width) for i in config.context_layers}
    proprio, start = torch.randn(1, config.proprio_dim), head.initial_state(1)
    head = head.to(device, dtype)
    baseline = Baseline(copy.deepcopy(head))
    moved = [{i: t.to(device, dtype) for i, t in states.items()} for states in (task, latent)]
    return Subject(head.pack(), baseline, (*moved, proprio.to(device, dtype)), start.to(device, dtype))


def thresholds(subject: Subject, depths: tuple[int, ...]) -> dict[int, float]:
    """depth -> a threshold at which the adaptive run stops there, where the change has one."""
    with torch.no_grad():
        change = subject.ours(ActionChange(0.0, max(depths), evaluate="every")).change[0].tolist()
    found = {}
    for depth in depths:
        if depth < 2:
            continue
        before = min(change[1 : depth - 1], default=4 * change[1])
        if change[depth - 1] < 0.95 * before:
            found[depth] = (change[depth - 1] * before) ** 0.5
    return found


def check_same_numbers(subject: Subject, name: str, stops: dict[int, float]) -> float:
    """Largest relative difference of the two at r = 12; BenchError where they differ more than rounding."""
    expected, _ = subject.published(12)
    got = subject.ours(FixedDepth(12)).actions
    error = float((got - expected).abs().max() / expected.abs().max())
    if not error <= TOLERANCE[name]:
        raise BenchError(f"{name}: expected the baseline's numbers to {TOLERANCE[name]} relative, got a difference of {error}")
    if name == "float32":
        for depth, threshold in stops.items():
            _, count = subject.published(32, threshold)
            mine = int(subject.ours(ActionChange(threshold)).iterations)
            if not depth == count == mine:
                raise BenchError(f"threshold {threshold:.3g}: the baseline stops at {count}, ours at {mine}")
    return error


def variants(subject: Subject, depths: tuple[int, ...], stops: dict[int, float]) -> dict[str, Callable[[], Any]]:
    """name -> one whole run of the head (context in, chunk out).

    "adaptive" rules learn the head's ratio while they run, as a policy's do; "stateless" ones start anew in every decision.
    """
    learnt = Experience()
    runs: dict[str, Callable[[], Any]] = {}
    for depth in depths:
        runs[f"baseline {depth}"] = lambda d=depth: subject.published(d)
        runs[f"fixed {depth}"] = lambda d=depth: subject.ours(FixedDepth(d))
        if depth in stops:
            runs[f"adaptive {depth}"] = lambda t=stops[depth]: subject.ours(ActionChange(t, ratio=learnt))
            runs[f"stateless {depth}"] = lambda t=stops[depth]: subject.ours(ActionChange(t))
    for depth in MIXED:
        if depth in stops:
            for name, known in (("mixed", learnt), ("mixed stateless", None)):
                runs[f"{name} {depth}"] = lambda t=stops[depth], r=known: subject.ours(ActionChange(t, ratio=r))
    return runs


def parts(subject: Subject) -> dict[str, Callable[[], Any]]:
    """The pieces of one run."""
    head, start = subject.head, subject.start
    with torch.no_grad():
        context = head.encode(*subject.inputs)
    return {
        "encode": lambda: head.encode(*subject.inputs),
        "iteration": lambda: head.iterate(context, start),
        f"copy of {COPY_BYTES >> 20} MiB": _copy(start.device),
        "coda, 1 state": lambda: head.decode(context, start),
        "coda, 3 states": lambda: head.decode(context, start.expand(3, -1, -1)),
    }


def _copy(device: torch.device) -> Callable[[], Any]:
    source = torch.ones(COPY_BYTES // 4, device=device)
    target = torch.ones_like(source)
    return lambda: target.copy_(source)


def measure(
    runs: dict[str, Callable[[], Any]], rounds: int, device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """name -> seconds of each round; two rounds before them do not count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    with torch.no_grad():
        for turn in range(-2, rounds):
            _show(turn, rounds)
            for name, run in runs.items():
                _wait(device)
                start = clock()
                run()
                _wait(device)
                if turn >= 0:
                    times[name].append(clock() - start)
    return times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _show(turn: int, rounds: int) -> None:
    if sys.stderr.isatty():
        text = "warming up" if turn < 0 else f"round {turn + 1} of {rounds}"
        print(f"\r{text}   ", end="" if turn < rounds - 1 else "\n", file=sys.stderr, flush=True)


def summary(seconds: list[float]) -> dict[str, float]:
    """Milliseconds: median, p10, p90, and every round."""
    rounds = [round(1e3 * s, 3) for s in seconds]
    ordered, last = sorted(rounds), len(rounds) - 1
    return {
        "median": statistics.median(ordered),
        "p10": ordered[round(0.1 * last)],
        "p90": ordered[round(0.9 * last)],
        "rounds": rounds,
    }


def iteration_bytes(head: RDVLAHead, dtype: torch.dtype) -> int:
    """What one iteration must read: the core's weights beside the context's maps, and the context's keys and values."""
    config = head.config
    dim, inner = config.hidden_dim, config.ffn_multiple * config.hidden_dim
    per_layer = 6 * dim * dim + 3 * dim * inner + 2 * (VISION_ROWS + LATENT_ROWS + 1) * dim
    return dtype.itemsize * (dim * dim + len(config.core_layers) * per_layer)


def bench_dtype(
    name: str, device: torch.device, config: HeadConfig, depths: tuple[int, ...], rounds: int, clock: Callable[[], float]
) -> dict[str, Any]:
    subject = make_subject(DTYPES[name], device, config)
    stops = thresholds(subject, tuple(d for d in sorted({*depths, *MIXED}) if 2 <= d <= 16))
    error = check_same_numbers(subject, name, stops)
    with torch.no_grad():
        ratio = typical_ratio(subject.head, subject.head.encode(*subject.inputs), ActionChange(0.0), subject.start)
    times = measure(variants(subject, depths, stops), rounds, device, clock)
    pieces = measure(parts(subject), max(10, rounds), device, clock)
    read = iteration_bytes(subject.head, DTYPES[name])
    return {
        "largest_relative_difference": error,
        "ratio": ratio,
        "thresholds": {str(k): v for k, v in stops.items()},
        "ms": {key: summary(value) for key, value in times.items()},
        "parts_ms": {key: summary(value) for key, value in pieces.items()},
        "iteration_bytes": read,
        "iteration_bytes_per_s": read / statistics.median(pieces["iteration"]),
        "copy_bytes_per_s": 2 * COPY_BYTES / statistics.median(pieces[f"copy of {COPY_BYTES >> 20} MiB"]),
    }


def machine(device: torch.device, threads: int) -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": threads,
        "gpu": gpu,
        "torch": torch.__version__,
        "load_average": os.getloadavg()[0],
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bfloat16_kernels": packing_works(torch.device("cpu"), torch.bfloat16),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="rdvla bench head", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds of every variant")
    parser.add_argument("--depths", type=int, nargs="+", default=list(DEPTHS), help="core iterations")
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--hidden-dim", type=int, default=FULL_SIZE.hidden_dim, help="width of the head; 896 is the full size")
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: processor time, which other programs disturb less; for --threads 1",
    )
    parser.add_argument("--checkpoint", type=Path, help="also the stages of this compact checkpoint's whole decision")
    parser.add_argument("--out", type=Path, default=Path("docs/bench"), help="folder of the JSON file")
    parser.add_argument("--chart", type=Path, default=Path("docs/images/head_latency.png"))
    options = parser.parse_args(argv)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("rdvla bench head: no CUDA device here; run it without --device", file=sys.stderr)
        return 2
    if options.rounds < 1 or min(options.depths) < 1:
        print("rdvla bench head: rounds and depths start at 1", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    config = replace(FULL_SIZE, hidden_dim=options.hidden_dim)
    device, clock = torch.device(options.device), time.process_time if options.clock == "cpu" else time.perf_counter
    report: dict[str, Any] = {
        "command": "rdvla bench head " + " ".join(sys.argv[2:] if argv is None else argv),
        "machine": machine(device, options.threads),
        "rounds": options.rounds,
        "clock": options.clock,
        "size": {**config.to_dict(), "context_rows": VISION_ROWS + LATENT_ROWS + 1},
    }
    depths = tuple(sorted({*options.depths, 12}))
    try:
        report["results"] = {name: bench_dtype(name, device, config, depths, options.rounds, clock) for name in options.dtypes}
        if options.checkpoint is not None:
            from rdvla_ros.bench.head.decision import decision_stages

            report["decision"] = decision_stages(options.checkpoint, options.rounds, device)
    except RdvlaError as error:
        print(f"rdvla bench head: {error}", file=sys.stderr)
        return 1
    report["machine"]["load_average_after"] = os.getloadavg()[0]
    print_report(report)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"head_{device.type}.json"
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    draw(report, options.chart)
    print(f"saved {path} and {options.chart}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
