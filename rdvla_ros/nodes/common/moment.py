"""Now, on both clocks that a node lives by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Moment:
    """Now, on the clock that never jumps (for ages by receive time) and on the ROS clock (for ages by stamp)."""

    steady_s: float
    ros_s: float
