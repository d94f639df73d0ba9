"""A calibration keeps its promise about false alarms, and one that does not fit is refused by name."""

import json
import math

import numpy as np
import pytest

from rdvla_ros.control.supervision.calibration import (
    Calibration,
    CalibrationError,
    Instruction,
    conformal_threshold,
    digest_of,
    least_runs,
    threshold_of,
)
from rdvla_ros.control.supervision.uncertainty import Settling, UncertaintyMonitor
from rdvla_ros.types import StopReason

NAN = math.nan
WEIGHTS = {"direction_reversals": 1.0, "iterations": -0.5}


def made(**changes):
    known = Instruction(19, 25, dict.fromkeys(WEIGHTS, 1.0), dict.fromkeys(WEIGHTS, 2.0), {"0.05": 4.0, "0.1": 3.0})
    values = {"instructions": {"pick it up": known, "follow the * pad": known}, "weights": WEIGHTS, "window": 3}
    return Calibration("a" * 64, "2026-11-30", "a test", **{**values, **changes})


def test_the_threshold_is_the_rank_of_the_protocol():
    scores = [float(i) for i in range(1, 20)]
    assert conformal_threshold(scores, 0.05) == 19.0 and conformal_threshold(scores, 0.1) == 18.0
    assert conformal_threshold(scores[:9], 0.1) == 9.0
    assert (least_runs(0.05), least_runs(0.1)) == (19, 9)


@pytest.mark.parametrize(("n", "alpha"), [(18, 0.05), (8, 0.1), (0, 0.1)])
def test_too_few_successful_runs_are_refused(n, alpha):
    with pytest.raises(CalibrationError, match=f"at least {least_runs(alpha)} successful runs, got {n}"):
        conformal_threshold([1.0] * n, alpha)


def test_new_runs_exceed_it_as_often_as_was_asked_for():
    rng, over = np.random.default_rng(0), []
    for _ in range(400):
        scores = rng.lognormal(size=60)
        over.append(np.mean(scores[40:] > conformal_threshold(scores[:40], 0.1)))
    assert np.mean(over) == pytest.approx(4 / 41, abs=0.01)  # rank 37 of 41


def test_the_score_is_a_weighted_sum_of_deviations_and_never_calm_without_signals():
    calibration = made()
    known = calibration.instruction("pick it up")
    assert calibration.score({"direction_reversals": 1.0, "iterations": 1.0}, known) == 1.0
    assert calibration.score({"direction_reversals": 5.0, "iterations": 3.0}, known) == pytest.approx(math.exp(2.0 - 0.5))
    assert calibration.score({"direction_reversals": 5.0, "iterations": NAN}, known) == pytest.approx(math.exp(2.0))
    assert calibration.score({"direction_reversals": NAN}, known) == math.inf
    assert calibration.score({"direction_reversals": 1e9, "iterations": 1.0}, known) == pytest.approx(math.exp(8.0))


def test_an_instruction_is_found_exactly_or_by_its_pattern():
    calibration = made()
    assert calibration.instruction("follow the red pad") is calibration.instructions["follow the * pad"]
    assert calibration.instruction("pick it up now") is None


def test_a_file_reads_back_the_same(tmp_path):
    made().save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json", "a" * 64) == made()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: d.update(format_version=9), "version 1"),
        (lambda d: d.pop("window"), "damaged"),
        (lambda d: d.update(weights={"vibes": 1.0}), "unknown signal 'vibes'"),
        (lambda d: d["instructions"]["pick it up"]["mean"].pop("iterations"), "mean and scale"),
        (lambda d: d["instructions"]["pick it up"].update(n=18), "too few for alpha"),
        (lambda d: d["instructions"]["pick it up"]["thresholds"].update({"0.05": -1.0}), "above 0"),
        (lambda d: d.update(manifest_sha256="b" * 64), "got one of another"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path, spoil, words):
    path = tmp_path / "c.json"
    made().save(path)
    data = json.loads(path.read_text())
    spoil(data)
    path.write_text(json.dumps(data))
    with pytest.raises(CalibrationError, match=words):
        Calibration.load(path, "a" * 64)


def test_no_file_no_checkpoint_and_no_such_alpha_are_named(tmp_path):
    with pytest.raises(CalibrationError, match="expected a calibration"):
        Calibration.load(tmp_path / "nothing.json")
    with pytest.raises(CalibrationError, match=r"manifest\.json"):
        digest_of(tmp_path)
    with pytest.raises(CalibrationError, match=r"thresholds for 0\.05, 0\.1"):
        threshold_of(made().instruction("pick it up"), 0.01)


def decision(sequence, **fields):
    change = (NAN, 1e-3, 1e-7 * sequence)
    return Settling(sequence, 3, 16, StopReason.CONVERGED, True, 1e-6, change)


def test_the_monitor_judges_by_the_calibration_of_the_instruction():
    monitor = UncertaintyMonitor(calibration=made(), alpha=0.1)
    calm, wild = {"direction_reversals": 1.0, "iterations": 1.0}, {"direction_reversals": 5.0, "direction_reversals/left": 1.0}
    first = monitor.add(decision(1), calm, "pick it up")
    assert (first.score, first.threshold.value, first.threshold.calibrated, first.alarm) == (1.0, 3.0, True, False)
    second = monitor.add(decision(2), wild, "pick it up")
    assert second.alarm and "direction reversals" in second.reason and second.window == 2
    other = monitor.add(decision(3), wild, "dance")
    assert not other.alarm and not other.threshold.calibrated and other.window == 1
    assert other.reason == "Not calibrated for this instruction."


def test_the_score_of_an_arm_is_that_of_its_own_signals():
    weights = {"direction_reversals/left": 1.0, "direction_reversals/right": 1.0}
    known = Instruction(19, 25, dict.fromkeys(weights, 0.0), dict.fromkeys(weights, 1.0), {"0.05": 4.0})
    monitor = UncertaintyMonitor(calibration=made(weights=weights, instructions={"go": known}))
    found = monitor.add(decision(1), {"direction_reversals/left": 1.0, "direction_reversals/right": 0.0}, "go")
    assert found.arm_scores == {"left": pytest.approx(math.e), "right": 1.0}


def test_an_instruction_without_a_threshold_for_alpha_is_not_calibrated_for_it():
    few = Instruction(18, 20, dict.fromkeys(WEIGHTS, 1.0), dict.fromkeys(WEIGHTS, 2.0), {"0.1": 3.0})
    monitor = UncertaintyMonitor(calibration=made(instructions={**made().instructions, "dance": few}), alpha=0.05)
    assert monitor.add(decision(1), {"iterations": 1.0}, "pick it up").threshold.calibrated
    assert monitor.add(decision(2), {"iterations": 1.0}, "dance").reason == "Not calibrated for this instruction."


def test_a_monitor_for_an_alpha_that_was_not_calibrated_is_refused():
    with pytest.raises(CalibrationError, match=r"alpha 0\.01"):
        UncertaintyMonitor(calibration=made(), alpha=0.01)
