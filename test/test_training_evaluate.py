"""Closed-loop evaluation and corrections: one short episode each, with a policy that knows nothing."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from policy_cases import INSTRUCTION, robot, tiny_checkpoint

from rdvla_ros.control.motion.horizon import make_horizon
from rdvla_ros.learning.data.lerobot.video import read_frames
from rdvla_ros.learning.evaluation import evaluate, study
from rdvla_ros.learning.evaluation.conditions import ConditionError, Conditions, Eyes
from rdvla_ros.learning.evaluation.rates import plain, summary, wilson_interval
from rdvla_ros.learning.evaluation.rollout import EpisodeResult, Rollout, RolloutConfig
from rdvla_ros.learning.recording.correct import Corrector
from rdvla_ros.learning.recording.episodes import load_episode, save_episode
from rdvla_ros.learning.training.plots import plot_run
from rdvla_ros.model.checkpoint import save_checkpoint
from rdvla_ros.model.halting import make_halting
from rdvla_ros.model.policy import Policy
from rdvla_ros.sim.scene import AlohaSim
from rdvla_ros.types import CheckpointError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", tiny_checkpoint())


@pytest.fixture(scope="module")
def simulator():
    sim = AlohaSim("transfer_cube")
    yield sim
    sim.close()


class Still:
    """A policy that wants every joint where it is: its arms must not move."""

    def __init__(self, policy: Policy):
        self._policy, self.contract = policy, policy.contract

    def decide(self, observation, executed_steps=None):
        decision = self._policy.decide(observation, executed_steps=executed_steps)
        decision.chunk.positions[:] = observation.positions
        return decision


def _rollout(simulator, policy, **settings):
    return Rollout(policy, simulator, robot(), make_horizon({"rule": "fixed", "length": 4}), RolloutConfig(**settings))


def test_a_policy_that_wants_to_stay_leaves_the_arms_at_rest(simulator, folder):
    rollout = _rollout(simulator, Still(Policy.load(folder)), time_limit_s=1.2)
    simulator.reset(20)
    before = simulator.positions.copy()
    result = rollout.run(20)
    assert result.decisions == 3 and result.horizons == [4, 4, 4] and not result.reached
    assert np.abs(simulator.positions - before).max() < 0.03
    assert np.abs(simulator.velocities).max() < 0.2


def test_latency_makes_the_next_observation_earlier():
    config = RolloutConfig(latency_s=0.15)
    assert [config.steps_to_next(horizon, 0.1) for horizon in (8, 3, 1)] == [6, 1, 1]
    assert RolloutConfig().steps_to_next(8, 0.1) == 8


def test_one_episode_is_evaluated_from_the_command_line(folder, tmp_path, capsys):
    report = tmp_path / "report"
    arguments = [
        "--checkpoint",
        str(folder),
        "--episodes",
        "1",
        "--first-seed",
        "20",
        "--iterations",
        "2",
        "--execute",
        "8",
        "--time-limit",
        "0.8",
        "--workers",
        "1",
        "--videos",
        "1",
        "--output",
        str(report),
    ]
    assert evaluate.main(arguments) == 0
    data = json.loads((report / evaluate.REPORT).read_text())
    assert data["success"]["of"] == 1 and data["decisions"] == 1 and data["iterations"]["mean"] == 2.0
    assert data["episodes"][0]["seed"] == 20
    assert "success 0/1" in capsys.readouterr().out
    assert data["episodes"][0]["phases"] == ["reach"]
    assert len(list(read_frames(report / "seed_20.mp4", 0.0, 8, 10.0))) == 8
    assert (report / evaluate.PLOT).stat().st_size > 5000


def test_an_evaluation_goes_on_where_it_stopped(folder, tmp_path, monkeypatch):
    config = evaluate.EvaluationConfig(folder, "transfer_cube", halting={"rule": "fixed", "iterations": 2})
    run = []
    monkeypatch.setattr(evaluate, "_start_worker", lambda config: None)
    episode = plain(EpisodeResult(0, 2, True, 1.0, {1: 0.5, 2: 0.7}, 1, [3], [8], [0.01], [0.02], ["reach"]))
    monkeypatch.setattr(evaluate, "_run_one", lambda seed, film: run.append(seed) or {**episode, "seed": seed})
    evaluate.evaluate(config, [0, 1], 1, tmp_path)
    data = evaluate.evaluate(config, [0, 1, 2], 1, tmp_path)
    assert run == [0, 1, 2] and [e["seed"] for e in data["episodes"]] == [0, 1, 2]
    other = dataclasses.replace(config, halting={"rule": "fixed", "iterations": 4})
    with pytest.raises(evaluate.EvaluationError, match="halting.*Choose another --output"):
        evaluate.evaluate(other, [0], 1, tmp_path)


def test_settings_are_named_in_one_word():
    assert evaluate.named_settings("action_kl:threshold=1e-3,max_iterations=16") == {
        "rule": "action_kl", "threshold": 0.001, "max_iterations": 16}  # fmt: skip
    assert evaluate.named_settings(None) is None
    with pytest.raises(evaluate.EvaluationError, match="name=value"):
        evaluate.named_settings("fixed:4")


def test_a_study_is_a_table_and_a_picture(tmp_path):
    config = evaluate.EvaluationConfig(evaluate.DEFAULT_CHECKPOINT, "transfer_cube")
    episode = plain(EpisodeResult(0, 2, True, 1.0, {1: 0.5, 2: 0.7}, 1, [3], [8], [0.01], [0.02], ["reach"]))
    for name, settings in study.STUDIES.items():
        rows = []
        for setting in settings(config):
            used = {"task": "transfer_cube", "horizon": setting.config.horizon, "halting": setting.config.halting}
            rows.append(study.row_of(setting, {**used, **summary([episode] * 3), "episodes": [episode] * 3}))
            assert setting.notes.items() <= rows[-1].items()
        study.report(name, rows, {"transfer_cube": {"1": 0.2, "2": 0.1}} if name == "depth" else {}, tmp_path)
        text = (tmp_path / f"{name}.md").read_text()
        assert text.count("0 of 3") == len(rows)
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    for setting in study.adaptive_settings(config):  # every rule exists
        make_horizon(setting.config.horizon)
        make_halting(setting.config.halting, action_std=np.ones(14))


def test_conditions_change_what_is_seen_and_nothing_else(simulator):
    cameras, pictures = robot().cameras, {}
    for name, conditions in {
        "clean": Conditions(),
        "noise": Conditions(noise=10.0),
        "shift": Conditions(shift_m=0.05, turn_deg=3.0),
    }.items():
        eyes = Eyes(simulator, cameras, conditions)
        simulator.reset(20)
        state = simulator.snapshot().state.copy()
        eyes.begin(20)
        pictures[name] = eyes.look()
        np.testing.assert_array_equal(simulator.snapshot().state, state)
        eyes.end()
    difference = pictures["noise"]["top"].astype(int) - pictures["clean"]["top"]
    assert 8.0 < difference[(pictures["clean"]["top"] > 40) & (pictures["clean"]["top"] < 215)].std() < 12.0
    assert (pictures["shift"]["top"] != pictures["clean"]["top"]).mean() > 0.1
    np.testing.assert_array_equal(pictures["shift"]["left_wrist"], pictures["clean"]["left_wrist"])
    for wrong in (dict(noise=-1.0), dict(dropped=1.5), dict(shift_m=float("nan"))):
        with pytest.raises(ConditionError):
            Conditions(**wrong)


@pytest.mark.parametrize(("shift_m", "turn_deg"), [(0.01, 0.0), (0.0, 2.0), (0.02, 2.0)])
def test_a_knocked_camera_stands_and_looks_as_far_aside_as_was_asked(simulator, shift_m, turn_deg):
    def pose():
        camera = simulator.data.camera("top")
        return camera.xpos.copy(), camera.xmat.reshape(3, 3).copy()

    simulator.reset(20)
    clean, (place, view) = simulator.render("top", 320, 240), pose()
    eyes = Eyes(simulator, robot().cameras, Conditions(shift_m=shift_m, turn_deg=turn_deg))
    for seed in (20, 21, 22):  # each from the camera's own place, not from where the last episode left it
        eyes.begin(seed)
        for _ in range(2):  # steps put cameras where the model says
            position, turned = pose()
            assert np.linalg.norm(position - place) == pytest.approx(shift_m, abs=1e-9)
            angle = np.rad2deg(np.arccos(np.clip((np.trace(view.T @ turned) - 1) / 2, -1, 1)))
            assert angle == pytest.approx(turn_deg, abs=1e-3)
            simulator.step(1)
        assert (eyes.look()["top"] != clean).any()
    eyes.end()
    np.testing.assert_allclose(pose()[1], view, atol=1e-12)
    simulator.reset(20)
    np.testing.assert_array_equal(simulator.render("top", 320, 240), clean)


def test_another_robots_checkpoint_is_not_evaluated(tmp_path):
    wrong = save_checkpoint(tmp_path / "wrong", tiny_checkpoint(representation="absolute"))
    with pytest.raises(CheckpointError, match="actions are absolute"):
        evaluate.build_rollout(evaluate.EvaluationConfig(wrong, "transfer_cube"))


def test_rates_count_the_highest_stage_reached():
    results = [
        EpisodeResult(seed, stage, stage > 0, 1.0, {4: 5.0} if stage == 4 else {}, 1, [3], [8], [0.01], [0.02], ["reach"])
        for seed, stage in enumerate((0, 2, 4, 4))
    ]
    data = summary([plain(result) for result in results])
    assert data["success"]["count"] == 2 and data["reached"]["count"] == 3
    assert [data["stages"][str(s)]["count"] for s in (1, 2, 3, 4)] == [3, 3, 2, 2]


@pytest.mark.parametrize(
    "successes, trials, expected", [(0, 20, (0.0, 0.1611)), (10, 20, (0.2993, 0.7007)), (20, 20, (0.8389, 1.0))]
)
def test_wilson_intervals_are_those_of_the_tables(successes, trials, expected):
    assert wilson_interval(successes, trials) == pytest.approx(expected, abs=1e-4)


def test_corrections_are_episodes_of_the_policy_with_the_experts_labels(folder, tmp_path):
    corrector = Corrector(evaluate.EvaluationConfig(folder, "transfer_cube", rollout=RolloutConfig(time_limit_s=0.5)))
    episode = load_episode(save_episode(tmp_path, corrector.record(30)))
    assert episode.seed == 30 and len(episode.positions) == 5 and episode.labels.shape == (5, 12, 14)
    assert episode.images.shape == (5, 3, 180, 240, 3) and set(episode.phase) == {"reach"}
    # The expert opens the right gripper to reach for the cube, whatever the policy did.
    right_gripper = list(episode.joint_names).index("right_gripper")
    assert episode.labels[0, -1, right_gripper] > episode.positions[0, right_gripper] + 0.3
    assert INSTRUCTION in episode.instruction


def test_the_curves_of_a_run_are_drawn(tmp_path):
    entries = [{"step": s, "elapsed_s": s, "loss": 1.0 / s, "learning_rate": 1e-3} for s in range(1, 9)]
    entries.append(
        {
            "step": 8,
            "elapsed_s": 9,
            "by_depth": {"3": 0.1},
            "loss": 0.1,
            "learning_rate": 1e-3,
            "validation": {"1": 0.2, "4": 0.1, "16": 0.1},
        }
    )
    assert plot_run(entries, tmp_path / "curves.png").stat().st_size > 5000


def test_the_shipped_policy_fits_the_shipped_robot_and_reaches_the_cube(simulator):
    """The checkpoint of the repository in closed loop, on a seed it was not trained on and that its report does not use."""
    shipped = evaluate.DEFAULT_CHECKPOINT
    assert sum(file.stat().st_size for file in shipped.iterdir()) <= 20e6
    rollout = evaluate.build_rollout(evaluate.EvaluationConfig(shipped, "transfer_cube", rollout=RolloutConfig(time_limit_s=5.0)))
    rollout.sim.close()  # one GL context for this file
    result = Rollout(rollout.policy, simulator, rollout.robot, rollout.horizon, rollout.config).run(21)
    assert result.reached and result.refused == 0


def test_some_settings_of_a_study_are_chosen_by_name_and_an_unknown_one_is_refused():
    settings = study.adaptive_settings(evaluate.EvaluationConfig("none", "insertion", "none"))
    assert [s.name for s in study.chosen(settings, ["r=8", "action_kl 1e-04, fixed"])] == ["r=8", "action_kl 1e-04, fixed"]
    assert study.chosen(settings, None) == settings
    with pytest.raises(evaluate.EvaluationError, match="Did you mean 'action_kl 1e-04, fixed'"):
        study.chosen(settings, ["action_kl 1e-4, fixed"])
