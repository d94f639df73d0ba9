"""The backbone divided among processes by torch's FSDP2: each holds its part of weights, gradients and moments.

A block's weights are gathered when it is computed and dropped afterwards. The head, whose weights are used in every iteration, is
small and stays whole; its gradients are averaged as without shards.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from rdvla_ros.learning.config import TrainingError
from rdvla_ros.learning.training.adapters import learning
from rdvla_ros.learning.training.parallel import Team
from rdvla_ros.model.rdvla import RDVLA


class Shards:
    """Divides the backbones of `model` and `average` in place; every process of the team calls every method."""

    def __init__(self, model: RDVLA, average: RDVLA, team: Team):
        if team.size == 1:
            raise TrainingError(
                "tuning: shard: expected several processes to divide the backbone among, got one. Start it with --processes or "
                "torchrun, or set shard to false."
            )
        self.team = team
        self.skeleton = copy.deepcopy(average).to("meta")
        mesh = init_device_mesh(next(model.parameters()).device.type, (team.size,))
        for part in (model, average):
            lists = [module for module in part.backbone.modules() if isinstance(module, nn.ModuleList)]
            for block in (block for blocks in reversed(lists) for block in blocks):
                fully_shard(block, mesh=mesh)
            fully_shard(part.backbone, mesh=mesh, reshard_after_forward=True)

    def gather_and_clip(self, parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
        """Mean gradients over the processes, scaled to a norm of at most `limit`; -> the norm before that."""
        plain = [p for p in parameters if not isinstance(p, DTensor)]
        self.team.average_gradients(plain)
        mine = [p.grad.to_local() for p in parameters if isinstance(p, DTensor) and p.grad is not None]
        device = plain[0].device
        square = sum((gradient.float().square().sum() for gradient in mine), torch.zeros((), device=device))
        dist.all_reduce(square)
        norm = (square + sum(p.grad.float().square().sum() for p in plain)).sqrt()
        scale = (limit / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_([*mine, *(p.grad for p in plain)], scale)
        return norm

    def whole(self, model: RDVLA) -> RDVLA | None:
        """All of a divided model in rank 0, None elsewhere. Only its weights are there, not what is computed from the sizes."""
        weights = {name: _whole(value, self.team) for name, value in model.state_dict().items()}
        if not self.team.leads:
            return None
        copied = copy.deepcopy(self.skeleton)
        copied.load_state_dict(weights, assign=True)
        return copied

    def state(self, model: RDVLA, average: RDVLA, optimiser: torch.optim.Optimizer) -> dict:
        """model, average: of what learns; optimiser: with whole moments. Empty but in rank 0."""
        names = list(learning(model))
        parts = {}
        for key, part in (("model", model), ("average", average)):
            named = dict(part.named_parameters())
            parts[key] = {name: _whole(named[name], self.team) for name in names}
        saved = optimiser.state_dict()
        moments = {i: {k: _whole(v, self.team) for k, v in state.items()} for i, state in saved["state"].items()}
        return parts | {"optimiser": {"state": moments, "param_groups": saved["param_groups"]}}

    def restore(self, model: RDVLA, average: RDVLA, optimiser: torch.optim.Optimizer, state: dict) -> None:
        names = list(learning(model))
        for key, part in (("model", model), ("average", average)):
            named = dict(part.named_parameters())
            with torch.no_grad():
                for name in names:
                    target, value = named[name], _divided(state[key][name], named[name])
                    (target.to_local() if isinstance(target, DTensor) else target).copy_(
                        value.to_local() if isinstance(value, DTensor) else value
                    )
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        moments = {
            i: {k: _divided(v, parameters[i]) if getattr(v, "ndim", 0) else v for k, v in moment.items()}
            for i, moment in state["optimiser"]["state"].items()
        }
        optimiser.load_state_dict({"state": moments, "param_groups": state["optimiser"]["param_groups"]})


def _whole(value, team: Team):
    """A divided tensor gathered into rank 0's memory; in the other processes nothing is kept of it."""
    if not isinstance(value, DTensor):
        return value
    gathered = value.full_tensor()
    return gathered.detach().cpu() if team.leads else None


def _divided(value: Tensor, like: Tensor) -> Tensor:
    if not isinstance(like, DTensor):
        return value.to(like.device)
    return distribute_tensor(value.to(like.device, like.dtype), like.device_mesh, like.placements, src_data_rank=None)
