"""`rdvla bench head` at a reduced width: it compares equal numbers, saves what it measured, and refuses a false comparison."""

from __future__ import annotations

import json

import pytest
import torch

from rdvla_ros.bench.head import main as bench_head


def test_the_bench_saves_every_variant_and_a_chart(tmp_path, capsys):
    chart = tmp_path / "images" / "chart.png"
    arguments = [
        "--hidden-dim",
        "64",
        "--rounds",
        "1",
        "--depths",
        "1",
        "4",
        "--threads",
        "1",
        "--out",
        str(tmp_path / "bench"),
        "--chart",
        str(chart),
    ]
    assert bench_head.main(arguments) == 0
    report = json.loads((tmp_path / "bench" / "head_cpu.json").read_text())
    for result in report["results"].values():
        assert {"baseline 1", "fixed 1", "baseline 4", "fixed 4", "baseline 12", "fixed 12", "adaptive 12"} <= set(result["ms"])
        assert all(ms["p10"] <= ms["median"] <= ms["p90"] for ms in result["ms"].values())
    assert chart.stat().st_size > 10_000
    assert "whole head at r = 12, ours / baseline" in capsys.readouterr().out


def test_different_numbers_are_not_compared():
    config = bench_head.replace(bench_head.FULL_SIZE, hidden_dim=64)
    subject = bench_head.make_subject(torch.float32, torch.device("cpu"), config, rows=(12, 4))
    stops = bench_head.thresholds(subject, (2, 4, 6))
    bench_head.check_same_numbers(subject, "float32", stops)
    subject.baseline.core[0].gate.data.neg_()
    with pytest.raises(bench_head.BenchError, match="expected the baseline's numbers"):
        bench_head.check_same_numbers(subject, "float32", stops)


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--depths", "0"]])
def test_senseless_requests_are_refused(arguments, capsys):
    assert bench_head.main(arguments) == 2
    assert "start at 1" in capsys.readouterr().err
