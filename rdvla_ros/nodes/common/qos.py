"""The qualities of service of this package, by name, and what is logged where two sides do not fit."""

from __future__ import annotations

from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

# A state: who joins late gets the newest message at once.
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)  # only the newest counts; best-effort subscribers hear it
RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
IMAGES = QoSProfile(depth=2, reliability=ReliabilityPolicy.RELIABLE)
HEARTBEAT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST)
# By default a service keeps the last 10 requests, and a caller whose request was pushed out by others waits for ever.
SERVICE = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)


def sensor(depth: int) -> QoSProfile:
    """Best effort hears best-effort and reliable publishers; a small depth keeps old data from queueing up."""
    return QoSProfile(reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST, depth=depth)


def log_mismatch(node: Node, topic: str) -> SubscriptionEventCallbacks:
    """For create_subscription(event_callbacks=...): without it, a publisher whose QoS does not fit is never heard, in silence."""

    def incompatible(event: Any) -> None:
        node.get_logger().error(
            f"{topic}: a publisher offers a quality of service that this subscription cannot use "
            f"(policy {event.last_policy_kind}, {event.total_count} so far). Nothing of it will be received; "
            "change the publisher's QoS."
        )

    return SubscriptionEventCallbacks(incompatible_qos=incompatible)
