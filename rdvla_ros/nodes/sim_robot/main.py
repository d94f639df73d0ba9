"""sim_robot_node: a bimanual robot in MuJoCo with the topics of a real one."""

from __future__ import annotations

from rclpy.node import Node

from rdvla_ros.nodes.common.run import leave, run


def make_node() -> Node:
    """Imported here, so that a missing simulator or GL library ends the process with one sentence and exit code 1."""
    from rdvla_ros.nodes.sim_robot.node import SimRobotNode

    return SimRobotNode()


def main(args: list[str] | None = None) -> None:
    leave(run(make_node, args))


if __name__ == "__main__":
    main()
