"""Asked before a large model is read: whether this machine, this process and this device can take it."""

from __future__ import annotations

import resource
from pathlib import Path

import psutil
import torch

from rdvla_ros.types import CheckpointError

GIB = 1 << 30
SPARE = 256 << 20  # activations and buffers beside the weights [byte]


def require_memory(needed: int, what: str | Path) -> None:
    """CheckpointError unless `needed` bytes more can be allocated here."""
    free, reason = psutil.virtual_memory().available, "free on this machine"
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    if limit != resource.RLIM_INFINITY:
        left = limit - getattr(psutil.Process().memory_info(), "data", 0)
        if left < free:
            free, reason = left, "left of this process' limit (parameter worker_memory_mib of the policy node)"
    if needed + SPARE > free:
        raise CheckpointError(
            f"{what}: expected {(needed + SPARE) / GIB:.2f} GiB of memory to load it, {max(0, free) / GIB:.2f} GiB are {reason}. "
            "End other programs, use a machine with more, raise the limit, or load it with dtype bfloat16."
        )


def require_device(device: torch.device, dtype: torch.dtype) -> None:
    """CheckpointError unless this machine has the device, and the device the number format."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        found = f"{torch.cuda.device_count()} CUDA devices" if torch.cuda.is_available() else "no CUDA device"
        raise CheckpointError(f"device '{device}': this machine has {found} ({error}). Use device 'cpu'.") from error
    if device.type == "cuda" and dtype == torch.bfloat16 and not torch.cuda.is_bf16_supported():
        raise CheckpointError(f"device '{device}': it does not compute in bfloat16. Use dtype float32.")
