"""The recurrent-depth action head: prelude, a core iterated on K scratchpad rows, and a coda that decodes at any depth.

    context = head.encode(task_states, latent_states, proprio)    once per decision: all that stays the same
    refinement = head.refine(context, ActionChange(5e-4))         iterates until the rule is met

Training composes the same parts under autograd: encode, initial_state, iterate, decode.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdvla_ros.model.checks import check_context_input
from rdvla_ros.model.config import HeadConfig
from rdvla_ros.model.context import HeadContext
from rdvla_ros.model.layers import FoldedContext, HeadLayer, RMSNorm, Rotary
from rdvla_ros.model.packed_linear import pack_linears, packing_works
from rdvla_ros.model.refine import refine
from rdvla_ros.model.runner import EagerRunner, GraphCache, GraphRunner
from rdvla_ros.types import Refinement


class ReadingProjector(nn.Module):
    """(B, inputs): proprioception, or a sensor's reading -> one context token (B, width)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(inputs, width), nn.Linear(width, width)

    def forward(self, reading: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(reading)))


class RDVLAHead(nn.Module):
    """See the module's docstring; sizes in HeadConfig."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self._graphs: GraphCache | None = None
        self._asked: tuple[Tensor, Tensor] | None = None  # of a packed head: what its first prelude layer makes of the queries
        dim = config.hidden_dim
        self.proprio = ReadingProjector(config.proprio_dim, config.context_width)
        self.sensors = nn.ModuleList(ReadingProjector(width, config.context_width) for width in config.sensors)
        self.action_queries = nn.Parameter(torch.empty(config.rows, dim))
        self.prelude = nn.ModuleList(HeadLayer(config) for _ in config.prelude_layers)
        # W_adapt of [S; S_pre] by halves: the prelude's is constant over the iterations.
        self.adapter_state = nn.Linear(dim, dim, bias=False)
        self.adapter_plan = nn.Linear(dim, dim, bias=False)
        self.gamma_adapt = nn.Parameter(torch.ones(()))
        self.adapter_norm = RMSNorm(dim, config.rms_norm_eps)
        self.core = nn.ModuleList(HeadLayer(config) for _ in config.all_core_layers)
        self.core_norm = RMSNorm(dim, config.rms_norm_eps)
        self.coda = nn.ModuleList(HeadLayer(config) for _ in config.coda_layers)
        self.output_norm = RMSNorm(dim, config.rms_norm_eps)
        self.output = nn.Linear(dim, config.action_dim * config.steps_per_row)
        self.gamma_init = nn.Parameter(torch.ones(()))
        self.rotary = Rotary(config)
        self.reset_parameters()

    @property
    def dtype(self) -> torch.dtype:
        return self.action_queries.dtype

    @property
    def device(self) -> torch.device:
        return self.action_queries.device

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Linear maps N(0, 2 / (5 D)) cut at 3 deviations; maps into the residual stream and the output smaller."""
        std = math.sqrt(2 / (5 * self.config.hidden_dim))
        small = std / math.sqrt(self.config.mean_recurrence * len(self.config.core_layers))
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                leaf = name.rpartition(".")[2]
                _truncated_normal_(
                    module.weight, small if leaf in ("o_self", "o_cross", "ffn_down", "output") else std, generator
                )
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, RMSNorm):
                module.weight.fill_(1.0)
            elif isinstance(module, HeadLayer):
                module.gate.zero_()
        _truncated_normal_(self.action_queries, self.config.init_std, generator)
        self.gamma_adapt.fill_(1.0)
        self.gamma_init.fill_(1.0)

    def encode(
        self,
        task_states: Mapping[int, Tensor],
        latent_states: Mapping[int, Tensor],
        proprio: Tensor,
        sensors: Tensor | None = None,
        check: bool = True,
    ) -> HeadContext:
        """Everything that does not change over the iterations of one decision; differentiable.

        task_states, latent_states: backbone layer index -> (B, P, C) and (B, Q, C); proprio (B, proprio_dim) and
        sensors (B, sum of config.sensors), normalised.
        check: that they fit and are finite; False for tensors that have no values.
        """
        if check:
            check_context_input(self, task_states, latent_states, proprio, sensors)
        tokens = [self.proprio(proprio)]
        if self.sensors:
            tokens += [part(x) for part, x in zip(self.sensors, sensors.split(self.config.sensors, -1), strict=True)]
        token = torch.stack(tokens, 1)
        latents = {i: torch.cat([latent_states[i], token.to(latent_states[i].dtype)], 1) for i in self.config.context_layers}

        def contexts(layers: nn.ModuleList, indices: tuple[int, ...], evaluated_often: bool) -> tuple:
            # Training decodes several depths at once and differentiates: plain keys and values everywhere.
            often = evaluated_often or torch.is_grad_enabled()
            return tuple(
                (layer.project_context if often else layer.fold_context)(latents[i], task_states[i])
                for layer, i in zip(layers, indices, strict=True)
            )

        plan = self.action_queries.expand(proprio.shape[0], -1, -1)
        for i, context in enumerate(contexts(self.prelude, self.config.prelude_layers, False)):
            if i == 0 and self._asked is not None:
                rows, query = (part.expand(len(proprio), *part.shape[1:]) for part in self._asked)
                plan = self.prelude[0].read(rows, query, context)
            else:
                plan = self.prelude[i](plan, context, self.rotary)
        return HeadContext(
            anchor=self.adapter_plan(plan),
            core=contexts(self.core, self.config.all_core_layers, True),
            coda=contexts(self.coda, self.config.coda_layers, False),
        )

    def initial_state(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """A fresh scratchpad S_0 (B, K, D); differentiable in gamma_init."""
        shape = (batch, self.config.rows, self.config.hidden_dim)
        draw = torch.zeros(shape, device=self.device)
        if self.config.initial_state == "truncated_normal":
            _truncated_normal_(draw, 1.0, generator)
        elif self.config.initial_state == "normal":
            draw.normal_(generator=generator)
        return (self.gamma_init * (self.config.init_std * draw)).to(self.dtype)

    def iterate(self, context: HeadContext, state: Tensor, index: int = 0) -> Tensor:
        """S_{k-1} -> S_k, (B, K, D). index: k - 1, which matters only where the iterations do not share their weights."""
        depth = len(self.config.core_layers)
        first = depth * min(index, max(0, self.config.unshared_iterations - 1))
        x = self.adapter_norm(self.gamma_adapt * (self.adapter_state(state) + context.anchor))
        for i in range(first, first + depth):
            x = self.core[i](x, context.core[i], self.rotary)
        return self.core_norm(x)

    def decode(self, context: HeadContext, state: Tensor) -> Tensor:
        """S_k -> normalised action chunk a_k, (B, H, A); several states at once where the context is of one decision."""
        for layer, layer_context in zip(self.coda, context.coda, strict=True):
            state = layer(state, layer_context, self.rotary)
        return self.sketch(state)

    def sketch(self, rows: Tensor) -> Tensor:
        """(B, K, D) -> (B, H, A): the end of the coda. Of a scratchpad itself it is a rough chunk, whose change from one
        iteration to the next goes with the change of the real one and costs next to nothing."""
        rows = self.output(self.output_norm(rows))
        if self.config.steps_per_row > 1:  # row i holds steps i * steps_per_row ...
            return rows.unflatten(-1, (-1, self.config.action_dim)).flatten(1, 2)
        return rows[:, : self.config.chunk_length]

    @torch.no_grad()
    def pack(self) -> RDVLAHead:
        """Lay the weights out for this machine and return self: same numbers, faster refine. One way: a packed head is
        neither trained, saved nor moved any more. Where no faster layout exists, nothing changes."""
        if packing_works(self.device, self.dtype):
            rows = self.config.rows
            for stack in (self.prelude, self.coda):
                pack_linears(stack, rows, skip=("kv_latents", "kv_vision"))  # folded contexts read these as they are
            pack_linears(self, rows, skip=("prelude", "coda"))
            if len(self.prelude):  # the same in every decision
                self._asked = self.prelude[0].ask(self.action_queries.detach().unsqueeze(0), self.rotary)
        return self.eval()

    def project_coda(self, context: HeadContext) -> HeadContext:
        """`context` for a refinement that decodes at every iteration: keys and values instead of folded maps."""
        coda = tuple(
            layer.project_context(part.latents, part.vision) if isinstance(part, FoldedContext) else part
            for layer, part in zip(self.coda, context.coda, strict=True)
        )
        return replace(context, coda=coda)

    def runner(self, context: HeadContext) -> EagerRunner:
        """How refine runs blocks of iterations on this device."""
        if self.device.type == "cuda" and context.batch == 1 and not self.config.unshared_iterations:
            if self._graphs is None:
                self._graphs = GraphCache()
            return GraphRunner(self, context, self._graphs)
        return EagerRunner(self, context)

    def refine(
        self, context: HeadContext, halting: Any, initial_state: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Refinement:
        """Iterate until `halting` (see halting.py) is met; each row of the batch stops on its own. No gradient.

        initial_state (B, K, D), default a fresh draw. The result's `state` is S_r of each row.
        """
        return refine(self, context, halting, initial_state, generator)

    def _apply(self, *args: Any, **kwargs: Any) -> RDVLAHead:
        self._graphs = None  # recorded graphs read the weights where they were
        self._asked = None
        return super()._apply(*args, **kwargs)


def _truncated_normal_(tensor: Tensor, std: float, generator: torch.Generator | None) -> None:
    if not tensor.is_meta and type(tensor.data) is Tensor:  # one without values cannot be drawn until it lies within
        nn.init.trunc_normal_(tensor, std=std, a=-3 * std, b=3 * std, generator=generator)
