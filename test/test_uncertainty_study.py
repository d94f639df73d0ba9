"""The study ranks what it should, sees no length and no test seed, and its episodes can be kept and gone on from."""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rdvla_ros.control.supervision.calibration import Calibration, CalibrationError
from rdvla_ros.learning.evaluation.uncertainty import calibrate, helped, main, passages, scores
from rdvla_ros.learning.evaluation.uncertainty.episodes import Runner
from rdvla_ros.learning.evaluation.uncertainty.kept import Kept, load, path_of, save
from rdvla_ros.learning.evaluation.uncertainty.perturbations import KINDS, in_fit_part, planned
from rdvla_ros.learning.evaluation.uncertainty.report import tables
from rdvla_ros.learning.evaluation.uncertainty.rows import POOLED, measure
from rdvla_ros.robot import shipped
from rdvla_ros.types import RdvlaError

ARMS = {"left": 2, "right": 2}


def episode(seed, failed, kind="nominal", task="transfer_cube", decisions=0, rng=None):
    """One whose motion turns back where it fails, and whose latents say nothing; failed ones are longer."""
    rng = rng or np.random.default_rng(seed)
    count, rows = decisions or (16 if failed else 7), {}
    chunk = np.cumsum(rng.normal(0.05, 0.15 if failed else 0.02, (count, 8, 4)), axis=1)
    rows["stamp_s"] = [0.6 * i for i in range(count)]
    rows["chunk"] = chunk.reshape(count, -1).tolist()
    rows["change"] = [[math.nan, 1e-3, float(v)] for v in rng.lognormal(-14, 0.1, count)]
    rows["latent"] = rng.normal(size=(count, 6)).tolist()
    constant = {"iterations": 3, "limit": 16, "threshold": 1e-6, "stop_reason": 1, "converged": True, "horizon": 6, "phase": ""}
    constant |= {"iterate_variance": 1e-6, "spread": 1e-6, "stage": 0, "measured": [0.0] * 4}
    rows |= {name: [value] * count for name, value in constant.items()}
    about = {"task": task, "kind": kind, "seed": seed, "success": not failed, "duration_s": 0.6 * count, "step_s": 0.1}
    about |= {"arms": ARMS, "instruction": "go", "manifest_sha256": "0" * 64}
    return Kept(about, rows)


@pytest.fixture(scope="module")
def found():
    fit = [episode(51000 + i, i % 3 == 0, "noise" if i % 2 else "nominal") for i in range(30)]
    test = [episode(52000 + i, i % 3 == 0, "moved object" if i % 2 else "nominal") for i in range(60)]
    return scores.traces([*fit, *test])


@pytest.fixture(scope="module")
def result(found):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "RESAMPLES", 50)
        return measure(found)


def row(result, name):
    return next(r for r in result["rows"] if r["score"] == name)


def test_auroc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    bad, good = rng.integers(0, 6, 15).astype(float), rng.integers(0, 5, 20).astype(float)
    pairs = np.mean([(b > g) + 0.5 * (b == g) for b in bad for g in good])
    assert scores.auroc(bad, good) == pytest.approx(pairs)
    low, high = scores.auroc_interval([(bad, good)])
    assert low < pairs < high and scores.auroc(np.array([1.0, np.inf]), np.array([-np.inf, 0.0])) == 1.0
    other = np.array([9.0, 9.0, 9.0]), np.array([9.0])  # a task that nothing tells apart, with much higher scores
    assert scores.pooled_auroc([(bad, good), other]) == pytest.approx((300 * pairs + 3 * 0.5) / 303)


def test_what_tells_failures_apart_ranks_high_and_placebos_do_not(result):
    assert row(result, "direction_reversals")["auroc"][POOLED]["auroc"] > 0.9
    assert row(result, "logistic, what a monitor hears")["auroc"]["unseen perturbations"]["auroc"] > 0.9
    assert 0.3 < row(result, "random")["auroc"][POOLED]["auroc"] < 0.7
    assert row(result, "network on latents (SAFE-like)")["auroc"][POOLED]["auroc"] < 0.75


def test_the_length_of_a_run_leaks_nothing_once_runs_are_cut(found, result):
    assert row(result, "elapsed_time")["auroc"][POOLED]["auroc"] == pytest.approx(0.5)
    whole = [scores.episode_score(one.signals["elapsed_time"]) for one in found if one.failed]
    others = [scores.episode_score(one.signals["elapsed_time"]) for one in found if not one.failed]
    assert scores.auroc(np.array(whole), np.array(others)) == 1.0


def test_thresholds_come_from_the_fit_part_and_the_table_can_be_written(result, tmp_path):
    cell = row(result, "direction_reversals")["alarms"]["0.1"]
    assert cell["false"][1] == 20 and cell["caught"][0] > 0.8 * cell["caught"][1] and cell["ahead_s"] > 0.0
    text = tables(json.loads(json.dumps(result)))
    assert "elapsed time* (placebo)" in text and "| transfer_cube | moved object | - |" in text


def test_no_seed_and_no_unseen_kind_is_in_the_fit_part():
    every = list(planned(["transfer_cube", "insertion", "follow_trail"], 4))
    fit = [(kind, seed) for _, kind, seed in every if in_fit_part(seed)]
    assert fit and all(kind.seen for kind, _ in fit)
    assert not {seed for _, seed in fit} & {seed for _, _, seed in every if not in_fit_part(seed)}
    assert {kind.name for _, kind, _ in every} == set(KINDS) and len({(t, k.name, s) for t, k, s in every}) == len(every)


def test_nominal_episodes_of_chosen_seeds():
    asked = argparse.Namespace(nominal=[55000, 2], tasks=["transfer_cube", "insertion"])
    found = main.wanted(asked)
    assert len(found) == 4 and all(kind.nominal for _, kind, _ in found) and {seed for _, _, seed in found} == {55000, 55001}


def test_perturbations_follow_from_the_seed():
    noise, words, longer = KINDS["noise"], KINDS["wrong words"], KINDS["longer trails"]
    assert noise.conditions_of(1) == noise.conditions_of(1) != noise.conditions_of(2)
    assert 0.0 < noise.conditions_of(1).noise <= noise.conditions.noise
    assert "peg" in words.instruction("transfer_cube", 1) and "magenta" in words.instruction("follow_trail", 1)
    assert longer.task("follow_trail", 1) == "follow_trail:7" and not longer.fits("insertion")
    assert KINDS["two iterations"].halting({"rule": "two_hit", "max_iterations": 16})["max_iterations"] == 2


def test_a_calibration_of_runs_that_chose_nothing(result, tmp_path):
    runs = passages.of_episodes([episode(52000 + i, i % 6 == 0) for i in range(30)])
    weights = calibrate.weights_of(result, "logistic")
    made, refused = calibrate.calibrate(runs, weights, result["scalings"], "0" * 64, "a test")
    (text,) = made.instructions
    assert made.instructions[text].n == 25 and set(made.instructions[text].thresholds) == {"0.05", "0.1"} and not refused
    made.save(tmp_path / "c.json")
    fresh = passages.of_episodes([episode(90000 + i, i % 2 == 0) for i in range(40)])
    table = calibrate.check(fresh, Calibration.load(tmp_path / "c.json", "0" * 64))
    assert "of 20 (" in table
    single, refused = calibrate.calibrate(runs, {"chunk_norm": 1.0}, {}, "0" * 64, "a test")  # a third gives the scale
    assert single.instructions[text].n == 16 and set(single.instructions[text].thresholds) == {"0.1"}
    assert "16 successful runs of 30, expected at least 19 for 5%" in refused[0]
    with pytest.raises(CalibrationError, match="Nothing can be calibrated"):
        calibrate.calibrate(runs[:8], weights, result["scalings"], "0" * 64, "a test")
    with pytest.raises(CalibrationError, match="no signal that a monitor hears"):
        calibrate.weights_of(result, "elapsed_time")


def test_an_episode_is_kept_and_gone_on_from(tmp_path):
    """Two seconds of the shipped policy behind a cover."""
    pytest.importorskip("mujoco")
    runner = Runner(shipped("checkpoints/compact_aloha"), shipped("config/aloha_sim.yaml"), 1.5, 0.2)
    kind = replace(KINDS["covered table"], moves=True)
    whole = runner.run("transfer_cube", kind, 5)
    path = path_of(tmp_path, "transfer_cube", kind.name, 5)
    save(path, whole)
    assert repr(load(path)) == repr(whole) and whole.failed and len(whole.rows["stamp_s"]) == 3
    part = runner.run("transfer_cube", kind, 5, decisions=2)
    assert part.rows["chunk"] == whole.rows["chunk"][:2] and runner.handover.reference.shape == (14,)
    assert all(math.isfinite(v) for v in whole.rows["spread"] + whole.rows["iterate_variance"])
    Path(path).write_bytes(b"nothing")
    with pytest.raises(RdvlaError, match="expected an episode"):
        load(path)


def test_random_asks_are_as_many_as_the_monitors_and_the_oracle_asks_where_runs_fail(result):
    study = [episode(52000 + i, i % 3 == 0) for i in range(30)]
    runs = passages.of_episodes(study)
    made, _ = calibrate.calibrate(runs, {"direction_reversals": 1.0}, result["scalings"], "0" * 64, "a test")
    asks = helped.asks_of(study, made, 0.1, 1)
    asked = asks[helped.ASKS]
    assert sum(study[i].failed for i in asked) >= 8 and sum(not study[i].failed for i in asked) <= 2
    assert len(asks[helped.CHANCE]) == len(asked) and not asks[helped.NONE]
    assert set(asks[helped.ORACLE]) == {i for i, kept in enumerate(study) if kept.failed}
    later = helped.first_ask(study[0], made, 0.1, 3)
    assert later is None or later >= asked[0] + 2


class Expert:
    """An operator who always succeeds."""

    def help(self, kept, decisions):
        return helped.Ended(True, 5.0)


def test_the_table_of_help_counts_successes_and_needless_asks():
    study = [episode(52000 + i, i < 2) for i in range(6)]
    rows = helped.measure(study, {helped.NONE: {}, helped.ASKS: {0: 2, 5: 3}}, Expert())
    assert [row["success"] for row in rows] == [[4, 6], [5, 6]] and rows[1]["needless"] == 1
    assert "the monitor asks | 5 of 6" in helped.table(rows)
