"""Several training processes: one gradient for all, averaged over every parameter."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue

import torch
import torch.distributed as dist
from torch import nn

from rdvla_ros.learning.config import TrainingError
from rdvla_ros.types import RdvlaError

REFUSED = 1  # exit code of a process that another one's refusal ends


@dataclass(frozen=True)
class Team:
    """This process among `size`; rank 0 logs and saves."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, rank: int, size: int, port: int) -> Team:
        """Started by `spawn` below."""
        if size > 1:
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
                init_method=f"tcp://127.0.0.1:{port}",
                rank=rank,
                world_size=size,
            )
        return cls(rank, size)

    @classmethod
    def from_torchrun(cls) -> Team | None:
        """Started by torchrun (its environment variables are set), else None."""
        if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
            return None
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()

    def agree(self, flag: bool) -> bool:
        """What rank 0 says."""
        if self.size == 1:
            return flag
        message = torch.tensor([int(flag)])
        dist.broadcast(message, 0)
        return bool(message)

    def first(self, action: Callable[[], None]) -> None:
        """Rank 0 does it while the others wait. Where it refuses, all end, and only rank 0 says why."""
        refusal: RdvlaError | None = None
        if self.leads:
            try:
                action()
            except RdvlaError as error:
                refusal = error
        if not self.agree(refusal is None):
            if refusal is not None:
                raise refusal
            raise SystemExit(REFUSED)

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Mean over the processes, in one message. A parameter without a gradient counts as zero, so none is left out."""
        if self.size == 1:
            return
        parts = [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters]
        everything = torch.cat(parts)
        dist.all_reduce(everything)
        everything.div_(self.size)
        for parameter, part in zip(parameters, everything.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)

    def average(self, tensors: Sequence[torch.Tensor]) -> None:
        """Mean over the processes, in place, in one message."""
        if self.size == 1:
            return
        everything = torch.cat([tensor.detach().flatten() for tensor in tensors])
        dist.all_reduce(everything)
        everything.div_(self.size)
        for tensor, part in zip(tensors, everything.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.data.copy_(part.view_as(tensor))

    def leave(self) -> None:
        if self.size > 1:
            dist.destroy_process_group()


def run_processes(function: Callable[..., None], size: int, arguments: tuple) -> None:
    """function(rank, *arguments) in `size` processes. What one of them refuses is raised here, as if it had been refused here."""
    context = torch.multiprocessing.get_context("spawn")
    refusals = context.SimpleQueue()
    # It would say that it ends the other processes, beside the reason for it.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    spawned = torch.multiprocessing.spawn(_guarded, (function, refusals, *arguments), nprocs=size, join=False)
    # Else the parent alone would end, and its processes would go on without it.
    previous = signal.signal(signal.SIGTERM, lambda *_: [process.terminate() for process in spawned.processes])
    try:
        while not spawned.join():
            pass
    except (torch.multiprocessing.ProcessRaisedException, torch.multiprocessing.ProcessExitedException):
        if refusals.empty():
            raise
        raise TrainingError(refusals.get()) from None  # the other processes only lost their connection to this one
    finally:
        signal.signal(signal.SIGTERM, previous)


def _guarded(rank: int, function: Callable[..., None], refusals: SimpleQueue, *arguments) -> None:
    try:
        function(rank, *arguments)
    except RdvlaError as error:
        refusals.put(str(error))
        sys.exit(REFUSED)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
