"""The list of processes, written once: launch/bimanual.launch.py and the package's own starter both run what
`processes()` returns.

The list is in starting order. The starter stops the processes in the reverse order, so that the gate outlives the policy, the
hold it publishes is the last message on the wire, and the simulated robot is still there to receive it. ros2 launch interrupts
all of them at once: should the gate be the first to end, the policy's topic has no listener any more, and the trajectory that
is on the wire ends at rest by itself.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from rdvla_ros.nodes.common import names
from rdvla_ros.robot import RobotDescription, shipped, shipped_policy
from rdvla_ros.types import RdvlaError, nearest_names

PACKAGE = "rdvla_ros"
SIM_ROBOT = "config/aloha_sim.yaml"
AGGREGATOR = "config/diagnostics/aggregator.yaml"
VIEW_CAMERA = "angle"  # of gym-aloha's scene
# The simulator shares its processor with everything else and is now and then kept waiting as no real driver may be; nobody is
# hurt by simulated arms that go on for a moment. Its pictures are without noise, and its joints jump when the task is reset.
SIM_GATE = {
    "start_mode": "auto",
    "auto_resume": True,
    "longest_pause_s": 30.0,
    "longest_age_s": 0.6,
    "joint_timeout_s": 3.0,
    "controller_timeout_s": 3.0,
    "heartbeat_timeout_s": 3.0,
    "starved_s": 3.0,
}
SIM_POLICY = {
    "frozen_frames": 0,
    "joint_jump_factor": 0.0,
    "max_observation_age_s": 0.5,
    "pause_after_s": 1.5,
    "longest_pause_s": 30.0,
    "gate_heartbeat_s": 3.0,
    "gate_timeout_s": 5.0,
    "decision_timeout_s": 10.0,
    "skew_limit_s": 1.0,
    "stall_s": 1.0,
}
TASKS = ("transfer_cube", "insertion", "follow_trail")  # of sim.tasks, which is not imported where no simulator is started
LONGEST_TRAIL = 8
TASK_NAMES = (*TASKS, *(f"follow_trail:{hops}" for hops in range(LONGEST_TRAIL + 1)))  # with their options
NAMESPACE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")
MODULES = {  # of each executable in scripts/
    "dashboard": "rdvla_ros.dashboard.main",
    "gate_node": "rdvla_ros.nodes.gate.node",
    "monitor_node": "rdvla_ros.nodes.monitor.node",
    "policy_node": "rdvla_ros.nodes.policy.node",
    "recorder_node": "rdvla_ros.nodes.recorder.node",
    "sim_robot_node": "rdvla_ros.nodes.sim_robot.main",
}


class BringupError(RdvlaError):
    """The processes cannot be started with these arguments, or one of them ended by itself."""


@dataclass(frozen=True)
class ProcessSpec:
    """One process. executable: installed as lib/rdvla_ros/<executable>; it runs `module`.

    node: the name the executable gives its node. parameters and remappings are for that node. namespace: '' or '/cell_1'.
    needed: the robot cannot do its work without this process: the others are stopped when it ends. Not so the recorder and an
    operator's window.
    """

    executable: str
    node: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    remappings: tuple[tuple[str, str], ...] = ()
    namespace: str = ""
    params_file: str = ""  # wins over `parameters`
    needed: bool = True
    package: str = PACKAGE  # whose executable it is; of another one it runs no module of ours

    @property
    def module(self) -> str:
        return MODULES.get(self.executable, self.executable)  # of the bench: a module itself


def _boolean(text: str) -> bool:
    words = {"true": True, "1": True, "false": False, "0": False}
    if str(text).lower() not in words:
        raise ValueError("true or false")
    return words[str(text).lower()]


def _speed(text: str) -> float:
    return _number(float, text, "a number from 0.01 to 100", lambda value: 0.01 <= value <= 100.0)


def _seed(text: str) -> int:
    return _number(int, text, "a whole number, at least 0", lambda value: value >= 0)


def _number(kind: type, text: str, expected: str, fits: Callable[[Any], bool]) -> Any:
    try:
        value = kind(text)
    except ValueError:
        raise ValueError(expected) from None
    if not fits(value):
        raise ValueError(expected)
    return value


def namespace(text: str) -> str:
    """'' or '/cell_1' from what a user wrote; ValueError says what is expected."""
    name = text.strip("/")
    if name and not NAMESPACE.fullmatch(name):
        raise ValueError("a name such as cell_1 or hall/cell_1 (each level a letter or _, then letters, digits, _), or nothing")
    return f"/{name}" if name else ""


def _task(text: str) -> str:
    if text not in TASK_NAMES:
        raise ValueError(f"one of {', '.join(TASKS)}; follow_trail:0 to follow_trail:{LONGEST_TRAIL} for the hops of its trail")
    return text


def _record(text: str) -> str:
    """The folder in full, or ''; a run that is there is never added to."""
    path = Path(text).resolve()
    if text and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError("a folder that is new or empty")
    return str(path) if text else ""


@dataclass(frozen=True)
class Argument:
    """One launch argument: its default as text, what it means, and how text becomes a value (ValueError: what is expected)."""

    name: str
    default: str
    description: str
    parse: Callable[[str], Any] = str


ARGUMENTS = (
    Argument("robot", "", f"robot description, a YAML file; empty with sim:=true: the simulated ALOHA ({SIM_ROBOT})"),
    Argument("checkpoint", "", "folder of the policy's weights; empty: the shipped one, with sim:=true that of the task"),
    Argument("sim", "false", "true: also start the simulated robot; false: the robot described by robot:= is there", _boolean),
    Argument("instruction", "", "what the policy is told to do; empty with sim:=true: the instruction of the task"),
    Argument("gate", "true", "false: no gate, the policy's trajectories go straight to the arm controllers", _boolean),
    Argument("namespace", "", "namespace of all nodes, so that several robots fit one ROS graph; empty: none", namespace),
    Argument("params_file", "", "YAML file with parameters of the nodes; they win over those set here; empty: none"),
    Argument("record", "", "folder, new or empty, that the run is recorded in (docs/recording.md); empty: no recording", _record),
    Argument(
        "aggregator",
        "false",
        "true: also start diagnostic_aggregator, for rqt_robot_monitor (needs that package; one for all robots of a graph)",
        _boolean,
    ),
    Argument("dashboard", "false", "true: also start the operator's dashboard", _boolean),
    Argument("speed", "1.0", "sim:=true: simulated seconds per second; other than 1 the robot publishes /clock", _speed),
    Argument("task", TASKS[0], f"sim:=true: {' or '.join(TASKS)}, with its hops: follow_trail:5", _task),
    Argument("seed", "0", "sim:=true: seed of the scene", _seed),
)


def refuse_misspelt(given: Iterable[str]) -> None:
    """BringupError for a name that is nearly one of ours: ros2 launch itself takes any name, in silence. Other names may belong
    to a launch file that includes this one."""
    known = [argument.name for argument in ARGUMENTS]
    for name in given:
        if name not in known and difflib.get_close_matches(name, known, n=1, cutoff=0.8):
            raise BringupError(f"Unknown argument '{name}'. {nearest_names(name, known)}")


def parse_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Values of all arguments from the given ones (texts or values). BringupError names the argument that does not fit."""
    by_name = {argument.name: argument for argument in ARGUMENTS}
    for name in given:
        if name not in by_name:
            raise BringupError(f"Unknown argument '{name}'. {nearest_names(name, by_name)}")
    values = {}
    for argument in ARGUMENTS:
        text = str(given.get(argument.name, argument.default))
        try:
            values[argument.name] = argument.parse(text)
        except ValueError as error:
            raise BringupError(f"{argument.name}: expected {error}, got '{text}' ({argument.description}).") from None
    return values


def processes(given: Mapping[str, Any] | None = None, *, view: bool = False) -> tuple[ProcessSpec, ...]:
    """The processes for the given arguments, in starting order; files are looked for before anything starts.

    view: the simulated robot also publishes a camera that the policy does not see, for films.
    """
    values = parse_arguments(given or {})
    if not values["robot"] and not values["sim"]:
        raise BringupError(
            "robot: expected a robot description (robot:=my_robot.yaml) or sim:=true, got neither. "
            "docs/robot.md shows how to write one."
        )
    robot_file = Path(values["robot"]) if values["robot"] else shipped(SIM_ROBOT)
    robot = RobotDescription.load(robot_file)
    values["robot"] = str(robot_file.resolve())
    values["checkpoint"] = str(_checkpoint(values["checkpoint"], values["task"] if values["sim"] else ""))
    if values["sim"] and not values["instruction"]:
        values["instruction"] = instruction_of(values["task"], values["seed"])
    listed = [_gate(values)] if values["gate"] else []
    listed += [_monitor(values), _policy(values, robot)]
    listed += [_dashboard(values)] if values["dashboard"] else []
    listed += [_aggregator(values)] if values["aggregator"] else []
    listed = ([_sim_robot(values, view)] if values["sim"] else []) + ([_recorder(values)] if values["record"] else []) + listed
    space, params_file = values["namespace"], _params_file(values["params_file"])
    # Two simulated robots must not share a clock: ROS 2 listens to /clock, whatever the namespace.
    clock = ((names.CLOCK, names.CLOCK.strip("/")),) if space else ()
    return tuple(
        replace(spec, namespace=space, params_file=params_file, remappings=(*spec.remappings, *clock)) for spec in listed
    )


def _params_file(text: str) -> str:
    if text and not Path(text).is_file():
        found = "a folder" if Path(text).is_dir() else "nothing"
        raise BringupError(
            f"params_file: expected a YAML file at {Path(text).resolve()}, found {found}. "
            "Its form is 'gate: {ros__parameters: {heartbeat_timeout_s: 0.1}}', one key for each node."
        )
    return str(Path(text).resolve()) if text else ""


def _clock(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nodes follow /clock when simulated time does not run like the wall's."""
    return {"use_sim_time": bool(values["sim"] and values["speed"] != 1.0)}


def _sim_robot(values: Mapping[str, Any], view: bool) -> ProcessSpec:
    parameters = {name: values[name] for name in ("robot", "task", "seed", "speed")}
    return ProcessSpec("sim_robot_node", names.SIM_ROBOT, parameters | ({"view_camera": VIEW_CAMERA} if view else {}))


def _gate(values: Mapping[str, Any]) -> ProcessSpec:
    """Real arms wait for an operator's ~/resume; the simulated ones begin as soon as everything is there."""
    simulated = SIM_GATE if values["sim"] else {}
    return ProcessSpec("gate_node", names.GATE, {"robot": values["robot"], **simulated, **_clock(values)})


def _monitor(values: Mapping[str, Any]) -> ProcessSpec:
    return ProcessSpec("monitor_node", names.MONITOR, {**{n: values[n] for n in ("robot", "checkpoint")}, **_clock(values)})


def _recorder(values: Mapping[str, Any]) -> ProcessSpec:
    """Started before those it records, and stopped after them: it hears the last hold."""
    parameters = {"folder": values["record"], **{name: values[name] for name in ("robot", "checkpoint", "sim")}}
    return ProcessSpec("recorder_node", names.RECORDER, {**parameters, **_clock(values)}, needed=False)


def _policy(values: Mapping[str, Any], robot: RobotDescription) -> ProcessSpec:
    parameters = {name: values[name] for name in ("robot", "checkpoint", "instruction", "gate")} | {"autostart": True}
    parameters |= SIM_POLICY if values["sim"] else {}
    remappings = ()
    if not values["gate"]:
        remappings = tuple((names.motions(names.POLICY, arm.name), arm.trajectory_topic) for arm in robot.arms)
    return ProcessSpec("policy_node", names.POLICY, {**parameters, **_clock(values)}, remappings)


def _dashboard(values: Mapping[str, Any]) -> ProcessSpec:
    return ProcessSpec("dashboard", "dashboard", {"robot": values["robot"]}, needed=False)


def _aggregator(values: Mapping[str, Any]) -> ProcessSpec:
    """What rqt_robot_monitor shows: /diagnostics in groups. It hears the whole graph, whatever the namespace."""
    parameters = yaml.safe_load(shipped(AGGREGATOR).read_text(encoding="utf-8"))["analyzers"]["ros__parameters"]
    package = "diagnostic_aggregator"
    if not executable_of(package, "aggregator_node"):
        raise BringupError(
            "aggregator: expected the package diagnostic_aggregator, found none. Run: sudo apt install "
            "ros-$ROS_DISTRO-diagnostic-aggregator, then source the setup.bash of ROS 2 again."
        )
    return ProcessSpec("aggregator_node", "analyzers", {**parameters, **_clock(values)}, needed=False, package=package)


def executable_of(package: str, name: str) -> Path | None:
    """An executable of another package, as `ros2 run` finds it; None where it is not installed."""
    prefixes = [Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    paths = [prefix / "lib" / package / name for prefix in prefixes]
    return next((path for path in paths if path.is_file()), None)


def instruction_of(task: str, seed: int) -> str:
    """What the policy is told in the scene of a seed."""
    from rdvla_ros.sim.tasks import get_task  # imports MuJoCo: only where the simulated robot is started

    return get_task(task).instruction_of(seed)


def _checkpoint(folder: str, task: str) -> Path:
    path = Path(folder).resolve() if folder else shipped_policy(task)
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing"
        raise BringupError(
            f"checkpoint: expected a folder at {path}, found {found}. Pass checkpoint:=<folder>; 'rdvla train' makes one."
        )
    return path
