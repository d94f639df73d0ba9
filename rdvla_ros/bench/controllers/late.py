"""Between the policy and the gate: every motion comes late, by a random time, as over a network that stalls."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial

import numpy as np
from rclpy.node import Node
from trajectory_msgs.msg import JointTrajectory

from rdvla_ros.bench.controllers.states import nanoseconds
from rdvla_ros.nodes.common import names

LATE_S = (0.02, 0.2)
PREFIX = "late"  # of the topics on which the policy publishes meanwhile


def remappings(arms: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Of the policy."""
    return tuple((names.motions(names.POLICY, arm), names.motions(PREFIX, arm)) for arm in arms)


class LateMotions:
    """Both arms' parts of a motion are late by the same. node: one that somebody spins; seed: of the times."""

    def __init__(self, node: Node, arms: Sequence[str], seed: int):
        self._node, self._random, self._late_s = node, np.random.default_rng(seed), {}
        self._outputs = {arm: node.create_publisher(JointTrajectory, names.motions(names.POLICY, arm), 10) for arm in arms}
        self._inputs = [
            node.create_subscription(JointTrajectory, names.motions(PREFIX, arm), partial(self._on_motion, arm), 10)
            for arm in arms
        ]
        self.passed: set[int] = set()
        self._timers: list[threading.Timer] = []

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        for subscription in self._inputs:
            self._node.destroy_subscription(subscription)
        for output in self._outputs.values():
            self._node.destroy_publisher(output)

    def _on_motion(self, arm: str, message: JointTrajectory) -> None:
        stamp = nanoseconds(message.header.stamp)
        late_s = self._late_s.setdefault(stamp, float(self._random.uniform(*LATE_S)))
        self.passed.add(stamp)
        timer = threading.Timer(late_s, self._outputs[arm].publish, (message,))
        timer.daemon = True
        self._timers = [*(other for other in self._timers if other.is_alive()), timer]
        timer.start()
