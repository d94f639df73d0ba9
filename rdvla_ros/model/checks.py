"""The checks on what a head is given, before it computes anything."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from rdvla_ros.model.head_protocol import Head
from rdvla_ros.types import RdvlaError


class HeadInputError(RdvlaError):
    """Input that the head refuses before it computes anything."""


def check_context_input(
    head: Head,
    task_states: Mapping[int, Tensor],
    latent_states: Mapping[int, Tensor],
    proprio: Tensor,
    sensors: Tensor | None = None,
) -> None:
    """Raise HeadInputError unless the tensors fit the head and each other and are finite."""
    config = head.config
    _check_tensor("proprio", proprio, (None, config.proprio_dim), head)
    batch = proprio.shape[0]
    checked = {"proprio": proprio}
    if config.sensors:
        _check_tensor("sensors", sensors, (batch, sum(config.sensors)), head)
        checked["sensors"] = sensors
    for group, states in (("task_states", task_states), ("latent_states", latent_states)):
        for index in config.context_layers:
            if index not in states:
                raise HeadInputError(
                    f"{group}: expected hidden states of backbone layer {index}; got layers "
                    f"{sorted(states) or 'none'}. The head reads layers {list(config.context_layers)}"
                )
            name = f"{group}[{index}]"
            _check_tensor(name, states[index], (batch, None, config.context_width), head)
            checked[name] = states[index]
    # A sum is finite only if everything in it is, and one pass; one answer from the device for all tensors together.
    sums = torch.stack([tensor.detach().sum(dtype=torch.float32) for tensor in checked.values()]).tolist()
    suspects = [name for name, total in zip(checked, sums, strict=True) if not math.isfinite(total)]
    bad = [name for name in suspects if not bool(torch.isfinite(checked[name]).all())]
    if bad:
        raise HeadInputError(f"expected finite numbers, got NaN or infinity in {', '.join(bad)}")


def check_state(head: Head, state: Tensor, batch: int) -> None:
    """Raise HeadInputError unless `state` is a scratchpad (B, K, D) of this head."""
    _check_tensor("initial_state", state, (batch, head.config.rows, head.config.hidden_dim), head)
    if not bool(torch.isfinite(state).all()):
        raise HeadInputError("initial_state: expected finite numbers, got NaN or infinity")


def _check_tensor(name: str, tensor: Tensor, shape: tuple[int | None, ...], head: Head) -> None:
    if not isinstance(tensor, Tensor):
        raise HeadInputError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    fits = tensor.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, tensor.shape, strict=True))
    if not fits or tensor.numel() == 0:
        wanted = " x ".join("any" if want is None else str(want) for want in shape)
        raise HeadInputError(f"{name}: expected shape {wanted}, got {' x '.join(map(str, tensor.shape)) or 'a scalar'}")
    autocast = torch.is_autocast_enabled(tensor.device.type)
    if tensor.dtype != head.dtype and not (autocast and tensor.dtype.is_floating_point):
        raise HeadInputError(f"{name}: expected {head.dtype} like the head's weights, got {tensor.dtype}")
    if tensor.device != head.device:
        raise HeadInputError(f"{name}: expected a tensor on {head.device} like the head's weights, got {tensor.device}")
