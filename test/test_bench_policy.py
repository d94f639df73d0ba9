"""`rdvla bench policy` at a tiny size: both ways give the same actions, every stage is timed, a false comparison is refused."""

from __future__ import annotations

import json

import pytest
import torch

from rdvla_ros import cli
from rdvla_ros.bench.policy import main as bench
from rdvla_ros.types import RdvlaError


def test_every_stage_of_both_ways_is_timed(tmp_path, capsys):
    out = tmp_path / "new" / "report.json"
    assert cli.main(["bench", "policy", "--size", "tiny", "--rounds", "2", "--images", "3", "--out", str(out)]) == 0
    assert "fast / plain" in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert set(report["ms"]["fast"]) == {"preprocess", "vision", "language", "encode", "refine", "total"}
    assert set(report["ms"]["plain"]) == {"preprocess", "vision", "language", "logits", "head", "total"}
    assert report["difference"] < 1e-3 and report["machine"]["load"] >= 0


def test_different_numbers_are_not_compared(monkeypatch):
    right = bench.plain_decision

    def wrong(*arguments):
        actions, seconds = right(*arguments)
        return actions + 1.0, seconds

    monkeypatch.setattr(bench, "plain_decision", wrong)
    with pytest.raises(RdvlaError, match="expected the same actions of both ways"):
        bench.measure("tiny", 1, 1, 2, "float32", "cpu")


def test_the_plain_way_computes_what_is_left_out():
    model = bench.make_model("tiny", torch.float32, torch.device("cpu"), 0)
    plain = bench.PlainBackbone(model.backbone)
    assert len(plain.language.layers) == len(model.backbone.language.layers) + 1
    hidden, _ = plain.think(torch.zeros(1, 8, 32), torch.zeros(1, 5, dtype=torch.long))
    assert hidden.shape == (5, 8 + 5 + 64 + 1, 32)


def test_a_size_beyond_the_memory_is_refused(monkeypatch):
    from rdvla_ros.model import memory

    monkeypatch.setattr(memory, "SPARE", 1 << 60)
    with pytest.raises(RdvlaError, match="size tiny: expected"):
        bench.measure("tiny", 1, 1, 1, "float32", "cpu")
