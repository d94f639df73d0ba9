"""Training: a run stops and resumes as if it had not, several processes make one, and bad data is named."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from policy_cases import INSTRUCTION, ROBOT_FILE, robot, tiny_config, write_episodes

from rdvla_ros.learning.config import Augmentation, DataSettings, DepthSampler, TrainConfig, TrainingError
from rdvla_ros.learning.data.augment import BatchMaker, _shifted
from rdvla_ros.learning.data.dataset import Wanted, build_cache, open_cache, shuffled_batch
from rdvla_ros.learning.training import train as training
from rdvla_ros.learning.training.build import build_model
from rdvla_ros.learning.training.parallel import Team
from rdvla_ros.learning.training.recurrence import unroll
from rdvla_ros.learning.training.trainer import Trainer, load_state
from rdvla_ros.model.checkpoint import load_checkpoint
from rdvla_ros.model.normalization import fit_action_space, relative_columns
from rdvla_ros.model.tokenizer import WordTokenizer


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_episodes(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _run(data, output, resume=False, team=None, **changes):
    return training.train(tiny_config(**changes), [data], output, robot(), resume=resume, team=team or Team())


def _cache(folder, cache):
    config = tiny_config()
    build_cache([folder], cache, Wanted(config.data, config.model.cameras, robot(), config.label_rows, 4))
    return open_cache(cache, config.model.cameras)


def _state(output):
    return load_state(output / training.STATE)["trainer"]


def test_a_resumed_run_has_the_weights_of_an_unbroken_one(data, tmp_path):
    changes = dict(decay_steps=0, warmup_steps=1)  # so that the rate of a step does not depend on how long the run is
    _run(data, tmp_path / "straight", **changes)
    _run(data, tmp_path / "resumed", steps=2, **changes)
    _run(data, tmp_path / "resumed", resume=True, **changes)
    straight, resumed = _state(tmp_path / "straight"), _state(tmp_path / "resumed")
    for part in ("model", "average", "auxiliary"):
        for name, tensor in straight[part].items():
            assert torch.equal(tensor, resumed[part][name]), f"{part}: {name}"


def test_a_run_leaves_a_policy_and_a_log(data, tmp_path):
    policy = _run(data, tmp_path / "run")
    checkpoint = load_checkpoint(policy)
    assert checkpoint.contract.joint_names == robot().joint_names and checkpoint.training["step"] == 4
    entries = [json.loads(line) for line in (tmp_path / "run" / training.LOG).read_text().splitlines()]
    assert [e["step"] for e in entries if "loss" in e] == [1, 2, 3, 4]
    assert set(entries[-1]["validation"]) == {"1", "2", "4", "8", "16"}


def test_a_run_is_not_overwritten_by_accident(data, tmp_path):
    _run(data, tmp_path / "run", steps=2)
    with pytest.raises(TrainingError, match="--resume"):
        _run(data, tmp_path / "run")


def test_the_loss_falls(data, tmp_path):
    _run(data, tmp_path / "run", steps=60, decay_steps=20, learning_rate=5e-3, batch_size=16, evaluate_every=1000)
    entries = [json.loads(line) for line in (tmp_path / "run" / training.LOG).read_text().splitlines()]
    losses = [e["loss"] for e in entries if "loss" in e]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])


def _two_process_gradients(rank, port, queue):
    torch.set_num_threads(1)
    team = Team.join(rank, 2, port)
    parameters = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2, 2))]
    parameters[0].grad = torch.full((3,), float(rank))
    if rank == 0:  # only one process has a gradient for this one: it is averaged all the same
        parameters[1].grad = torch.ones(2, 2)
    team.average_gradients(parameters)
    weights = [torch.full((2,), 4.0 * rank), torch.tensor(float(rank))]
    team.average(weights)
    if rank == 1:
        queue.put(([p.grad.tolist() for p in parameters], [w.tolist() for w in weights], team.agree(True)))
    else:
        team.agree(False)
    team.leave()


def test_gradients_of_two_processes_are_averaged_for_every_parameter():
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    torch.multiprocessing.spawn(_two_process_gradients, (training.free_port(), queue), nprocs=2)
    gradients, weights, answer = queue.get()
    assert gradients == [[0.5] * 3, [[0.5, 0.5], [0.5, 0.5]]]
    assert weights == [[2.0, 2.0], 0.5]
    assert answer is False  # what rank 0 says


def _gradient(folder, cache, team):
    """Of one batch, shared among the team; nothing drawn, so that only the sharing differs."""
    frames = _cache(folder, cache)
    relative = relative_columns("relative", robot().joint_names, robot().gripper_joints)
    space = fit_action_space(relative, frames.positions, frames.labels[:, :8])
    tokenizer = WordTokenizer.from_instructions(frames.instructions, 8)
    config = tiny_config()
    trainer = Trainer(config, space, tokenizer, team)
    head = trainer.model.head
    head.initial_state = lambda count, generator=None: head.gamma_init * torch.ones(count, 8, 16)
    maker = BatchMaker(frames, space, tokenizer, config.augmentation, 8)
    batch = maker.make(np.arange(8)[team.rank :: team.size])
    loss, auxiliary = trainer._losses(batch, 5, np.random.default_rng(0))
    (loss[0] + auxiliary).backward()
    team.average_gradients(trainer.parameters)
    return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in trainer.parameters])


def _share_of_a_batch(rank, port, folder, cache, queue):
    torch.set_num_threads(1)
    team = Team.join(rank, 2, port)
    gradient = _gradient(folder, cache, team)
    if rank == 0:
        queue.put(gradient.tolist())
    team.leave()


def test_two_processes_have_the_gradient_of_one(data, tmp_path):
    alone = _gradient(data, tmp_path / "cache", Team())
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    arguments = (training.free_port(), data, tmp_path / "cache", queue)
    process = torch.multiprocessing.spawn(_share_of_a_batch, arguments, nprocs=2, join=False)
    together = torch.tensor(queue.get())
    process.join()
    assert alone.abs().max() > 1e-3
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-4)


def test_a_signal_to_a_run_of_two_processes_saves_it_before_it_ends(data, tmp_path):
    config, output = tmp_path / "tiny.yaml", tmp_path / "run"
    config.write_text(json.dumps(tiny_config(steps=100_000, save_every_s=3600.0, evaluate_every=100_000).to_dict()))
    options = ["--data", data, "--output", output, "--config", config, "--processes", "2"]
    process = subprocess.Popen([sys.executable, "-m", "rdvla_ros.cli", "train", *map(str, options)])
    try:
        end = time.monotonic() + 120.0
        while not (output / training.LOG).exists() or not (output / training.LOG).read_text().count("\n"):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        process.terminate()
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
    assert _state(output)["step"] >= 1


def test_depths_follow_the_mixture():
    rng = np.random.default_rng(0)
    depths = np.array([DepthSampler(mean=32, shallow_fraction=0.0).draw(rng) for _ in range(4000)])
    assert depths.min() >= 1 and depths.max() <= 64
    # E[Poisson(lambda)] + 1 with lambda log-normal of mean exp(log 32 - 1/8 + 1/8) = 32, less what the clamp takes off
    assert 30.0 < depths.mean() < 33.5
    shallow = [DepthSampler(shallow_fraction=1.0, shallow_limit=4).draw(rng) for _ in range(200)]
    assert set(shallow) == {1, 2, 3, 4}


def test_only_the_last_iterations_carry_gradient():
    config = tiny_config()
    model = build_model(config, WordTokenizer.from_instructions([INSTRUCTION], 8), 14)
    head = model.head
    states = {i: torch.randn(2, 4, 16) for i in head.config.context_layers}
    with torch.no_grad():
        context = head.encode(states, states, torch.zeros(2, 14))
    start = torch.randn(2, 8, 16, requires_grad=True)
    assert len(unroll(head, context, start, depth=7, backprop_depth=3)) == 3
    unroll(head, context, start, depth=7, backprop_depth=3)[-1].sum().backward()
    assert start.grad is None
    unroll(head, context, start, depth=3, backprop_depth=3)[-1].square().sum().backward()
    assert start.grad.abs().sum() > 0


def test_every_observation_comes_once_per_epoch_and_in_a_new_order():
    first = np.concatenate([shuffled_batch(10, step, 5, seed=3) for step in range(2)])
    second = np.concatenate([shuffled_batch(10, step, 5, seed=3) for step in range(2, 4)])
    assert sorted(first) == sorted(second) == list(range(10)) and list(first) != list(second)


@pytest.fixture(scope="module")
def frames(data, tmp_path_factory):
    return _cache(data, tmp_path_factory.mktemp("cache") / "cache")


def test_validation_seeds_are_kept_apart(frames):
    assert len(frames) == 30 and frames.held_out.sum() == 6 and frames.phases == ("reach",)


def test_a_batch_without_variation_is_the_data(frames):
    relative = relative_columns("relative", robot().joint_names, robot().gripper_joints)
    space = fit_action_space(relative, frames.positions, frames.labels[:, :8])
    maker = BatchMaker(frames, space, WordTokenizer.from_instructions(frames.instructions, 8), Augmentation(), 8)
    indices = np.array([7, 3, 7])
    batch = maker.make(indices)
    targets = space.decode_targets(batch.target.double().numpy(), frames.positions[indices])
    np.testing.assert_allclose(targets, frames.labels[indices][:, :8], atol=1e-5)
    pictures = (batch.images["top"].permute(0, 2, 3, 1).numpy() + 1.0) * 127.5
    np.testing.assert_allclose(pictures, frames.images["top"][indices], atol=1e-3)
    assert torch.equal(
        maker.make(indices, np.random.default_rng(1)).images["top"],
        maker.make(indices, np.random.default_rng(1)).images["top"],
    )


def test_a_shifted_picture_repeats_its_edge():
    picture = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3).repeat(20, axis=0)
    shifted = _shifted(picture, 1, np.random.default_rng(0))
    assert shifted.shape == picture.shape and len({s.tobytes() for s in shifted}) > 4
    assert set(np.unique(shifted)) <= set(np.unique(picture))


def test_the_cache_is_made_anew_when_an_episode_comes(tmp_path):
    folder = write_episodes(tmp_path / "some", count=2)
    assert len(_cache(folder, tmp_path / "cache")) == 12
    write_episodes(folder, count=3)
    assert len(_cache(folder, tmp_path / "cache")) == 18


def test_a_resumed_run_keeps_its_statistics(data, tmp_path):
    _run(data, tmp_path / "run", steps=2)
    before = load_checkpoint(tmp_path / "run" / training.POLICY).space
    _run(data, tmp_path / "run", resume=True)
    after = load_checkpoint(tmp_path / "run" / training.POLICY).space
    np.testing.assert_array_equal(before.action.low, after.action.low)
    np.testing.assert_array_equal(before.action_std, after.action_std)
    assert after.action_std is not None


def test_a_device_that_is_not_there_is_named(data, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(TrainingError, match="device 'cuda': expected cpu or cuda.*no CUDA device.*--device cpu"):
        training.train(tiny_config(), [data], tmp_path / "run", robot(), resume=False, team=Team(), device="cuda")


def test_a_run_of_another_size_is_not_resumed(data, tmp_path):
    _run(data, tmp_path / "run", steps=2)
    before = (tmp_path / "run" / training.STATE).read_bytes()
    other = dataclasses.replace(tiny_config().model, hidden_dim=32)
    with pytest.raises(TrainingError, match="other sizes than this configuration"):
        _run(data, tmp_path / "run", resume=True, model=other)
    assert (tmp_path / "run" / training.STATE).read_bytes() == before


def test_a_full_disk_leaves_the_previous_save(data, tmp_path, monkeypatch):
    _run(data, tmp_path / "run", steps=2)
    before = (tmp_path / "run" / training.STATE).read_bytes()

    def full(state, file):
        Path(file).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match="No space left.*previous save is untouched"):
        _run(data, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / training.STATE).read_bytes() == before
    assert not list((tmp_path / "run").glob("*.part"))


def test_a_new_run_begins_with_another_checkpoint(data, tmp_path):
    first = _run(data, tmp_path / "first")
    training.train(
        tiny_config(steps=1, decay_steps=0, learning_rate=0.0),
        [data],
        tmp_path / "second",
        robot(),
        resume=False,
        team=Team(),
        begin_with=first,
    )
    ours, theirs = (load_checkpoint(f).model.state_dict() for f in (tmp_path / "second" / training.POLICY, first))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=2e-3, rtol=2e-2)  # stored in half precision


@pytest.mark.parametrize(
    "text, message",
    [
        ("stepz: 3", "unknown key 'stepz'.*Did you mean 'steps'"),
        ("model: {hidden: 3}", "model: unknown key 'hidden'"),
        ("schedule: linear", "schedule: expected constant or cosine, got text 'linear'"),
        ("precision: int8", "expected bfloat16 or float32"),
        ("decay_steps: 20000", "decay_steps: expected 0 .. steps"),
        ("[1]", "expected a mapping"),
    ],
)
def test_a_wrong_configuration_is_refused(tmp_path, text, message):
    file = tmp_path / "train.yaml"
    file.write_text(text)
    with pytest.raises(TrainingError, match=message):
        TrainConfig.load(file)


def test_a_configuration_is_read_as_it_was_written(tmp_path):
    config = tiny_config(data=DataSettings(cameras={"top": "observation.images.head"}, joints=("a", "b"), frame_stride=2))
    file = tmp_path / "written.yaml"
    file.write_text(json.dumps(config.to_dict()))
    assert TrainConfig.load(file) == config


def test_the_configuration_in_the_documentation_is_read(tmp_path):
    text = (ROBOT_FILE.parent.parent / "docs" / "training.md").read_text()
    file = tmp_path / "documented.yaml"
    file.write_text(text.split("```yaml")[1].split("```")[0])
    config = TrainConfig.load(file)
    assert dict(config.data.cameras) == {"top": "observation.images.cam_high"} and config.model.cameras[0].name == "top"


def test_the_learning_rate_rises_stays_and_falls_to_zero():
    config = TrainConfig(steps=100, warmup_steps=10, decay_steps=20, learning_rate=1.0)
    rates = [config.learning_rate_at(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[10:80] == [1.0] * 70
    assert math.isclose(rates[90], 0.5) and rates[100] == 0.0
    config = TrainConfig(steps=110, warmup_steps=10, decay_steps=0, learning_rate=1.0, schedule="cosine")
    rates = [config.learning_rate_at(step) for step in (10, 60, 110)]
    assert rates == pytest.approx([1.0, 0.5, 0.0])


def test_the_shipped_configuration_is_read_and_is_the_default_model():
    config = TrainConfig.load(ROBOT_FILE.with_name("training") / "compact_aloha.yaml")
    assert config.model == TrainConfig().model and config.average_every == 10
