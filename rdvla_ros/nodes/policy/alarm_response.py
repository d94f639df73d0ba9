"""What the policy does during an alarm of the monitor: execute less of each chunk, or think longer.

The rules and their debounce are control/supervision/interventions.py; holding and asking is the monitor's.
"""

from __future__ import annotations

import math
import time
from functools import partial

from rclpy.node import Node

from rdvla_ros.control.supervision.interventions import AlarmState, make_intervention
from rdvla_ros.control.supervision.uncertainty import Assessment, Threshold
from rdvla_ros.msg import Uncertainty
from rdvla_ros.nodes.common import conversions, names, qos
from rdvla_ros.nodes.common.guard import Guard

STALE_S = 3.0  # an alarm of which nothing has been heard for this time is over: the monitor may be gone


class AlarmResponse:
    """do: name of an intervention. begin_after: decisions in a row with an alarm until it counts. Hears the monitor from its
    construction on."""

    def __init__(self, node: Node, do: str, begin_after: int, guard: Guard):
        self._state, self._guard = AlarmState(make_intervention({"do": do, "begin_after": begin_after})), guard
        self._heard_s = -math.inf
        subscription = node.create_subscription(Uncertainty, names.MONITOR_UNCERTAINTY, guard.wrap(self._hear), qos.RELIABLE)
        self.destroy = partial(node.destroy_subscription, subscription)

    def _hear(self, message: Uncertainty) -> None:
        if not message.alarm_threshold > 0.0 or math.isnan(message.window_score):
            return  # says nothing; the recorder keeps it
        self._heard_s = time.monotonic()
        threshold = Threshold(message.alarm_threshold, message.calibrated)
        judged = Assessment(
            message.sequence, message.score, message.window_score, message.window, threshold, message.alarm, message.reason
        )
        if self._state.see(judged, conversions.seconds(message.header.stamp), "") and self._state.rule.name != "warn":
            self._guard.report("alarm", f"The monitor's alarm: {self._state.rule.name} until it is over.")

    def reset(self) -> None:
        """A resume, another instruction: an alarm of before does not count."""
        self._state.reset()

    @property
    def _active(self) -> bool:
        return self._state.active is not None and time.monotonic() - self._heard_s < STALE_S

    def horizon(self, steps: int) -> int:
        """Rows of a chunk to execute now, of those that the horizon rule says."""
        return self._state.rule.horizon(steps) if self._active else steps

    def factor(self) -> int:
        """How many times as many iterations as usual the next decision may make."""
        return self._state.rule.limit(1) if self._active else 1
