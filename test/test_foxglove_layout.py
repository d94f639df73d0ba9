"""config/foxglove/rdvla.json names only topics, fields and services that exist, and shows every panel that it configures."""

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import CompressedImage, JointState

from rdvla_ros.msg import Convergence, GateStatus, Uncertainty
from rdvla_ros.nodes.common import names
from rdvla_ros.robot import RobotDescription
from rdvla_ros.srv import Hold, Resume

ROOT = Path(__file__).parent.parent
LAYOUT = json.loads((ROOT / "config/foxglove/rdvla.json").read_text())
ROBOT = RobotDescription.load(ROOT / "config/aloha_sim.yaml").in_namespace("/")
TOPICS = {
    f"/{names.POLICY_CONVERGENCE}": Convergence,
    f"/{names.MONITOR_UNCERTAINTY}": Uncertainty,
    f"/{names.GATE_STATUS}": GateStatus,
    f"/{names.DIAGNOSTICS}": DiagnosticArray,
    **{arm.joint_states_topic: JointState for arm in ROBOT.arms},
    **{f"/{names.thumbnail(name)}": CompressedImage for name in ROBOT.camera_names},
}
SERVICES = {f"/{names.GATE_HOLD}": Hold, f"/{names.GATE_RESUME}": Resume}
PATH = re.compile(r"(?P<topic>[\w/]+)(\.(?P<field>\w+)(\[(?P<index>\d*:?)\])?)?(\.@\w+)?")


def message_paths(settings):
    """All message paths and topics of one panel."""
    found = [path["value"] for path in settings.get("paths", [])]
    found += [settings[key] for key in ("topicPath", "topicToRender") if settings.get(key)]
    return found + ([settings["imageMode"]["imageTopic"]] if "imageMode" in settings else [])


def problem(path):
    """Why the path shows nothing; empty when it does."""
    parts = PATH.fullmatch(path)
    if not parts or parts["topic"] not in TOPICS:
        return f"no such topic: {path}"
    if not parts["field"]:
        return ""
    fields = TOPICS[parts["topic"]].get_fields_and_field_types()
    if parts["field"] not in fields:
        return f"no such field: {path}"
    is_array = "sequence" in fields[parts["field"]] or "[" in fields[parts["field"]]
    return "" if is_array == bool(parts["index"]) else f"array or not: {path}"


def panels(node):
    return [node] if isinstance(node, str) else [*panels(node["first"]), *panels(node["second"])]


@pytest.mark.parametrize("panel", LAYOUT["configById"])
def test_every_path_of_a_panel_exists_in_the_messages(panel):
    paths = message_paths(LAYOUT["configById"][panel])
    assert [p for p in map(problem, paths) if p] == []
    assert paths or panel.startswith("CallService")


def test_wrong_paths_would_be_found():
    for path in ("/gate/statu.mode", "/gate/status.mod", "/gate/status.mode[0]", "/policy/convergence.change"):
        assert problem(path)


@pytest.mark.parametrize("panel", [name for name in LAYOUT["configById"] if name.startswith("CallService")])
def test_every_service_request_can_be_made(panel):
    settings = LAYOUT["configById"][panel]
    SERVICES[settings["serviceName"]].Request(**json.loads(settings["requestPayload"]))


def test_the_layout_shows_every_panel_once():
    assert sorted(panels(LAYOUT["layout"])) == sorted(LAYOUT["configById"])
