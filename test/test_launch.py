"""The launch file, where the launch tools are installed: it runs exactly what the package's own starter runs."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("launch", reason="needs the ROS 2 launch tools, which come with ROS 2 by apt and not from PyPI")
pytest.importorskip("launch_ros", reason="needs the ROS 2 launch tools, which come with ROS 2 by apt and not from PyPI")

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.utilities import normalize_to_list_of_substitutions, perform_substitutions
from launch_ros.actions import Node
from launch_ros.utilities import evaluate_parameters

from launch import LaunchContext
from rdvla_ros.bringup import processes as bringup

pytestmark = pytest.mark.ros_packages
LAUNCH_FILE = Path(__file__).parent.parent / "launch" / "bimanual.launch.py"


@pytest.fixture
def description():
    spec = importlib.util.spec_from_file_location("bimanual_launch", LAUNCH_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate_launch_description()


def launched(description, given):
    """(executable, parameters, remappings) of every node the launch file starts for the arguments."""
    context = LaunchContext()
    defaults = {a.name: perform_substitutions(context, a.default_value) for a in declared(description)}
    context.launch_configurations.update({**defaults, **given})
    (function,) = [entity for entity in description.entities if isinstance(entity, OpaqueFunction)]
    nodes = [entity for entity in function.execute(context) if isinstance(entity, Node)]
    return [_content(node, context) for node in nodes]


def declared(description):
    return [entity for entity in description.entities if isinstance(entity, DeclareLaunchArgument)]


def _content(node, context):
    executable = perform_substitutions(context, normalize_to_list_of_substitutions(node.node_executable))
    parameters = {}
    for item in evaluate_parameters(context, node._Node__parameters):
        parameters.update(item)
    remappings = tuple(
        (perform_substitutions(context, source), perform_substitutions(context, target))
        for source, target in node._Node__remappings
    )
    return executable, parameters, remappings


@pytest.mark.parametrize(
    "given",
    [
        {"sim": "true"},
        {"sim": "true", "speed": "2.0", "task": "insertion", "seed": "7"},
        {"sim": "false", "robot": "config/example_two_arms.yaml", "gate": "false", "instruction": "yes"},
    ],
)
def test_the_launch_file_and_the_starter_run_the_same_list(description, given, tmp_path):
    given = {**given, "checkpoint": str(tmp_path)}
    expected = [(spec.executable, dict(spec.parameters), tuple(spec.remappings)) for spec in bringup.processes(given)]
    assert launched(description, given) == expected


def test_every_argument_is_declared_with_a_description(description):
    assert [a.name for a in declared(description)] == [a.name for a in bringup.ARGUMENTS]
    assert all(a.description for a in declared(description))
