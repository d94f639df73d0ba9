"""A published checkpoint on the robot: imported, loaded by the decision process, deciding in the policy node over DDS."""

from __future__ import annotations

import json

import numpy as np
from published_cases import robot, statistics, write_folder

from rdvla_ros.model.import_checkpoint import import_checkpoint


def calm_statistics():
    """Actions of a few hundredths of a radian around the measured position, so that every chunk is a legal motion."""
    data = statistics()
    grippers = np.arange(14) % 7 == 6
    low, high = np.where(grippers, 0.2, -0.03).tolist(), np.where(grippers, 0.3, 0.03).tolist()
    wide = {"q01": [-2.0] * 14, "q99": [2.0] * 14, "min": [-3.0] * 14, "max": [3.0] * 14}
    data["aloha"]["action"].update(q01=low, q99=high, min=low, max=high, std=[0.01] * 14, mask=[True] * 14)
    data["aloha"]["proprio"].update(wide)
    return data


def test_the_policy_node_runs_an_imported_checkpoint(make_rig, tmp_path):
    folder = write_folder(tmp_path / "published")
    (folder / "dataset_statistics.json").write_text(json.dumps(calm_statistics()))
    rig = make_rig(checkpoint=str(import_checkpoint(folder, tmp_path / "imported", robot())))
    rig.moving()
    assert rig.said("prismatic"), rig.log
    decision = rig.decisions[-1]
    assert 1 <= decision.iterations <= 32 and decision.horizon == 5
    assert all(np.isfinite(point.positions).all() for messages in rig.sent.values() for point in messages[-1].points)
