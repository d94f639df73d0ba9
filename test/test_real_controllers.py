"""Gate, monitor and policy on real controllers, where ros2_control is installed: `rdvla bench controllers`, short."""

import json

import pytest

pytest.importorskip("controller_manager_msgs", reason="needs ros2_control and ros2_controllers, which come with ROS 2 by apt")
pytest.importorskip("control_msgs.msg", reason="needs ros2_controllers, which come with ROS 2 by apt")

from rdvla_ros.bench.controllers import main
from rdvla_ros.bringup.processes import executable_of

pytestmark = [
    pytest.mark.ros_packages,
    pytest.mark.skipif(not executable_of("controller_manager", "ros2_control_node"), reason="needs ros2_control_node"),
]


def test_boundaries_and_holds_keep_the_limits_on_real_controllers(tmp_path, capsys):
    words = "--mock --rates 100 --boundaries 6 --holds 2 --bridges 3 --patient --longest 60"
    assert main.main([*words.split(), "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "100hz.json").read_text())
    for row in result["ours"]["limits"].values():
        for kind in ("reference", "command"):
            assert all(0.0 < share <= 1.0 + 1e-4 for share in row[kind].values()), (kind, row[kind])
        assert row["off_the_emulation"] < 1e-6
    assert not result["ours"]["smoothness"]["steps"] and not result["ours"]["smoothness"]["seams_step"]
    plain = result["others"]["plain chunks"]["limits"]["all of it"]["reference"]
    assert plain["acceleration"] > 2.0, "what is sent without planning steps, or nothing was measured"
    assert "this package" in capsys.readouterr().out
