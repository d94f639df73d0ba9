"""Ablations: every variant trains, goes on where it stopped, and a table says what came out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from policy_cases import tiny_checkpoint, write_episodes

from rdvla_ros.learning.config import TrainingError
from rdvla_ros.learning.evaluation import ablate
from rdvla_ros.model.checkpoint import save_checkpoint


def test_variants_train_and_go_on_where_they_stopped(tmp_path, monkeypatch, capsys):
    data = write_episodes(tmp_path / "data", count=5)
    checkpoint = save_checkpoint(tmp_path / "tiny", tiny_checkpoint())
    small = {name: v for name, v in ablate.VARIANTS.items() if name not in ("d96", "d288") and not v.readings}
    monkeypatch.setattr(ablate, "VARIANTS", small)
    words = ["--checkpoint", str(checkpoint), "--data", str(data), "--steps", "2", "--output", str(tmp_path / "out")]
    words += ["--variants", *small]
    assert ablate.main([*words, "--seeds", "1"]) == 0
    before = json.loads((tmp_path / "out/ablations.json").read_text())["results"]
    assert set(before) == set(small) and all(len(runs) == 1 for runs in before.values())
    assert ablate.main([*words, "--seeds", "2"]) == 0
    after = json.loads((tmp_path / "out/ablations.json").read_text())["results"]
    assert all(len(runs) == 2 and runs[0] == before[name][0] for name, runs in after.items())
    assert len({round(runs[0]["8"], 9) for runs in after.values()}) > len(small) // 2  # variants differ
    text = (tmp_path / "out/ablations.md").read_text()
    assert text.count("\n") == 2 + len(small) and "| 2 |" in text and "gradient through 1 iteration" in text
    assert (tmp_path / "out/ablations.png").stat().st_size > 5000
    with pytest.raises(TrainingError, match="its heads had steps 2, these have 3.*another --output"):
        ablate.main([*words, "--steps", "3"])
    with pytest.raises(TrainingError, match="variant 'unshard'.*unshared"):
        ablate.main([*words[: -len(small)], "unshard"])


def test_readings_reach_the_heads_that_are_told_of_them(tmp_path):
    data = write_episodes(tmp_path / "data", count=5)
    checkpoint = save_checkpoint(tmp_path / "tiny", tiny_checkpoint())
    words = ["--checkpoint", str(checkpoint), "--data", str(data), "--steps", "2", "--seeds", "1"]
    variants = ["--variants", "default", "readings", "shuffled"]
    told = ["--sensors", "force=observation.state", "touch=action"]
    assert ablate.main([*words, "--output", str(tmp_path / "out"), *told, *variants]) == 0
    results = json.loads((tmp_path / "out/ablations.json").read_text())["results"]
    assert len({runs[0]["8"] for runs in results.values()}) == 3
    with pytest.raises(TrainingError, match="variant 'readings' reads sensors: name them with --sensors"):
        ablate.main([*words, "--output", str(tmp_path / "no"), *variants])


def test_intervals_over_seeds_are_students():
    mean, half = ablate.interval([1.0, 2.0, 3.0])
    assert mean == 2.0 and half == pytest.approx(4.303 / np.sqrt(3), rel=1e-3)
