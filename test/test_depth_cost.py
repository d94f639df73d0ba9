"""What depth costs, as `rdvla bench depth` counts it: memory follows the gradient's depth and not the iterations."""

import pytest

from rdvla_ros.bench import depth_cost
from rdvla_ros.model.policy import Policy
from rdvla_ros.robot import shipped_policy


@pytest.fixture(scope="module")
def policy():
    return Policy.load(shipped_policy("follow_trail"))


def test_a_training_step_keeps_what_the_gradient_goes_back_through(policy):
    step = depth_cost.TrainingStep(policy, batch=64)
    step.run(1, 1)  # the moments are there from now on
    shallow, deep, further_back = (step.activation_bytes(*pair) for pair in ((6, 3), (24, 3), (24, 24)))
    assert deep == shallow
    assert further_back > 1.5 * deep


def test_a_decision_lives_in_the_same_memory_at_any_depth(policy):
    rows = depth_cost.decision_costs(policy, (8, 128), rounds=1)
    assert [row["iterations"] for row in rows] == [8, 128]
    assert rows[1]["bytes"] - rows[0]["bytes"] <= 4 * (128 - 8)  # the change after each iteration, no scratchpads
    assert rows[1]["time_ratio"] > 2


def test_the_command_writes_its_table(tmp_path, capsys):
    path = tmp_path / "depth.json"
    words = ["--depths", "2", "8", "--backprop", "1", "--decisions", "2", "4", "--batch-size", "2", "--rounds", "1"]
    assert depth_cost.main([*words, "--out", str(path)]) == 0
    assert path.is_file() and "gradient" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        depth_cost.main(["--decisions", "1"])
