"""The robot description: one YAML file says what the two arms, their controllers and the cameras are called.

The schema is strict: an unknown key, a missing limit or a name used twice is refused with the file, the place, what was
expected and what came. `docs/robot.md` leads from two arms on a table to such a file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rdvla_ros.robot_schema import Section, read_yaml
from rdvla_ros.sensor_messages import SENSOR_MESSAGES
from rdvla_ros.types import RobotDescriptionError, nearest_names

TRANSPORTS = ("raw", "compressed")
REPRESENTATIONS = ("absolute", "relative")
CONTROLLER_RULES = ("humble", "jazzy", "master")
POLICY, POLICIES = "checkpoints/compact_aloha", {"follow_trail": "checkpoints/trail_aloha"}  # the rest: by task


@dataclass(frozen=True)
class Joint:
    """One joint in the controller's units: rad, or m for a sliding gripper finger."""

    name: str
    lower: float  # [unit]
    upper: float  # [unit]
    velocity: float  # largest speed [unit/s]
    acceleration: float  # [unit/s^2]
    jerk: float  # [unit/s^3]


@dataclass(frozen=True)
class Gripper:
    """Which joint of the arm is its gripper, and its positions (controller units) when closed and open. joint_states_topic: where
    a driver of its own publishes it; empty: on the arm's topic."""

    joint: str
    closed: float
    open: float
    joint_states_topic: str = ""


@dataclass(frozen=True)
class Arm:
    """One arm: its joints in controller order and the topics of its controller.

    joint_states_topic may be the same for all arms (one combined /joint_states) or one per arm.
    controller_state_topic is empty where the controller publishes no state.
    """

    name: str
    joints: tuple[Joint, ...]
    gripper: Gripper | None
    trajectory_topic: str
    joint_states_topic: str
    controller_state_topic: str

    @property
    def joint_names(self) -> tuple[str, ...]:
        return tuple(joint.name for joint in self.joints)

    @property
    def controller(self) -> str:
        """Name of the controller's node."""
        return self.trajectory_topic.rpartition("/")[0]

    @property
    def controller_manager(self) -> str:
        """Name of the controller manager's node, which lies beside the controller's."""
        namespace, slash, _ = self.controller.rpartition("/")
        return f"{namespace}{slash}controller_manager"


@dataclass(frozen=True)
class Camera:
    """One colour camera. frame_id is checked against the images' when it is not empty."""

    name: str
    topic: str
    transport: str  # 'raw' (sensor_msgs/Image) or 'compressed' (sensor_msgs/CompressedImage)
    width: int  # [px]
    height: int  # [px]
    frame_id: str


@dataclass(frozen=True)
class Sensor:
    """Further readings: force, touch, features of a sound. A policy reads them where it was trained with them.

    message: of SENSOR_MESSAGES; a wrench is force x y z [N], then torque x y z [Nm]. size: how many numbers. arm: the arm whose
    sensor it is, empty for none. frame_id is checked against the messages' when it is not empty.
    """

    name: str
    topic: str
    message: str
    size: int
    arm: str = ""
    frame_id: str = ""


@dataclass(frozen=True)
class Rates:
    """Rates the robot delivers, and how old an input may be when a decision is made from it."""

    camera_hz: float
    joint_states_hz: float
    max_observation_age_s: float


@dataclass(frozen=True)
class ControllerRule:
    """What the joint_trajectory_controllers do with a new trajectory, and how often they are updated.

    rule: 'humble'; 'jazzy' for Jazzy and Kilted, and for master with allow_trajectory_replacement switched off; 'master' for
    master with it. docs/robot.md says what follows from each.
    """

    rule: str = "jazzy"
    update_rate_hz: float = 100.0  # [Hz] of the controller manager
    stated: frozenset[str] = frozenset()  # which of the two the description says; only these are compared with the controllers

    @property
    def period_s(self) -> float:
        return 1.0 / self.update_rate_hz


@dataclass(frozen=True)
class RobotDescription:
    """Everything a node must know about the robot. A = all joints of all arms, in the order of the file."""

    name: str
    arms: tuple[Arm, ...]
    cameras: tuple[Camera, ...]
    representation: str  # 'absolute' or 'relative': what the policy's actions mean
    rates: Rates
    controller: ControllerRule = ControllerRule()
    sensors: tuple[Sensor, ...] = ()

    @classmethod
    def load(cls, path: str | Path) -> RobotDescription:
        """Read a YAML file; RobotDescriptionError says what is wrong with it and where."""
        path = Path(path)
        if not path.is_file():
            raise RobotDescriptionError(
                f"Robot description {path}: expected a YAML file, found {'a folder' if path.is_dir() else 'nothing'}. "
                "Pass robot:=<file>; docs/robot.md shows how to write one."
            )
        try:
            data = read_yaml(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RobotDescriptionError(f"Robot description {path} is not readable YAML: {error}") from None
        return cls.from_dict(data, source=str(path))

    @classmethod
    def from_dict(cls, data: Any, source: str = "robot description") -> RobotDescription:
        """Build from parsed YAML; `source` names it in errors."""
        optional = ("controller", "sensors")
        root = Section(data, source).keys(required=("name", "arms", "cameras", "actions", "rates"), optional=optional)
        description = cls(
            name=root.text("name"),
            arms=tuple(_arm(node) for node in root.items("arms")),
            cameras=tuple(_camera(node) for node in root.items("cameras")),
            representation=root.node("actions").keys(required=("representation",)).choice("representation", REPRESENTATIONS),
            rates=_rates(root.node("rates")),
            controller=_controller(root.node("controller")) if "controller" in root.data else ControllerRule(),
            sensors=tuple(_sensor(node) for node in root.items("sensors")) if "sensors" in root.data else (),
        )
        _check_unique(source, "arm", [arm.name for arm in description.arms])
        _check_unique(source, "joint", list(description.joint_names))
        resolved = description.in_namespace("/")  # left/joint_states and /left/joint_states may be one topic
        _check_unique(source, "trajectory_topic", [arm.trajectory_topic for arm in resolved.arms])
        states = [arm.controller_state_topic for arm in resolved.arms if arm.controller_state_topic]
        _check_unique(source, "controller_state_topic", states)
        _check_unique(source, "camera", [camera.name for camera in description.cameras])
        _check_unique(source, "camera topic", [camera.topic for camera in resolved.cameras])
        _check_unique(source, "sensor", [sensor.name for sensor in description.sensors])
        _check_unique(source, "sensor topic", [sensor.topic for sensor in resolved.sensors])
        arms = [arm.name for arm in description.arms]
        for i, sensor in enumerate(description.sensors):
            if sensor.arm and sensor.arm not in arms:
                raise RobotDescriptionError(
                    f"{source}: sensors[{i}]: arm: no arm '{sensor.arm}'. {nearest_names(sensor.arm, arms)}"
                )
        return description

    def in_namespace(self, namespace: str) -> RobotDescription:
        """The same robot with topics in full, as a node in this namespace ('/' or '/cell_1') resolves them."""

        def full(topic: str) -> str:
            return topic if not topic or topic.startswith("/") else f"/{namespace.strip('/')}/{topic}".replace("//", "/")

        fields = ("trajectory_topic", "joint_states_topic", "controller_state_topic")
        arms = tuple(replace(arm, **{field: full(getattr(arm, field)) for field in fields}) for arm in self.arms)
        grippers = (arm.gripper and replace(arm.gripper, joint_states_topic=full(arm.gripper.joint_states_topic)) for arm in arms)
        arms = tuple(replace(arm, gripper=gripper) for arm, gripper in zip(arms, grippers, strict=True))
        cameras = tuple(replace(camera, topic=full(camera.topic)) for camera in self.cameras)
        sensors = tuple(replace(sensor, topic=full(sensor.topic)) for sensor in self.sensors)
        return replace(self, arms=arms, cameras=cameras, sensors=sensors)

    @property
    def joints(self) -> tuple[Joint, ...]:
        return tuple(joint for arm in self.arms for joint in arm.joints)

    @property
    def joint_names(self) -> tuple[str, ...]:
        """(A,) names in policy order."""
        return tuple(joint.name for joint in self.joints)

    @property
    def camera_names(self) -> tuple[str, ...]:
        return tuple(camera.name for camera in self.cameras)

    @property
    def sensor_sizes(self) -> dict[str, int]:
        """Sensor name -> how many numbers it brings."""
        return {sensor.name: sensor.size for sensor in self.sensors}

    @property
    def gripper_joints(self) -> tuple[str, ...]:
        return tuple(arm.gripper.joint for arm in self.arms if arm.gripper)

    @property
    def arm_slices(self) -> dict[str, slice]:
        """Arm name -> its columns in an (A,) vector."""
        slices, start = {}, 0
        for arm in self.arms:
            slices[arm.name] = slice(start, start + len(arm.joints))
            start += len(arm.joints)
        return slices

    def limit(self, field: str) -> np.ndarray:
        """(A,) one field of every joint: 'lower', 'upper', 'velocity', 'acceleration' or 'jerk', controller units."""
        return np.array([getattr(joint, field) for joint in self.joints], dtype=np.float64)

    @cached_property
    def _gripper_scale(self) -> tuple[np.ndarray, np.ndarray]:
        """(A,) offset and scale with controller = offset + scale * policy; 0 and 1 for the joints of the arm."""
        offset, scale = np.zeros(len(self.joints)), np.ones(len(self.joints))
        index = {name: i for i, name in enumerate(self.joint_names)}
        for arm in self.arms:
            if arm.gripper:
                i = index[arm.gripper.joint]
                offset[i], scale[i] = arm.gripper.closed, arm.gripper.open - arm.gripper.closed
        return offset, scale

    def to_policy(self, positions: np.ndarray) -> np.ndarray:
        """(..., A) controller units -> policy units (grippers 0 closed .. 1 open)."""
        offset, scale = self._gripper_scale
        return (np.asarray(positions, dtype=np.float64) - offset) / scale

    def from_policy(self, positions: np.ndarray) -> np.ndarray:
        """(..., A) policy units -> controller units; inverse of `to_policy`."""
        offset, scale = self._gripper_scale
        return offset + scale * np.asarray(positions, dtype=np.float64)


def shipped(relative: str) -> Path:
    """Where a file that comes with the package is: the source tree, ROS's share folder, or beside the code as pip puts it."""
    package = Path(__file__).resolve().parent
    if (package.parent / "package.xml").is_file():
        return package.parent / relative
    prefixes = [Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    folders = [prefix / "share" / package.name for prefix in prefixes]
    return next((folder for folder in folders if folder.is_dir()), package / "share") / relative


def shipped_policy(task: str) -> Path:
    """Folder of the checkpoint that comes with the package for a task of the simulated robot, such as follow_trail:5."""
    return shipped(POLICIES.get(task.partition(":")[0], POLICY))


def import_path() -> str:
    """PYTHONPATH for a process that we start: the package that is running now comes first in it too."""
    root = str(Path(__file__).resolve().parent.parent)
    return os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])


def _arm(node: Section) -> Arm:
    node.keys(
        required=("name", "joints", "trajectory_topic", "joint_states_topic"),
        optional=("gripper", "controller_state_topic"),
    )
    name = node.text("name")
    if not name.isidentifier():
        raise RobotDescriptionError(
            f"{node.place}: name: expected letters, digits and underscores (it becomes part of topic names), got '{name}'."
        )
    joints = tuple(_joint(item) for item in node.items("joints"))
    gripper = None
    if node.data.get("gripper") is not None:
        gripper = _gripper(node.node("gripper"), joints)
    return Arm(
        name=name,
        joints=joints,
        gripper=gripper,
        trajectory_topic=node.topic("trajectory_topic"),
        joint_states_topic=node.topic("joint_states_topic"),
        controller_state_topic=node.topic("controller_state_topic", default=""),
    )


def _joint(node: Section) -> Joint:
    node.keys(required=("name", "lower", "upper", "velocity", "acceleration", "jerk"))
    joint = Joint(
        name=node.text("name"),
        lower=node.number("lower"),
        upper=node.number("upper"),
        **{key: node.number(key, above=0.0) for key in ("velocity", "acceleration", "jerk")},
    )
    if joint.lower >= joint.upper:
        raise RobotDescriptionError(f"{node.place}: expected lower < upper, got {joint.lower:g} and {joint.upper:g}.")
    return joint


def _gripper(node: Section, joints: tuple[Joint, ...]) -> Gripper:
    node.keys(required=("joint", "closed", "open"), optional=("joint_states_topic",))
    topic = node.topic("joint_states_topic", default="")
    gripper = Gripper(node.text("joint"), node.number("closed"), node.number("open"), topic)
    by_name = {joint.name: joint for joint in joints}
    if gripper.joint not in by_name:
        raise RobotDescriptionError(
            f"{node.place}: joint '{gripper.joint}' is not among the arm's joints. {nearest_names(gripper.joint, by_name)}"
        )
    joint = by_name[gripper.joint]
    for key in ("closed", "open"):
        value = getattr(gripper, key)
        if not joint.lower <= value <= joint.upper:
            raise RobotDescriptionError(
                f"{node.place}: {key}: expected within the joint's limits {joint.lower:g} .. {joint.upper:g}, got {value:g}."
            )
    if gripper.closed == gripper.open:
        raise RobotDescriptionError(
            f"{node.place}: expected different positions for closed and open, got {gripper.open:g} twice."
        )
    return gripper


def _camera(node: Section) -> Camera:
    node.keys(required=("name", "topic", "width", "height"), optional=("transport", "frame_id"))
    return Camera(
        name=node.text("name"),
        topic=node.topic("topic"),
        transport=node.choice("transport", TRANSPORTS) if "transport" in node.data else "raw",
        width=node.count("width"),
        height=node.count("height"),
        frame_id=node.text("frame_id", default=""),
    )


def _sensor(node: Section) -> Sensor:
    node.keys(required=("name", "topic", "message"), optional=("size", "arm", "frame_id"))
    message = node.choice("message", tuple(SENSOR_MESSAGES))
    fixed = SENSOR_MESSAGES[message]
    if not fixed and "size" not in node.data:
        raise RobotDescriptionError(f"{node.place}: missing key 'size': a {message} may carry any count of numbers.")
    size = node.count("size") if "size" in node.data else fixed
    if fixed and size != fixed:
        raise RobotDescriptionError(f"{node.place}: size: a {message} carries {fixed} numbers, got {size}.")
    texts = {key: node.text(key, default="") for key in ("arm", "frame_id")}
    if texts["frame_id"] and message.startswith("std_msgs/"):
        raise RobotDescriptionError(f"{node.place}: frame_id: a {message} has no header and names no frame. Leave frame_id out.")
    return Sensor(node.text("name"), node.topic("topic"), message, size, **texts)


def _rates(node: Section) -> Rates:
    node.keys(required=("camera_hz", "joint_states_hz", "max_observation_age_s"))
    rates = Rates(*(node.number(key, above=0.0) for key in ("camera_hz", "joint_states_hz", "max_observation_age_s")))
    if rates.max_observation_age_s < 1.0 / rates.camera_hz:
        raise RobotDescriptionError(
            f"{node.place}: max_observation_age_s: expected at least one camera period ({1.0 / rates.camera_hz:g} s at "
            f"{rates.camera_hz:g} Hz), got {rates.max_observation_age_s:g}: every image would be too old."
        )
    return rates


def _controller(node: Section) -> ControllerRule:
    node.keys(required=(), optional=("rule", "update_rate_hz"))
    default = ControllerRule()
    rule = node.choice("rule", CONTROLLER_RULES) if "rule" in node.data else default.rule
    rate_hz = node.number("update_rate_hz", above=0.0) if "update_rate_hz" in node.data else default.update_rate_hz
    return ControllerRule(rule, rate_hz, frozenset(node.data))


def _check_unique(source: str, what: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise RobotDescriptionError(f"{source}: {what} '{name}' stands {names.count(name)} times, expected once.")
