"""The package as colcon installs it without links (make setup builds with links): nothing of it may need the source tree."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
ROOT = Path(__file__).parent.parent
COLCON = shutil.which("colcon", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Runs a command in an environment that knows the installed package only, in a folder of its own."""
    if COLCON is None:
        pytest.skip("needs colcon, which builds the package")
    folder = tmp_path_factory.mktemp("workspace")
    of_the_source_tree = ("PYTHONPATH", "COLCON_PREFIX_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE")
    surroundings = {name: value for name, value in os.environ.items() if name not in of_the_source_tree}
    prefixes = os.pathsep.join(filter(None, [sys.prefix, surroundings.get("AMENT_PREFIX_PATH")]))
    surroundings |= {"AMENT_PREFIX_PATH": prefixes, "CMAKE_PREFIX_PATH": prefixes}
    surroundings["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), surroundings["PATH"]])
    command = [COLCON, "--log-base", folder / "log", "build", "--base-paths", ROOT, "--build-base", folder / "build"]
    command += ["--install-base", folder / "install", "--cmake-args", f"-DPython3_EXECUTABLE={sys.executable}"]
    built = subprocess.run(command, env=surroundings, cwd=folder, capture_output=True, text=True, timeout=280)
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    surroundings["AMENT_PREFIX_PATH"] = ""

    def run(line: str) -> subprocess.CompletedProcess:
        script = f"source {folder}/install/setup.bash && {line}"
        return subprocess.run(["bash", "-c", script], env=surroundings, cwd=folder, capture_output=True, text=True, timeout=60)

    run.lib = folder / "install" / "rdvla_ros" / "lib" / "rdvla_ros"
    run.share = folder / "install" / "rdvla_ros" / "share" / "rdvla_ros"
    return run


def test_the_installed_code_and_messages_are_found_without_the_source_tree(installed):
    code = "import rdvla_ros.robot, rdvla_ros.msg; print(rdvla_ros.robot.__file__, rdvla_ros.msg.Convergence)"
    out = installed(f"{sys.executable} -c '{code}'")
    assert out.returncode == 0 and "workspace" in out.stdout and str(ROOT) + "/rdvla_ros" not in out.stdout, out.stderr


def test_the_command_and_the_shipped_files_are_installed(installed):
    out = installed(f"{installed.lib}/rdvla inspect {installed.share}/config/aloha_sim.yaml")
    assert out.returncode == 0 and "left_waist" in out.stdout, out.stderr
    assert (installed.share / "launch" / "bimanual.launch.py").is_file()


def test_the_list_of_processes_names_installed_files(installed):
    code = 'from rdvla_ros.bringup import processes as bringup; print(*[s.parameters for s in bringup.processes({"sim": True})])'
    out = installed(f"{sys.executable} -c '{code}'")
    assert out.returncode == 0, out.stderr
    assert str(installed.share / "config" / "aloha_sim.yaml") in out.stdout
    assert str(installed.share / "checkpoints" / "compact_aloha") in out.stdout


@pytest.mark.parametrize("node", ["gate_node", "monitor_node", "policy_node", "sim_robot_node"])
def test_every_node_is_installed_and_refuses_a_missing_robot_description(installed, node):
    further = "-p autostart:=true" if node == "policy_node" else ""
    out = installed(f"timeout -s INT 8 {installed.lib}/{node} --ros-args -p robot:=nowhere.yaml {further}")
    assert out.returncode == 1 and "nowhere.yaml" in out.stdout + out.stderr and "Traceback" not in out.stderr
