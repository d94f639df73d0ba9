"""Two processes with a divided backbone (FSDP2) and LoRA make the step of one process."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from policy_cases import robot, write_episodes
from published_cases import write_folder
from test_finetune import LORA, settings

from rdvla_ros.learning.config import Augmentation
from rdvla_ros.learning.data.augment import BatchMaker
from rdvla_ros.learning.data.dataset import build_cache, open_cache
from rdvla_ros.learning.data.source import Wanted
from rdvla_ros.learning.training.build import make_tokenizer, resizing
from rdvla_ros.learning.training.parallel import Team, free_port
from rdvla_ros.learning.training.trainer import Trainer
from rdvla_ros.model.import_checkpoint import import_checkpoint
from rdvla_ros.model.normalization import fit_action_space, relative_columns

pytest.importorskip("peft", reason="requirements-finetune.txt")
STILL = Augmentation(shift_px={}, brightness=0.0, contrast=0.0, proprio_noise=0.0, word_dropout=0.0)


def _trainer(folder, cache, team, **tuning):
    import dataclasses

    config = settings(folder, tuning=dataclasses.replace(LORA, checkpointing=True, **tuning), augmentation=STILL)
    frames = open_cache(cache, config.model.cameras)
    space = fit_action_space(
        relative_columns("relative", robot().joint_names, robot().gripper_joints), frames.positions, frames.labels[:, :8]
    )
    tokenizer = make_tokenizer(config, frames.instructions)
    trainer = Trainer(config, space, tokenizer, team)
    head = trainer.model.head
    head.initial_state = lambda count, generator=None: head.gamma_init * torch.ones(count, 8, 32)
    return trainer, frames, BatchMaker(frames, space, tokenizer, STILL, 8)


def _steps(trainer, frames, maker):
    """(norm of each step's gradient, whole policy, whole state) after two steps on shares of the same batches."""
    usable = np.arange(len(frames))
    norms = [trainer.take_step(frames, usable, maker).gradient_norm for _ in range(2)]
    errors = trainer.validate(maker, usable[:4], (1, 2))
    return norms, errors, trainer.policy_model(), trainer.state()


def _second(_, port, folder, cache):
    torch.set_num_threads(1)
    team = Team.join(1, 2, port)
    made = _trainer(folder, cache, team, shard=True)
    state = _steps(*made)[-1]
    assert state["model"] is not None
    resumed, *_ = _trainer(folder, cache, team, shard=True)
    torch.distributed.barrier()
    resumed.restore(torch.load(cache / "state.pt", weights_only=True))
    resumed.state()
    team.leave()


def test_two_processes_with_a_divided_backbone_make_the_step_of_one(tmp_path):
    folder = import_checkpoint(write_folder(tmp_path / "published"), tmp_path / "ours", robot())
    data, cache = write_episodes(tmp_path / "set", count=2, steps=4), tmp_path / "cache"
    config = settings(folder)
    build_cache([data], cache, Wanted(config.data, config.model.cameras, robot(), config.label_rows, 4, resizing(config)))
    alone = _steps(*_trainer(folder, cache, Team()))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    port = free_port()
    other = torch.multiprocessing.spawn(_second, (port, folder, cache), nprocs=1, join=False)
    team = Team.join(0, 2, port)
    try:
        together = _steps(*_trainer(folder, cache, team, shard=True))
        torch.save(together[-1], cache / "state.pt")
        resumed, *_ = _trainer(folder, cache, team, shard=True)
        torch.distributed.barrier()
        resumed.restore(together[-1])
        again = resumed.state()
        while not other.join():
            pass
    finally:
        for process in other.processes:
            process.terminate()
        team.leave()
        torch.set_num_threads(threads)
    assert together[0] == pytest.approx(alone[0], rel=1e-4) and together[1] == pytest.approx(alone[1], rel=1e-3)
    ours, theirs = together[2].state_dict(), alone[2].state_dict()
    assert ours.keys() == theirs.keys()
    theirs.pop("head.gamma_init")  # from the same start in every row its gradient is rounding, which Adam makes large
    far = [name for name in theirs if (ours[name] - theirs[name]).abs().mean() > 1e-5]
    assert not far, far
    for part in ("model", "average"):
        for name, value in together[-1][part].items():
            assert torch.equal(again[part][name], value)
    moments, old = again["optimiser"]["state"], together[-1]["optimiser"]["state"]
    assert all(torch.equal(moments[i]["exp_avg"], old[i]["exp_avg"]) for i in old)
