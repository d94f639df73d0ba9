"""Linear maps laid out for the matrix kernels of this machine's CPU: same numbers, half the time on a handful of rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rdvla_ros.types import RdvlaError

WORTH_PACKING = 2**18  # weights; below that the call costs more than the layout saves


class PackedLinear(nn.Module):
    """An nn.Linear whose weight lies in oneDNN's blocked layout: for inference only, neither trained, moved nor saved."""

    def __init__(self, linear: nn.Linear, rows: int) -> None:
        super().__init__()
        # Not a buffer: the blocked layout survives neither .to() nor a state dict.
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().contiguous(), rows)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def _save_to_state_dict(self, *args: Any) -> None:
        # Without this a packed head would be saved without most of its weights, and nobody would know until it is loaded.
        raise RdvlaError(
            "expected a head as it was loaded, got one after pack(): a packed head is for decisions only. "
            "Save the model before a Policy is made of it, or load the checkpoint again"
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")


def packing_works(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this build and CPU have the packed kernels for `dtype`, shown by a product that comes out right."""
    if device.type != "cpu" or dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    try:
        if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        linear = nn.Linear(64, 32, bias=False, dtype=dtype)
        x = torch.linspace(-1, 1, 3 * 64).view(1, 3, 64).to(dtype)
        with torch.no_grad():
            return torch.allclose(PackedLinear(linear, 3)(x).float(), linear(x).float(), atol=0.02, rtol=0.02)
    except (AttributeError, RuntimeError):  # a build without the operators
        return False


def pack_linears(module: nn.Module, rows: int, skip: tuple[str, ...] = ()) -> None:
    """Replace every large nn.Linear below `module`, except those of the names in `skip`.

    rows: rows per product to expect.
    """
    for name, child in list(module.named_children()):
        if type(child) is nn.Linear and name not in skip and child.weight.numel() >= WORTH_PACKING:
            setattr(module, name, PackedLinear(child, rows))
        elif name not in skip:
            pack_linears(child, rows, skip)
