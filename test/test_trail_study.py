"""The tables of the trail's study, and the checkpoints that come with the package."""

from __future__ import annotations

import numpy as np
import pytest
from policy_cases import robot

from rdvla_ros.learning.evaluation import trail_study
from rdvla_ros.model.halting import make_halting
from rdvla_ros.model.policy import Policy
from rdvla_ros.robot import shipped_policy
from rdvla_ros.sim.scene import AlohaSim
from rdvla_ros.sim.tasks import get_task


def row(count, first):
    return {"success": {"count": count, "of": 4, "wilson95": [0.1, 0.9]}, "first": first, "decisions": 4, "head_ms": 1.0}


RESULTS = {
    "r=1": {"0": row(4, [1] * 4), "6": row(0, [1] * 4)},
    "r=8": {"0": row(4, [8] * 4), "6": row(3, [8] * 4)},
    trail_study.SHIPPED: {"0": row(4, [2, 2, 3, 2]), "6": row(3, [8, 9, 9, 8])},
}


def test_the_matrix_has_a_row_per_length_and_a_column_per_depth():
    lines = trail_study.matrix(RESULTS).splitlines()
    assert lines[0] == "| hops | r = 1 | r = 8 |"
    assert lines[2:] == ["| 0 | 4 of 4 | 4 of 4 |", "| 6 (never trained) | 0 of 4 | 3 of 4 |"]


def test_the_rules_say_where_they_stop_and_how_that_goes_with_the_hops():
    text = trail_study.rules_table(RESULTS)
    assert "| 0 | 4 of 4 (10..90 %), r 2.2 |" in text and "| 6 (never trained) | 3 of 4 (10..90 %), r 8.5 |" in text
    assert trail_study.rank(RESULTS[trail_study.SHIPPED]) > 0.8 and trail_study.rank(RESULTS["r=8"]) == 0.0


def test_every_setting_is_a_halting_rule():
    assert trail_study.halting_of("r=6") == {"rule": "fixed", "iterations": 6}
    for settings in trail_study.RULES.values():
        assert settings is None or make_halting(dict(settings), action_std=np.ones(14)).max_iterations == 24


@pytest.mark.parametrize("task", ["transfer_cube", "insertion", "follow_trail:8"])
def test_the_shipped_checkpoint_of_a_task_knows_its_words_and_its_robot(task):
    policy = Policy.load(shipped_policy(task))
    assert not policy.checkpoint.tokenizer.unknown_words(get_task(task).instruction_of(3))
    policy.require_robot(robot().joint_names, robot().camera_names, robot().representation, robot().gripper_joints)


def test_arms_are_put_where_they_are_wanted_and_rest_there():
    sim = AlohaSim("follow_trail")
    sim.reset(0)
    wanted = sim.positions + 0.1 * np.arange(14) / 14 * (np.arange(14) % 7 != 6)
    sim.put_arms(wanted)
    assert np.allclose(sim.positions, wanted) and np.allclose(sim.reference, wanted) and not sim.velocities.any()
