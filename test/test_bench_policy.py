"""`rdvla bench policy` at a tiny size: both ways give the same actions, every stage is timed, a false comparison is refused."""

from __future__ import annotations

import json

import pytest
import torch

from rdvla_ros import cli
from rdvla_ros.bench.policy import main as bench
from rdvla_ros.bench.policy import tokens
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


def test_tokens_are_those_written_without_a_cache():
    model = bench.make_model("tiny", torch.float32, torch.device("cpu"), 0)
    plain = bench.PlainBackbone(model.backbone)
    generator = torch.Generator().manual_seed(1)
    vision, ids = torch.randn(1, 8, 32, generator=generator), torch.randint(0, 400, (1, 5), generator=generator)
    written = tokens.write_tokens(plain, vision, ids, (4, 9), tokens.Clock(torch.device("cpu")))
    text = plain.language.embed_tokens(ids)
    sequence = torch.cat([text[:, :1], vision, text[:, 1:]], 1)
    with torch.no_grad():
        for position in range(9):
            last = plain.language(inputs_embeds=sequence, use_cache=False).last_hidden_state[:, -1:]
            token = (last @ plain.language.embed_tokens.weight.T).argmax(-1)
            assert token.item() == written[0, position].item()
            sequence = torch.cat([sequence, plain.language.embed_tokens(token)], 1)


def test_against_tokens_names_how_many_were_written(tmp_path, capsys):
    out = tmp_path / "report.json"
    assert cli.main(["bench", "policy", "--size", "tiny", "--rounds", "1", "--against-tokens", "--out", str(out)]) == 0
    found = json.loads(out.read_text())["tokens"]
    assert found["tokens"] == {"one action": {"reasoning": 150, "action": 14}, "a chunk": {"reasoning": 150, "action": 112}}
    assert found["ratio"]["a chunk"] > found["ratio"]["one action"] > 0
    assert "150 tokens of reasoning and 14 for one action" in capsys.readouterr().out
