"""One head out of two: their widths beside each other, nothing between them at first; training joins them.

Attention heads, feed-forward maps and residual streams of both become blocks on the diagonal, and the outputs are added. What the
two share from the start are the norms, x / rms(x) over both widths: `norms_of` measures how large each head's rows are there, and
the weights of the norms make up for it on average. For the rest there is training, to which every weight belongs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rdvla_ros.learning.config import TrainingError
from rdvla_ros.model.head import RDVLAHead
from rdvla_ros.model.layers import RMSNorm

GROUPS = {"qkv_self": 3, "kv_latents": 2, "kv_vision": 2, "ffn_in": 2}  # maps that are stacked in one matrix
FROM_CONTEXT = ("kv_latents", "kv_vision")  # read the context, which both have in common
SAME = "head_dim", "rows", "chunk_length", "action_dim", "context_width", "ffn_multiple", "context_layers", "rotary_form"
INTO_RESIDUAL = ("o_self", "o_cross", "ffn_down")


@dataclass(frozen=True)
class Streams:
    """How large the second head's residual streams are made against the first one's. A head alone does not notice: its norms
    take it out again. In the sum the larger one would rule the norms."""

    prelude: float = 4.0
    adapter: float = 11.0
    core: float = 1.0
    coda: float = 0.5

    def at(self, norm: str) -> float:
        """Of the rows that go into a norm."""
        return self.adapter if norm == "adapter_norm" else getattr(self, "coda" if norm == "output_norm" else _part(norm))


@torch.no_grad()
def norms_of(head: RDVLAHead, run: Callable[[RDVLAHead], object]) -> dict[str, float]:
    """Norm -> rms of the rows that last went into it while `run` used the head."""
    found: dict[str, float] = {}

    def note(name: str) -> Callable:
        return lambda module, rows: found.update({name: float(rows[0].float().square().mean().sqrt())})

    norms = [(name, module) for name, module in head.named_modules() if isinstance(module, RMSNorm)]
    hooks = [module.register_forward_pre_hook(note(name)) for name, module in norms]
    run(head)
    for hook in hooks:
        hook.remove()
    return found


@dataclass(frozen=True)
class Sizes:
    """`norms_of` the first and of the second head, each on the first one's tasks and on the second one's."""

    first_at_home: Mapping[str, float]
    second_away: Mapping[str, float]
    first_away: Mapping[str, float]
    second_at_home: Mapping[str, float]


@torch.no_grad()
def direct_sum(first: RDVLAHead, second: RDVLAHead, sizes: Sizes, stay: Tensor, streams: Streams = Streams()) -> RDVLAHead:
    """stay (A,): what a head is to say, normalised, where it has nothing to say; it counts once in the sum of both."""
    a, b = first.config, second.config
    _same(a, b)
    width = a.hidden_dim + b.hidden_dim
    config = replace(b, hidden_dim=width, num_heads=a.num_heads + b.num_heads, context_dim=a.context_width)
    head = RDVLAHead(config)
    one, two = first.state_dict(), second.state_dict()
    made: dict[str, Tensor] = {}
    for name in head.state_dict():
        module, _, _ = name.rpartition(".")
        leaf, x, y = module.rpartition(".")[2], one[name], two[name]
        if name.startswith(("proprio.", "sensors.")):
            made[name] = y  # the second one was trained behind the first one's
        elif name.startswith("gamma"):
            made[name] = torch.ones(())
        elif name.endswith("gate"):
            made[name] = x
        elif name == "action_queries":
            made[name] = torch.cat([x, streams.prelude * y], 1)
        elif name in ("output.weight", "output.bias"):
            made[name] = torch.cat([x, y], 1) if x.dim() == 2 else x + y - stay.repeat(len(x) // len(stay))
        elif module in ("adapter_state", "adapter_plan"):
            came = streams.coda if module == "adapter_state" else streams.prelude  # how large what it reads has become
            made[name] = torch.block_diag(one["gamma_adapt"] * x, two["gamma_adapt"] * streams.adapter / came * y)
        elif module in sizes.first_at_home:
            made[name] = _norm(module, x, y, sizes, streams, a.hidden_dim, b.hidden_dim)
        else:
            if leaf in INTO_RESIDUAL:
                y = y * getattr(streams, _part(module))
            if leaf == "kv_vision":  # both are behind the first one's gate
                gates = (torch.tanh(state[name.replace("kv_vision.weight", "gate")]) for state in (one, two))
                y = _gated(y, *gates)
            made[name] = _beside(x, y, GROUPS.get(leaf, 1), leaf in FROM_CONTEXT)
    head.load_state_dict(made)
    return head


def _norm(name: str, x: Tensor, y: Tensor, sizes: Sizes, streams: Streams, one: int, two: int) -> Tensor:
    """Weights with which each half comes out of the common norm as it did of its own, at home and on average."""
    factor, total = streams.at(name), one + two
    at_first = ((one * sizes.first_at_home[name] ** 2 + two * (factor * sizes.second_away[name]) ** 2) / total) ** 0.5
    at_second = ((one * sizes.first_away[name] ** 2 + two * (factor * sizes.second_at_home[name]) ** 2) / total) ** 0.5
    goes_to = {"adapter_norm": streams.core, "core_norm": streams.coda}.get(name, 1.0)
    first = x * at_first / sizes.first_at_home[name]
    return torch.cat([first, y * goes_to * at_second / (factor * sizes.second_at_home[name])])


def _gated(y: Tensor, first: Tensor, second: Tensor) -> Tensor:
    keys, values = y.chunk(2)
    return torch.cat([keys * second / first, values]) if abs(first) > 1e-3 else y


def _beside(x: Tensor, y: Tensor, groups: int, same_input: bool) -> Tensor:
    pairs = zip(x.chunk(groups), y.chunk(groups), strict=True)
    return torch.cat([torch.cat(pair) if same_input else torch.block_diag(*pair) for pair in pairs])


def _part(name: str) -> str:
    return "core" if name == "core_norm" else name.partition(".")[0]


def _same(a, b) -> None:
    for name in SAME:
        if getattr(a, name) != getattr(b, name):
            raise TrainingError(
                f"Two heads for one: expected the same {name}, got {getattr(a, name)} and {getattr(b, name)}. "
                "Train the second one with the first one's."
            )
