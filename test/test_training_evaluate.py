"""Closed-loop evaluation and corrections: one short episode each, with a policy that knows nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from policy_cases import INSTRUCTION, robot, tiny_checkpoint

from rdvla_ros.control.horizon import make_horizon
from rdvla_ros.learning import evaluate
from rdvla_ros.learning.correct import Corrector
from rdvla_ros.learning.episodes import load_episode, save_episode
from rdvla_ros.learning.plots import plot_run
from rdvla_ros.learning.rollout import EpisodeResult, Rollout, RolloutConfig
from rdvla_ros.model.checkpoint import save_checkpoint
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

    def decide(self, observation):
        decision = self._policy.decide(observation)
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
    report = tmp_path / "report.json"
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
        "--output",
        str(report),
    ]
    assert evaluate.main(arguments) == 0
    data = json.loads(report.read_text())
    assert data["success"]["of"] == 1 and data["decisions"] == 1 and data["iterations"]["mean"] == 2.0
    assert data["episodes"][0]["seed"] == 20
    assert "success 0/1" in capsys.readouterr().out


def test_another_robots_checkpoint_is_not_evaluated(tmp_path):
    wrong = save_checkpoint(tmp_path / "wrong", tiny_checkpoint(representation="absolute"))
    with pytest.raises(CheckpointError, match="actions are absolute"):
        evaluate.build_rollout(evaluate.EvaluationConfig(wrong, "transfer_cube"))


def test_rates_count_the_highest_stage_reached():
    results = [
        EpisodeResult(seed, stage, stage > 0, 1.0, {4: 5.0} if stage == 4 else {}, 1, [3], [8], [0.01], [0.02])
        for seed, stage in enumerate((0, 2, 4, 4))
    ]
    data = evaluate.report(evaluate.EvaluationConfig(evaluate.DEFAULT_CHECKPOINT, "transfer_cube"), results)
    assert data["success"]["count"] == 2 and data["reached"]["count"] == 3
    assert [data["stages"][str(s)]["count"] for s in (1, 2, 3, 4)] == [3, 3, 2, 2]


@pytest.mark.parametrize(
    "successes, trials, expected", [(0, 20, (0.0, 0.1611)), (10, 20, (0.2993, 0.7007)), (20, 20, (0.8389, 1.0))]
)
def test_wilson_intervals_are_those_of_the_tables(successes, trials, expected):
    assert evaluate.wilson_interval(successes, trials) == pytest.approx(expected, abs=1e-4)


def test_corrections_are_episodes_of_the_policy_with_the_experts_labels(folder, tmp_path):
    corrector = Corrector(evaluate.EvaluationConfig(folder, "transfer_cube", rollout=RolloutConfig(time_limit_s=0.5)))
    episode = load_episode(save_episode(tmp_path, corrector.record(30)))
    assert episode.seed == 30 and len(episode.positions) == 5 and episode.labels.shape == (5, 16, 14)
    assert episode.images.shape == (5, 3, 120, 160, 3) and set(episode.phase) == {"reach"}
    # The expert opens the right gripper to reach for the cube, whatever the policy did.
    right_gripper = list(episode.joint_names).index("right_gripper")
    assert episode.labels[0, -1, right_gripper] > episode.positions[0, right_gripper] + 0.3
    assert INSTRUCTION in episode.instruction


def test_the_curves_of_a_run_are_drawn(tmp_path):
    entries = [{"step": s, "elapsed_s": s, "loss": 1.0 / s, "learning_rate": 1e-3} for s in range(1, 9)]
    entries.append({"step": 8, "elapsed_s": 9, "validation": {"1": 0.2, "4": 0.1, "16": 0.1}})
    assert plot_run(entries, tmp_path / "curves.png").stat().st_size > 5000


def test_the_shipped_policy_fits_the_shipped_robot_and_reaches_the_cube(simulator):
    """The checkpoint of the repository in closed loop, on a seed it was not trained on and that its report does not use."""
    shipped = evaluate.DEFAULT_CHECKPOINT
    assert sum(file.stat().st_size for file in shipped.iterdir()) <= 20e6
    rollout = evaluate.build_rollout(
        evaluate.EvaluationConfig(shipped, "transfer_cube", rollout=RolloutConfig(time_limit_s=5.0))
    )
    rollout.sim.close()
    rollout.sim = simulator  # one GL context for this file
    result = rollout.run(21)
    assert result.reached and result.refused == 0
