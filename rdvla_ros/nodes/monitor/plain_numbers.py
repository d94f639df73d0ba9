"""The numbers of each decision as plain std_msgs/Float32, for rqt_plot, PlotJuggler and others that know none of our messages."""

from __future__ import annotations

import math
from typing import Any

from rclpy.node import Node
from std_msgs.msg import Float32

from rdvla_ros.nodes.common import names, qos


class PlainNumbers:
    """monitor/plain/<name>, published only while somebody listens."""

    def __init__(self, node: Node):
        self._publishers = {
            name: node.create_publisher(Float32, topic, qos.RELIABLE) for name, topic in names.PLAIN_NUMBERS.items()
        }

    def send(self, decision: Any, window_score: float) -> None:
        """decision: a Convergence message."""
        finite = [change for change in decision.change if not math.isnan(change)]
        timings = dict(zip(decision.timing_names, decision.timings_s, strict=False))
        values = {
            "iterations": decision.iterations,
            "final_change": finite[-1] if finite else math.nan,
            "horizon": decision.horizon,
            "latency_s": timings.get("total", math.nan),
            "uncertainty": window_score,
        }
        for name, publisher in self._publishers.items():
            if publisher.get_subscription_count():
                publisher.publish(Float32(data=float32(values[name])))


def float32(value: float) -> float:
    """What a Float32 can hold: larger numbers become infinite instead of an exception."""
    return float(value) if not abs(value) > 3.4e38 else math.copysign(math.inf, value)
