"""The SROS 2 policy of a robot: which process may publish, hear, serve and call what, and nothing else.

    rdvla security my_robot.yaml > policy.xml

One enclave per process: robot, policy, gate, monitor, recorder, operator. No wildcard: every name is written out, from the robot
description. test/test_security.py holds it against what the nodes really open.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from xml.sax.saxutils import quoteattr

from rdvla_ros.bringup.processes import namespace
from rdvla_ros.nodes.common import names
from rdvla_ros.nodes.gate.parameters import GateParameters
from rdvla_ros.robot import RobotDescription, shipped

ENCLAVES = ("robot", "policy", "gate", "monitor", "recorder", "operator")
PREFIX = "/rdvla"
LIFECYCLE = ("change_state", "get_state", "get_available_states", "get_available_transitions", "get_transition_graph")
READ_PARAMETERS = ("describe_parameters", "get_parameters", "get_parameter_types", "list_parameters")
PARAMETERS = (*READ_PARAMETERS, "set_parameters", "set_parameters_atomically")
LOGS = ("/rosout", "/parameter_events")
KINDS = ("publish", "subscribe", "reply", "request")


@dataclass(frozen=True)
class Profile:
    """What one node may do. reply: services it offers. request: services it calls."""

    node: str
    publish: frozenset[str]
    subscribe: frozenset[str] = frozenset()
    reply: frozenset[str] = frozenset()
    request: frozenset[str] = frozenset()
    namespace: str = ""

    def in_namespace(self, namespace: str) -> Profile:
        """With all names in full."""

        def full(topics: frozenset[str]) -> frozenset[str]:
            return frozenset(topic if topic.startswith("/") else f"{namespace}/{topic}" for topic in topics)

        return replace(self, namespace=namespace, **{kind: full(getattr(self, kind)) for kind in KINDS})


@dataclass
class _Names:
    """The topics of a robot."""

    robot: RobotDescription
    arms: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.arms = [arm.name for arm in self.robot.arms]

    @property
    def states(self) -> set[str]:
        grippers = {arm.gripper.joint_states_topic for arm in self.robot.arms if arm.gripper}
        return {arm.joint_states_topic for arm in self.robot.arms} | grippers - {""}

    @property
    def controllers(self) -> set[str]:
        return {arm.controller_state_topic for arm in self.robot.arms if arm.controller_state_topic}

    @property
    def commands(self) -> set[str]:
        return {arm.trajectory_topic for arm in self.robot.arms}

    @property
    def images(self) -> set[str]:
        return {camera.topic for camera in self.robot.cameras}

    @property
    def thumbnails(self) -> set[str]:
        return {names.thumbnail(camera.name) for camera in self.robot.cameras}

    @property
    def infos(self) -> set[str]:
        return {names.camera_info(camera.topic) for camera in self.robot.cameras}

    @property
    def sensors(self) -> set[str]:
        return {sensor.topic for sensor in self.robot.sensors}

    @property
    def settings(self) -> set[str]:
        """Services: what the controllers are set to."""
        return {f"{node}/get_parameters" for arm in self.robot.arms for node in (arm.controller, arm.controller_manager)}

    @property
    def chunks(self) -> set[str]:
        return {names.chunk(arm) for arm in self.arms}

    def motions(self, prefix: str) -> set[str]:
        return {names.motions(prefix, arm) for arm in self.arms}


def profiles(robot: RobotDescription, values: GateParameters | None = None, namespace: str = "") -> dict[str, list[Profile]]:
    """Enclave -> profiles of its nodes, names in full. values: the gate's parameters, where its topics are not the default
    ones. namespace: '' or '/cell_1'."""
    relative = _relative_profiles(_Names(robot), values or GateParameters())
    return {enclave: [profile.in_namespace(namespace) for profile in nodes] for enclave, nodes in relative.items()}


def _relative_profiles(robot: _Names, values: GateParameters) -> dict[str, list[Profile]]:
    policy, teleop, operator = values.policy_prefix, values.takeover_prefix, values.operator_topic
    return {
        "robot": [
            _profile(
                "robot",
                publish=robot.states | robot.controllers | robot.images | robot.infos | robot.sensors,
                subscribe=robot.commands,
                reply=robot.settings,
            )
        ],
        "policy": [
            _node(
                names.POLICY,
                publish=robot.motions(names.POLICY)
                | robot.chunks
                | {names.POLICY_CONVERGENCE, f"{names.POLICY}/transition_event"},
                subscribe=robot.images
                | robot.states
                | robot.sensors
                | robot.controllers
                | {names.GATE_STATUS, names.GATE_HEARTBEAT, names.MONITOR_UNCERTAINTY},
                reply={names.POLICY_SET_INSTRUCTION, *(f"{names.POLICY}/{name}" for name in LIFECYCLE)},
            ),
            _profile(
                f"{names.POLICY}_side",
                publish={names.POLICY_HEARTBEAT},
                subscribe={names.GATE_HEARTBEAT, names.POLICY_HEARTBEAT},
            ),
        ],
        "gate": [
            _node(
                names.GATE,
                publish=robot.commands | {names.GATE_STATUS},
                subscribe=robot.motions(policy) | robot.motions(teleop) | robot.states | robot.controllers,
                request=robot.settings,
            ),
            _profile(
                f"{names.GATE}_side",
                publish={names.GATE_HEARTBEAT},
                subscribe={names.heartbeat(policy), operator},
                reply={names.GATE_HOLD, names.GATE_RESUME, names.GATE_SET_MODE},
            ),
        ],
        "monitor": [
            _node(
                names.MONITOR,
                publish={names.MONITOR_UNCERTAINTY, names.DIAGNOSTICS} | robot.thumbnails | set(names.PLAIN_NUMBERS.values()),
                subscribe=robot.infos
                | robot.images
                | robot.states
                | robot.controllers
                | robot.chunks
                | {names.POLICY_CONVERGENCE, names.GATE_STATUS},
                request={names.GATE_HOLD},
            )
        ],
        "recorder": [
            _node(
                names.RECORDER,
                publish=(),
                subscribe=robot.commands
                | robot.motions(names.POLICY)
                | robot.motions(names.TELEOP)
                | robot.chunks
                | robot.states
                | robot.controllers
                | robot.images
                | robot.sensors
                | {names.POLICY_CONVERGENCE, names.MONITOR_UNCERTAINTY, names.GATE_STATUS, "/parameter_events"},
                request={
                    f"{node}/{name}"
                    for node in (names.GATE, names.POLICY, names.MONITOR)
                    for name in ("list_parameters", "get_parameters")
                },
            )
        ],
        "operator": [
            _profile(
                "operator",
                publish=robot.motions(teleop) | {operator},
                subscribe=robot.states
                | robot.motions(names.POLICY)
                | robot.images
                | robot.thumbnails
                | set(names.PLAIN_NUMBERS.values())
                | {
                    names.GATE_STATUS,
                    names.POLICY_HEARTBEAT,
                    names.POLICY_CONVERGENCE,
                    names.MONITOR_UNCERTAINTY,
                    names.DIAGNOSTICS,
                    "/rosout",
                },
                request={
                    names.GATE_HOLD,
                    names.GATE_RESUME,
                    names.GATE_SET_MODE,
                    names.POLICY_SET_INSTRUCTION,
                    *(f"{names.POLICY}/{name}" for name in (*LIFECYCLE, *PARAMETERS)),
                    *(f"{node}/{name}" for node in (names.GATE, names.MONITOR) for name in READ_PARAMETERS),
                },
            )
        ],
    }


def _profile(node: str, publish: Iterable[str], **others: Iterable[str]) -> Profile:
    return Profile(node, frozenset({*publish, *LOGS}), **{key: frozenset(topics) for key, topics in others.items()})


def _node(node: str, *, reply: Iterable[str] = (), **others: Iterable[str]) -> Profile:
    """One with rclpy's own services."""
    own = {f"{node}/{name}" for name in (*PARAMETERS, "get_type_description")}
    return _profile(node, reply={*reply, *own}, **others)


def policy_xml(robot: RobotDescription, namespace: str = "") -> str:
    """In the format of SROS 2, version 0.2.0."""
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f"<!-- rdvla security, for the robot {_comment(robot.name)} -->"]
    lines += ['<policy version="0.2.0">', "  <enclaves>"]
    for enclave, nodes in profiles(robot, namespace=namespace).items():
        lines += [f"    <enclave path={quoteattr(f'{PREFIX}/{enclave}')}>", "      <profiles>"]
        for profile in nodes:
            lines += [
                f"        <profile ns={quoteattr(profile.namespace or '/')} node={quoteattr(profile.node)}>",
                *_rules(profile),
                "        </profile>",
            ]
        lines += ["      </profiles>", "    </enclave>"]
    return "\n".join([*lines, "  </enclaves>", "</policy>", ""])


def _comment(text: str) -> str:
    return text.replace("--", "- -")


def _rules(profile: Profile) -> list[str]:
    lines = []
    for what, kind, allowed_names in (
        ("topic", "publish", profile.publish),
        ("topic", "subscribe", profile.subscribe),
        ("service", "reply", profile.reply),
        ("service", "request", profile.request),
    ):
        if allowed_names:
            lines.append(f'          <{what}s {kind}="ALLOW">')
            lines += [f"            <{what}>{name}</{what}>" for name in sorted(allowed_names)]
            lines.append(f"          </{what}s>")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="rdvla security", description="The SROS 2 policy of a robot, on standard output.")
    parser.add_argument("robot", nargs="?", default=str(shipped("config/aloha_sim.yaml")), help="robot description, a YAML file")
    parser.add_argument("--namespace", default="", help="namespace of all nodes, such as cell_1")
    options = parser.parse_args(arguments)
    sys.stdout.write(policy_xml(RobotDescription.load(options.robot), namespace(options.namespace)))
    return 0


def allowed(nodes: Iterable[Profile]) -> Mapping[str, frozenset[str]]:
    """All that the nodes of an enclave may do together: a process has one identity."""
    nodes = list(nodes)
    return {kind: frozenset().union(*(getattr(profile, kind) for profile in nodes)) for kind in KINDS}


if __name__ == "__main__":
    raise SystemExit(main())
