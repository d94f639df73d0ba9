"""The command rdvla: commands are found, help needs nothing, what is missing is said."""

import subprocess
import sys
from pathlib import Path

import pytest

from rdvla_ros import cli

ROOT = Path(__file__).parent.parent
ROBOTS = sorted((ROOT / "config").glob("*.yaml"))


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert all(name in out for name in cli.COMMANDS)


def test_an_unknown_command_is_answered_with_the_likeliest(capsys):
    assert cli.main(["tran"]) == 2
    assert "Did you mean 'train'" in capsys.readouterr().err


def test_options_are_handed_on_to_the_command(monkeypatch):
    got = []
    monkeypatch.setitem(sys.modules, "a_command", type("M", (), {"main": staticmethod(lambda argv: got.append(argv) or 3)}))
    monkeypatch.setitem(cli.COMMANDS, "bench head", cli.Command("a_command", ""))
    assert cli.main(["bench", "head", "--threads", "2", "--help"]) == 3
    assert got == [["--threads", "2", "--help"]]


@pytest.mark.parametrize("module", ["rclpy", "torch", "mujoco", "rdvla_ros.msg"])
def test_the_command_itself_imports_nothing_heavy(module):
    """So that 'rdvla train' runs where there is no ROS, and 'rdvla --help' at once."""
    code = f"import sys; from rdvla_ros import cli; print({module!r} in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert out.stdout.strip() == "False", out.stderr


def test_the_demo_without_ros_says_how_to_get_it():
    code = "import sys; sys.modules['rclpy'] = None; from rdvla_ros import cli; sys.exit(cli.main(['demo']))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert out.returncode == 1
    assert "expected ROS 2" in out.stderr and "make demo" in out.stderr and "Traceback" not in out.stderr


@pytest.mark.parametrize("path", ROBOTS, ids=lambda p: p.name)
def test_every_shipped_robot_description_can_be_inspected(path, capsys):
    assert cli.main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "2 arms, 14 joints, 3 cameras" in out and "gripper: closed" in out


def test_the_example_has_what_the_simulated_robot_has_not():
    """Joint states of both arms on one topic, compressed images."""
    from rdvla_ros.robot import RobotDescription

    robot = RobotDescription.load(ROOT / "config" / "example_two_arms.yaml")
    assert {arm.joint_states_topic for arm in robot.arms} == {"joint_states"}
    assert {camera.transport for camera in robot.cameras} == {"compressed"}
    assert robot.representation == "relative"
    closed = [joint == "left_finger_joint" for joint in robot.joint_names].index(True)
    assert robot.to_policy(robot.from_policy([0.0] * 14))[closed] == 0.0 and robot.from_policy([0.0] * 14)[closed] == 0.8


def test_inspecting_what_is_not_there_is_an_error_in_one_sentence(capsys):
    assert cli.main(["inspect", "/nowhere.yaml"]) == 1
    assert "found nothing" in capsys.readouterr().err


def test_a_folder_without_a_manifest_is_named(tmp_path, capsys):
    pytest.importorskip("torch")
    assert cli.main(["inspect", str(tmp_path)]) == 1
    assert "manifest.json" in capsys.readouterr().err


def test_the_shipped_checkpoint_fits_the_simulated_robot_and_not_the_example(capsys):
    folder = ROOT / "checkpoints" / "compact_aloha"
    if not folder.is_dir():
        pytest.skip("the shipped checkpoint is not in this checkout")
    assert cli.main(["inspect", str(folder), "--robot", str(ROOT / "config" / "aloha_sim.yaml")]) == 0
    out = capsys.readouterr().out
    assert "left_waist" in out and "Fits robot 'aloha_sim'" in out and "Halting" in out
    assert cli.main(["inspect", str(folder), "--robot", str(ROOT / "config" / "example_two_arms.yaml")]) == 1
    assert "left_shoulder_pan_joint" in capsys.readouterr().err
