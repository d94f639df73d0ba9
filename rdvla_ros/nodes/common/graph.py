"""Who is on the other side of a topic, and whether the two sides can hear each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible


def node_names(publishers: Sequence[Any]) -> str:
    """A publisher is discovered before the name of its node."""
    names = {f"{p.node_namespace.rstrip('/')}/{p.node_name}" for p in publishers if "UNKNOWN" not in p.node_name}
    return ", ".join(sorted(names)) or "a node whose name is not known yet"


def alternating(topic: str, publishers: Sequence[Any], what: str = "images") -> str:
    """One sentence where a camera's, or sensor's, topic has several publishers (endpoint infos); else empty."""
    if len(publishers) < 2:
        return ""
    return (
        f"{topic}: expected one publisher, got {len(publishers)} ({node_names(publishers)}): decisions would alternate between "
        f"their {what}. Stop all but one. (One that was killed is listed for 20 s.)"
    )


def unheard(topic: str, publishers: Sequence[Any], listeners: Sequence[Any]) -> list[str]:
    """One sentence where publishers and listeners of a topic (endpoint infos, or a QoS profile of our own) all miss each other.

    DDS connects only what fits, and otherwise is silent.
    """
    pairs = [(_profile(p), _profile(s)) for p in publishers for s in listeners]
    checks = [qos_check_compatible(*pair) for pair in pairs]
    if not checks or any(result != QoSCompatibility.ERROR for result, _ in checks):
        return []
    others = [side for side in (*publishers, *listeners) if not isinstance(side, QoSProfile)]
    reason = checks[0][1].strip().rstrip(";.") or "its quality of service does not fit"
    return [f"{topic}: {node_names(others)} is not connected, by quality of service ({reason}). Change its QoS."]


def _profile(side: Any) -> QoSProfile:
    return side if isinstance(side, QoSProfile) else side.qos_profile
