"""A decision written token by token: reasoning first, then the action, as vision-language-action models that reason in words do.

The same backbone with all its layers, its final norm and its tied embeddings as the map to logits; keys and values are cached,
so that each token costs one position. Random weights write nonsense: what is compared is time, not sense.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import Tensor

from rdvla_ros.bench.policy.plain import Clock, PlainBackbone, fast_decision
from rdvla_ros.model.rdvla import RDVLA

REASONING = 150


@torch.inference_mode()
def write_tokens(plain: PlainBackbone, vision: Tensor, ids: Tensor, marks: tuple[int, ...], clock: Clock) -> Tensor:
    """vision (1, P, D), prompt ids (1, N) -> (1, max(marks)) greedy token ids.

    clock: gets 'prefill', and 'to <n> tokens' for each of `marks` (rising), the time since the mark before.
    """
    from transformers import DynamicCache

    language, cache, written = plain.language, DynamicCache(), []

    def step(embedded: Tensor) -> Tensor:
        last = language(inputs_embeds=embedded, cache=cache, use_cache=True).last_hidden_state[:, -1:]
        return (last @ language.embed_tokens.weight.T).argmax(-1)

    def write(until: int) -> None:
        while len(written) < until:
            written.append(step(language.embed_tokens(written[-1])))

    text = language.embed_tokens(ids)
    written.append(clock("prefill", lambda: step(torch.cat([text[:, :1], vision, text[:, 1:]], 1))))
    for mark in marks:
        clock(f"to {mark} tokens", lambda mark=mark: write(mark))
    return torch.cat(written, 1)[:, : max(marks)]


@torch.inference_mode()
def token_decision(plain: PlainBackbone, inputs: Any, marks: tuple[int, ...]) -> dict[str, float]:
    """Seconds per stage. The images take the fast way here too: one batch, no block too many."""
    clock = Clock(inputs.ids.device)
    pixels = clock("preprocess", lambda: inputs.pixels(plain.fast))
    vision = clock("vision", lambda: plain.fast.see(pixels))
    write_tokens(plain, vision, inputs.ids, marks, clock)
    return clock.seconds


def compare(model: RDVLA, plain: PlainBackbone, inputs: Any, iterations: int, rounds: int) -> dict[str, Any]:
    """Decisions in turn -> tokens, medians [ms] and ratios: for one action (A tokens) and a whole chunk (H * A tokens)."""
    head = model.head.config
    counts = {"one action": head.action_dim, "a chunk": head.action_dim * head.chunk_length}
    marks = (REASONING, *(REASONING + count for count in counts.values()))
    token_decision(plain, inputs, (2,))  # what is allocated once
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(sum(fast_decision(model, inputs, iterations)[1].values()))
        theirs.append(token_decision(plain, inputs, marks))
    totals = {
        name: [sum(run[stage] for stage in _until(run, REASONING + count)) for run in theirs] for name, count in counts.items()
    }
    per_token = [(run[f"to {marks[-1]} tokens"] + run[f"to {marks[-2]} tokens"]) / (marks[-1] - marks[0]) for run in theirs]
    return {
        "tokens": {name: {"reasoning": REASONING, "action": count} for name, count in counts.items()},
        "ms": {
            "RD-VLA decision": 1e3 * statistics.median(ours),
            "tokens before the first": 1e3 * statistics.median(sum(run[s] for s in _until(run, 0)) for run in theirs),
            "each token": 1e3 * statistics.median(per_token),
            **{f"tokens, {name}": 1e3 * statistics.median(values) for name, values in totals.items()},
        },
        "ratio": {name: statistics.median(t / o for t, o in zip(values, ours, strict=True)) for name, values in totals.items()},
    }


def _until(run: dict[str, float], tokens: int) -> list[str]:
    """Stages up to that many tokens."""
    return [stage for stage in run if not stage.startswith("to ") or int(stage.split()[1]) <= tokens]
