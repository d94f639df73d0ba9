"""Before a gate starts: nobody else may publish to the controllers."""

from __future__ import annotations

import time

from rclpy.node import Node

from rdvla_ros.nodes.common.graph import node_names
from rdvla_ros.nodes.gate.parameters import GateParameters
from rdvla_ros.robot import RobotDescription
from rdvla_ros.types import RdvlaError

NAMES_S = 0.3  # from the discovery of a publisher until its node's name is known
LOOK_PERIOD_S = 0.02


def refuse_second_gate(node: Node, robot: RobotDescription, values: GateParameters) -> None:
    """Two publishers to one controller fight. What is already there was there first: this gate does not start.

    A gate that was killed is still listed until the discovery gives it up; it is waited for, a living one stays and is refused.
    """
    looks_until_s = time.monotonic() + values.discovery_s
    waits_until_s, waits = time.monotonic() + values.predecessor_s, False
    while True:
        taken = _taken(node, robot)
        if not taken and time.monotonic() >= looks_until_s:
            return
        if taken:
            time.sleep(NAMES_S)  # a publisher is discovered before the name of its node
            publishers = node.get_publishers_info_by_topic(taken[0])
            names, own = node_names(publishers), node.get_fully_qualified_name()
            predecessor = bool(publishers) and names == own
            if publishers and (not predecessor or time.monotonic() >= waits_until_s):
                raise RdvlaError(_refusal(taken[0], names, own))
            if predecessor and not waits:
                waits = True
                node.get_logger().warning(
                    f"A gate publishes on {taken[0]} already, or was killed a moment ago; "
                    f"this one waits for it to go, up to {values.predecessor_s:g} s."
                )
        time.sleep(LOOK_PERIOD_S)


def _taken(node: Node, robot: RobotDescription) -> list[str]:
    """Controller topics that have a publisher."""
    return [arm.trajectory_topic for arm in robot.arms if node.count_publishers(arm.trajectory_topic)]


def _refusal(topic: str, names: str, own: str) -> str:
    why = f"{own} is running already" if names == own else "does a policy bypass the gate (gate:=false)?"
    return f"Expected to be the only publisher on {topic}, found {names}: {why}. Stop it first."
