"""`rdvla estimate`: what is counted on tensors without values is what is there with values."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from rdvla_ros import cli
from rdvla_ros.learning import estimate
from rdvla_ros.learning.config import TrainConfig, TrainingError
from rdvla_ros.learning.counting import Alive, counted
from rdvla_ros.learning.training.adapters import learning
from rdvla_ros.learning.tuning import Tuning
from rdvla_ros.model.backbones.prismatic_sizes import configs

TINY = configs("tiny")


def config(**changes) -> TrainConfig:
    made = TrainConfig(batch_size=2, backprop_depth=2)
    return dataclasses.replace(made, model=dataclasses.replace(made.model, backbone="prismatic"), **changes)


def test_bytes_are_counted_while_they_are_alive():
    alive = Alive()
    with alive:
        kept = torch.zeros(100)
        view = kept.view(10, 10)
        torch.zeros(1000).sum()
        assert alive.now == 400 and alive.peak >= 4400 and view.shape == (10, 10)
        del kept, view
    assert alive.now == 0


def test_a_step_without_values_needs_what_a_real_one_needs():
    """The same step on real tensors: weights, gradients, moments and operations equal, the rest nearly."""
    found = estimate.training(TINY, config(), images=2, tokens=9)
    torch.manual_seed(0)
    model = estimate.RDVLA(estimate.PrismaticBackbone(TINY[0]), estimate.RDVLAHead(TINY[1])).train()
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)
    inputs = estimate._inputs(TINY, 2, 2, 9, torch.float32)

    def step():
        context = estimate._encode(model, *inputs)
        states = estimate.unroll(model.head, context, model.head.initial_state(2), 8, 2)
        estimate.chunk_loss(model.head, context, states, torch.zeros(2, 8, 14), None, 0.0)[0].backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    real, flop = counted(step, model, optimiser, rounds=2)
    for kind in ("weights", "gradients", "moments"):
        assert found.bytes[kind] == real[kind] > 0
    assert found.flop == flop > 0
    rest = "activations and temporary"
    assert found.bytes[rest] == pytest.approx(real[rest], rel=0.15)
    assert found.bytes["averaged weights"] == sum(p.nbytes for p in model.parameters()) and found.learning == found.parameters


def test_lora_and_checkpointing_take_less():
    pytest.importorskip("peft", reason="requirements-finetune.txt")
    lora = Tuning(vision="lora", language="lora", rank=2)
    sizes = configs("small")
    whole = estimate.training(sizes, config(), 2)
    small = estimate.training(sizes, config(tuning=lora, precision="bfloat16"), 2)
    again = estimate.training(sizes, config(tuning=dataclasses.replace(lora, checkpointing=True), precision="bfloat16"), 2)
    model = estimate.RDVLA(estimate._backbone(sizes[0], lora), estimate.RDVLAHead(sizes[1]))
    assert small.learning == sum(p.numel() for p in learning(model).values()) < whole.learning
    assert small.bytes["moments"] < whole.bytes["moments"]
    assert again.bytes["activations and temporary"] < small.bytes["activations and temporary"]
    assert again.flop > small.flop


def test_the_command_says_whether_it_fits(tmp_path, capsys):
    out = tmp_path / "new" / "estimate.json"
    own = ["--memory-gib", "0.5", "--tflops", "10", "--gb-s", "100"]
    assert cli.main(["estimate", "--model", "tiny", *own, "--batch-size", "1", "--out", str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "does NOT fit into 0.5 GiB" in said and "not measured" in said and "vision full" in said
    works = json.loads(out.read_text())["works"]
    assert works["training step"]["flop"] > works["decision, bfloat16"]["flop"] > 0
    assert works["decision, bfloat16"]["ms"]["usual"] >= works["decision, bfloat16"]["ms"]["lower bound"] > 0


def test_what_cannot_be_estimated_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="Did you mean 'h200'"):
        estimate.main(["--model", "tiny", "--gpu", "h20"])
    with pytest.raises(TrainingError, match="expected all three"):
        estimate.main(["--model", "tiny", "--memory-gib", "8"])
    with pytest.raises(TrainingError, match="expected tiny, small, full or a folder"):
        estimate.main(["--model", str(tmp_path / "nothing")])
