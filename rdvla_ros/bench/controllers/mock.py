"""Real controllers on mock hardware: a ros2_control_node with one joint_trajectory_controller per arm, from a robot description.

Needs ros2_control and ros2_controllers (apt: ros-<distribution>-ros2-control, ros-<distribution>-ros2-controllers). The hardware
is ros2_control's own mock: a joint is where it was commanded one cycle before.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from rclpy.node import Node
from std_msgs.msg import String

from rdvla_ros.bringup.processes import BringupError, executable_of
from rdvla_ros.nodes.common import qos
from rdvla_ros.robot import Arm, ControllerRule, RobotDescription

MANAGER, BROADCASTER, JOINT_STATES = "controller_manager", "joint_state_broadcaster", "joint_states"
JOINT_STATES_HZ = 50
ANSWER_S = 60.0
STATED = frozenset({"rule", "update_rate_hz"})


def on_mock_hardware(robot: RobotDescription, rate_hz: float) -> RobotDescription:
    """The same robot with the topics of the mock's controllers: the arms share one topic of joint states."""
    arms = tuple(
        replace(arm, joint_states_topic=JOINT_STATES, controller_state_topic=f"{arm.controller}/controller_state")
        for arm in robot.arms
    )
    return replace(robot, arms=arms, controller=ControllerRule("jazzy", rate_hz, STATED))


def description_file(robot: RobotDescription, source: Path, path: Path) -> Path:
    """The robot description at `source` with the topics and the control rate of `robot`, written to `path`."""
    data = yaml.safe_load(source.read_text(encoding="utf-8"))
    for node, arm in zip(data["arms"], robot.arms, strict=True):
        node.update(joint_states_topic=arm.joint_states_topic, controller_state_topic=arm.controller_state_topic)
    data["controller"] = {"rule": robot.controller.rule, "update_rate_hz": robot.controller.update_rate_hz}
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


def urdf(robot: RobotDescription) -> str:
    """A robot description for ros2_control: every joint by itself on one base, the hardware a mock that starts at `home`."""
    body, interfaces = [], []
    for arm in robot.arms:
        for joint in arm.joints:
            sliding = arm.gripper is not None and arm.gripper.joint == joint.name
            body.append(
                f'  <link name="{joint.name}_link"/>\n'
                f'  <joint name="{joint.name}" type="{"prismatic" if sliding else "revolute"}">\n'
                f'    <parent link="base"/><child link="{joint.name}_link"/><axis xyz="0 0 1"/>\n'
                f'    <limit lower="{joint.lower}" upper="{joint.upper}" velocity="{joint.velocity}" effort="1000"/>\n'
                "  </joint>"
            )
            interfaces.append(
                f'    <joint name="{joint.name}">\n'
                '      <command_interface name="position"/>\n'
                f'      <state_interface name="position"><param name="initial_value">{home(arm)[joint.name]}</param>'
                "</state_interface>\n"
                '      <state_interface name="velocity"/>\n'
                "    </joint>"
            )
    hardware = "<plugin>mock_components/GenericSystem</plugin><param name='calculate_dynamics'>true</param>"
    return "\n".join(
        [
            '<?xml version="1.0"?>',
            f'<robot name="{robot.name}">',
            '  <link name="base"/>',
            *body,
            '  <ros2_control name="mock" type="system">',
            f"    <hardware>{hardware}</hardware>",
            *interfaces,
            "  </ros2_control>",
            "</robot>\n",
        ]
    )


def home(arm: Arm) -> dict[str, float]:
    """Where the mock begins: zero, or the nearest position that is allowed; a gripper half open."""
    gripper = arm.gripper.joint if arm.gripper else None
    middle = {joint.name: 0.5 * (joint.lower + joint.upper) for joint in arm.joints}
    return {j.name: middle[j.name] if j.name == gripper else min(max(0.0, j.lower), j.upper) for j in arm.joints}


def controller_parameters(robot: RobotDescription) -> dict[str, Any]:
    """The parameters that docs/robot.md asks for, for the controller manager and one controller per arm."""
    kinds = {controller_of(arm): "joint_trajectory_controller/JointTrajectoryController" for arm in robot.arms}
    kinds[BROADCASTER] = "joint_state_broadcaster/JointStateBroadcaster"
    manager: dict[str, Any] = {"update_rate": round(robot.controller.update_rate_hz)}
    parameters = {MANAGER: {"ros__parameters": manager | {name: {"type": kind} for name, kind in kinds.items()}}}
    parameters[BROADCASTER] = {"ros__parameters": {"update_rate": JOINT_STATES_HZ}}
    for arm in robot.arms:
        parameters[controller_of(arm)] = {
            "ros__parameters": {
                "joints": list(arm.joint_names),
                "command_interfaces": ["position"],
                "state_interfaces": ["position", "velocity"],
                "interpolate_from_desired_state": True,
                "allow_nonzero_velocity_at_trajectory_end": False,
                "allow_partial_joints_goal": False,
                "constraints": {"goal_time": 0.0},
            }
        }
    return parameters


def controller_of(arm: Arm) -> str:
    """Its name in the controller manager; BringupError where that would be one in a namespace, which the mock has not."""
    name = arm.controller.strip("/")
    if not name or "/" in name:
        raise BringupError(
            f"--mock: arm '{arm.name}': expected the topic '<controller>/joint_trajectory', got '{arm.trajectory_topic}'."
        )
    return name


def control_node() -> Path:
    """The executable of the controller manager; BringupError where it is not installed."""
    if path := executable_of("controller_manager", "ros2_control_node"):
        return path
    raise BringupError(
        "Expected ros2_control_node of the package controller_manager on AMENT_PREFIX_PATH, found none. On ROS 2: "
        "sudo apt install ros-$ROS_DISTRO-ros2-control ros-$ROS_DISTRO-ros2-controllers, then source its setup.bash."
    )


class MockControllers:
    """The controller manager's process with the robot's controllers active. Use as a context manager.

    node: one that somebody spins; it publishes the URDF and calls the controller manager's services.
    """

    def __init__(self, robot: RobotDescription, folder: Path, node: Node, environment: Mapping[str, str]):
        self._robot, self._folder, self._node = robot, folder, node
        self._environment = {**os.environ, **environment, "ROS_LOG_DIR": str(folder / "ros")}

    def __enter__(self) -> MockControllers:
        executable, folder = control_node(), self._folder
        folder.mkdir(parents=True, exist_ok=True)
        parameters, self.log = folder / "controllers.yaml", folder / "controllers.log"
        parameters.write_text(yaml.safe_dump(controller_parameters(self._robot), sort_keys=False), encoding="utf-8")
        (folder / "robot.urdf").write_text(urdf(self._robot), encoding="utf-8")
        self._description = self._node.create_publisher(String, "robot_description", qos.LATCHED)
        self._description.publish(String(data=urdf(self._robot)))
        with open(self.log, "wb") as output:
            self.process = subprocess.Popen(
                [str(executable), "--ros-args", "--params-file", str(parameters)],
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            names = [BROADCASTER, *(controller_of(arm) for arm in self._robot.arms)]
            for name in names:
                self._call("load_controller", "LoadController", name=name)
                self._call("configure_controller", "ConfigureController", name=name)
            self.switch(activate=names)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for number, seconds in ((signal.SIGINT, 5.0), (signal.SIGKILL, 5.0)):
            if self.process.poll() is None:
                self.process.send_signal(number)
                try:
                    self.process.wait(seconds)
                except subprocess.TimeoutExpired:
                    continue
        self._node.destroy_publisher(self._description)

    def switch(self, activate: list[str] | tuple[str, ...] = (), deactivate: list[str] | tuple[str, ...] = ()) -> None:
        self._call(
            "switch_controller",
            "SwitchController",
            activate_controllers=list(activate),
            deactivate_controllers=list(deactivate),
            strictness=2,
        )

    def _call(self, service: str, kind: str, **fields: Any) -> None:
        from controller_manager_msgs import srv  # comes with ros2_control

        client = self._node.create_client(getattr(srv, kind), f"{MANAGER}/{service}")
        done = threading.Event()
        try:
            if not client.wait_for_service(timeout_sec=ANSWER_S):
                raise BringupError(f"The controller manager offers no {service} after {ANSWER_S:g} s. {self._said()}")
            future = client.call_async(getattr(srv, kind).Request(**fields))
            future.add_done_callback(lambda _: done.set())
            if not done.wait(ANSWER_S) or not future.result().ok:
                raise BringupError(f"The controller manager did not do {service} {fields}. {self._said()}")
        finally:
            self._node.destroy_client(client)

    def _said(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-15:]
        return f"Its last lines ({self.log}):\n" + "\n".join(lines)
