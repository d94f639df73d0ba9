"""The SROS 2 policy of a robot: which process may publish, hear, serve and call what, and nothing else.

    rdvla security my_robot.yaml > policy.xml

One enclave per process: robot, policy, gate, monitor, operator. No wildcard: every name is written out, from the robot
description. test/test_security.py holds it against what the nodes really open.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import quoteattr

from rdvla_ros.nodes.gate.parameters import GateParameters
from rdvla_ros.robot import RobotDescription, shipped

ENCLAVES = ("robot", "policy", "gate", "monitor", "operator")
PREFIX = "/rdvla"
LIFECYCLE = ("change_state", "get_state", "get_available_states", "get_available_transitions", "get_transition_graph")
READ_PARAMETERS = ("describe_parameters", "get_parameters", "get_parameter_types", "list_parameters")
PARAMETERS = (*READ_PARAMETERS, "set_parameters", "set_parameters_atomically")
LOGS = ("/rosout", "/parameter_events")


@dataclass(frozen=True)
class Profile:
    """What one node may do; names in full. reply: services it offers. request: services it calls."""

    node: str
    publish: frozenset[str]
    subscribe: frozenset[str] = frozenset()
    reply: frozenset[str] = frozenset()
    request: frozenset[str] = frozenset()


@dataclass
class _Names:
    """The topics of a robot."""

    robot: RobotDescription
    arms: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.arms = [arm.name for arm in self.robot.arms]

    @property
    def states(self) -> set[str]:
        return {arm.joint_states_topic for arm in self.robot.arms}

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
    def infos(self) -> set[str]:
        from rdvla_ros.nodes.common.conversions import camera_info_topic

        return {camera_info_topic(camera.topic) for camera in self.robot.cameras}

    def motions(self, prefix: str) -> set[str]:
        return {f"{prefix}/{arm}/joint_trajectory" for arm in self.arms}


def profiles(robot: RobotDescription, values: GateParameters | None = None) -> dict[str, list[Profile]]:
    """Enclave -> profiles of its nodes. values: the gate's parameters, where its topics are not the default ones."""
    names = _Names(robot)
    prefixes = values or GateParameters()
    policy, teleop, operator = prefixes.policy_prefix, prefixes.takeover_prefix, prefixes.operator_topic
    return {
        "robot": [
            _profile("robot", publish=names.states | names.controllers | names.images | names.infos, subscribe=names.commands)
        ],
        "policy": [
            _node(
                "policy",
                publish=names.motions("/policy") | {"/policy/convergence", "/policy/transition_event"},
                subscribe=names.images | names.states | names.controllers | {"/gate/status", "/gate/heartbeat"},
                reply={"/policy/set_instruction", *(f"/policy/{name}" for name in LIFECYCLE)},
            ),
            _profile("policy_side", publish={"/policy/heartbeat"}, subscribe={"/gate/heartbeat", "/policy/heartbeat"}),
        ],
        "gate": [
            _node(
                "gate",
                publish=names.commands | {"/gate/status"},
                subscribe=names.motions(policy) | names.motions(teleop) | names.states | names.controllers,
            ),
            _profile(
                "gate_side",
                publish={"/gate/heartbeat"},
                subscribe={f"{policy}/heartbeat", operator},
                reply={"/gate/hold", "/gate/resume", "/gate/set_mode"},
            ),
        ],
        "monitor": [
            _node(
                "monitor",
                publish={"/monitor/uncertainty", "/diagnostics"},
                subscribe=names.infos | names.states | names.controllers | {"/policy/convergence", "/gate/status"},
                request={"/gate/hold"},
            )
        ],
        "operator": [
            _profile(
                "operator",
                publish=names.motions(teleop) | {operator},
                subscribe={"/gate/status", "/policy/convergence", "/monitor/uncertainty", "/diagnostics", "/rosout"},
                request={
                    "/gate/hold",
                    "/gate/resume",
                    "/gate/set_mode",
                    "/policy/set_instruction",
                    *(f"/policy/{name}" for name in (*LIFECYCLE, *PARAMETERS)),
                    *(f"/{node}/{name}" for node in ("gate", "monitor") for name in READ_PARAMETERS),
                },
            )
        ],
    }


def _profile(node: str, publish: Iterable[str], **others: Iterable[str]) -> Profile:
    return Profile(node, frozenset({*publish, *LOGS}), **{key: frozenset(names) for key, names in others.items()})


def _node(node: str, *, reply: Iterable[str] = (), **others: Iterable[str]) -> Profile:
    """One with rclpy's own services."""
    own = {f"/{node}/{name}" for name in (*PARAMETERS, "get_type_description")}
    return _profile(node, reply={*reply, *own}, **others)


def policy_xml(robot: RobotDescription) -> str:
    """In the format of SROS 2, version 0.2.0."""
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f"<!-- rdvla security, for the robot {_comment(robot.name)} -->"]
    lines += ['<policy version="0.2.0">', "  <enclaves>"]
    for enclave, nodes in profiles(robot).items():
        lines += [f"    <enclave path={quoteattr(f'{PREFIX}/{enclave}')}>", "      <profiles>"]
        for profile in nodes:
            lines += [f'        <profile ns="/" node={quoteattr(profile.node)}>', *_rules(profile), "        </profile>"]
        lines += ["      </profiles>", "    </enclave>"]
    return "\n".join([*lines, "  </enclaves>", "</policy>", ""])


def _comment(text: str) -> str:
    return text.replace("--", "- -")


def _rules(profile: Profile) -> list[str]:
    lines = []
    for what, kind, names in (
        ("topic", "publish", profile.publish),
        ("topic", "subscribe", profile.subscribe),
        ("service", "reply", profile.reply),
        ("service", "request", profile.request),
    ):
        if names:
            lines.append(f'          <{what}s {kind}="ALLOW">')
            lines += [f"            <{what}>{name}</{what}>" for name in sorted(names)]
            lines.append(f"          </{what}s>")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="rdvla security", description="The SROS 2 policy of a robot, on standard output.")
    parser.add_argument("robot", nargs="?", default=str(shipped("config/aloha_sim.yaml")), help="robot description, a YAML file")
    sys.stdout.write(policy_xml(RobotDescription.load(parser.parse_args(arguments).robot)))
    return 0


def allowed(nodes: Iterable[Profile]) -> Mapping[str, frozenset[str]]:
    """All that the nodes of an enclave may do together: a process has one identity."""
    nodes = list(nodes)
    return {
        kind: frozenset().union(*(getattr(profile, kind) for profile in nodes))
        for kind in ("publish", "subscribe", "reply", "request")
    }


if __name__ == "__main__":
    raise SystemExit(main())
