"""Two robots in one ROS graph: each in a namespace of its own, and neither hears the other."""

from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

from wire import Wire

from rdvla_ros.bringup import launcher
from rdvla_ros.bringup import processes as bringup
from rdvla_ros.bringup.processes import BringupError
from rdvla_ros.msg import GateStatus
from rdvla_ros.robot import RobotDescription

ROOT = Path(__file__).parent.parent
CELLS = ("/cell_1", "/cell_2")
GLOBAL = {"/rosout", "/parameter_events"}  # ROS 2's own, of all nodes


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """Two simulated robots with gate and monitor in one domain; namespace -> a wire that hears that cell only. No policies:
    two networks beside two simulators are too much for two cores, and what a gate passes does not depend on who sends it."""
    with launcher.free_domain() as domain:
        specs = [
            spec
            for i, cell in enumerate(CELLS)
            for spec in bringup.processes({"sim": True, "namespace": cell, "seed": i, "speed": 0.5})
            if spec.node != "policy"
        ]
        folders = [tmp_path_factory.mktemp("logs") for _ in CELLS]
        started = [
            launcher.start([spec for spec in specs if spec.namespace == cell], folder, domain)
            for cell, folder in zip(CELLS, folders, strict=True)
        ]
        wires = {}
        try:
            for cell, processes in zip(CELLS, started, strict=True):
                robot = RobotDescription.load(ROOT / bringup.SIM_ROBOT).in_namespace(cell)
                wires[cell] = Wire(robot, int(domain["ROS_DOMAIN_ID"]), processes.check, namespace=cell)
            yield wires
        finally:
            for wire in wires.values():
                wire.close()
            for processes in started:
                processes.stop()


def test_every_name_lies_in_one_of_the_namespaces(cells):
    wire = cells[CELLS[0]]
    for cell in CELLS:
        cells[cell].until(lambda cell=cell: cells[cell].heard["/gate/status"], f"the gate of {cell}")
        cells[cell].until(lambda cell=cell: cells[cell].heard["/sim_robot/task_stage"], f"the robot of {cell}")
    names = {name for name, _ in wire.node.get_topic_names_and_types()} - GLOBAL
    assert len(names) > 20
    assert {name for name in names if not name.startswith(tuple(f"{cell}/" for cell in CELLS))} == set()
    services = {name for name, _ in wire.node.get_service_names_and_types()}
    assert {name for name in services if not name.startswith(tuple(f"{cell}/" for cell in CELLS))} == set()


def test_a_hold_in_one_cell_is_no_hold_in_the_other(cells):
    first, second = (cells[cell] for cell in CELLS)
    for wire in (first, second):
        wire.until(lambda wire=wire: wire.heard["/gate/status"], "a gate")
    before = second.gate.hold_id, second.gate.reason
    answer = first.hold("only this cell")
    assert answer.accepted
    again = first.hold("once more")
    assert again.hold_id == answer.hold_id
    second.more(second.robot.cameras[-1].topic, 5)
    assert (second.gate.hold_id, second.gate.reason) == before
    assert second.gate.mode == GateStatus.HOLD  # its own start-up hold


def test_a_reset_in_one_cell_leaves_the_other_scene(cells):
    first, second = (cells[cell] for cell in CELLS)
    for wire in (first, second):
        wire.until(lambda wire=wire: wire.heard["/sim_robot/task_stage"], "a robot")
    first.reset(seed=7)
    first.until(lambda: first.heard["/sim_robot/task_stage"][-1].seed == 7, "the new scene")
    second.more(second.robot.cameras[-1].topic, 5)
    assert {stage.seed for stage in second.heard["/sim_robot/task_stage"]} == {1}


@pytest.mark.parametrize("text", ["cell 1", "1st", "a//b", "~", "cell-1"])
def test_what_is_no_namespace_is_refused(text):
    with pytest.raises(BringupError, match="namespace: expected a name such as cell_1"):
        bringup.processes({"sim": True, "namespace": text})


@pytest.mark.parametrize(("text", "expected"), [("", ""), ("/", ""), ("cell_1", "/cell_1"), ("/hall/cell_1/", "/hall/cell_1")])
def test_a_namespace_is_given_to_every_node(text, expected):
    specs = bringup.processes({"sim": True, "namespace": text})
    assert {spec.namespace for spec in specs} == {expected}
    assert all((("/clock", "clock") in spec.remappings) == bool(expected) for spec in specs)
