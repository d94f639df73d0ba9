"""What the monitor says on /diagnostics: one DiagnosticStatus per part of the system, from what was last heard of it.

Ages and rates come from the steady clock, so a stopped or stepped ROS clock cannot hide a silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from rdvla_ros.control.supervision.modes import mode_name
from rdvla_ros.control.supervision.uncertainty import Assessment
from rdvla_ros.control.supervision.watchdog import RateMeter
from rdvla_ros.msg import Convergence, GateStatus
from rdvla_ros.nodes.common import conversions
from rdvla_ros.robot import Camera
from rdvla_ros.types import StopReason

OK, WARN, ERROR, STALE = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR, DiagnosticStatus.STALE


@dataclass
class Heard:
    """The last message of one kind and how often it comes."""

    message: Any = None
    meter: RateMeter = field(default_factory=RateMeter)

    def hear(self, message: Any, now_s: float) -> None:
        self.message = message
        self.meter.tick(now_s)

    def silent(self, now_s: float, stale_s: float) -> bool:
        return self.meter.age_s(now_s) > stale_s

    def rates(self, now_s: float) -> dict[str, str]:
        return {"rate_hz": f"{self.meter.hz(now_s):.2f}", "age_s": f"{self.meter.age_s(now_s):.3f}"}


def policy_status(
    heard: Heard, assessment: Assessment | None, gate: Heard, now_s: float, stale_s: float, calibration: str = ""
) -> DiagnosticStatus:
    """Decisions: how long they take, how old their pictures are, how they settled. While the gate holds none need come.
    calibration: what there is of it, in words."""
    message: Convergence | None = heard.message
    held = gate.message is not None and gate.message.mode != GateStatus.AUTO
    if message is None or heard.silent(now_s, stale_s):
        if held:
            return _status("policy", OK, f"No decisions while the gate is in {mode_name(gate.message.mode)}.", heard.rates(now_s))
        return _status("policy", STALE, f"No decision within {stale_s:g} s.", heard.rates(now_s))
    timings = dict(zip(message.timing_names, message.timings_s, strict=False))
    observation_age_s = conversions.seconds(message.header.stamp) - conversions.seconds(message.observation_stamp)
    values = {
        "sequence": message.sequence,
        "iterations": message.iterations,
        "limit": message.limit,
        "stop_reason": _stop_reason(message.stop_reason),
        "horizon": message.horizon,
        "latency_s": f"{timings.get('total', float('nan')):.4f}",
        "observation_age_s": f"{observation_age_s:.4f}",
        "published": message.published,
        **{f"{name}_s": f"{value:.4f}" for name, value in timings.items() if name != "total"},
        **heard.rates(now_s),
    }
    if assessment is not None:
        values |= {
            "uncertainty": f"{assessment.window_score:.3f}",
            "alarm": assessment.alarm,
            "calibrated": assessment.threshold.calibrated,
            "calibration": calibration,
        }
    if message.stop_reason in (StopReason.NON_FINITE, StopReason.DIVERGED):
        return _status("policy", ERROR, f"The last decision may not be used: {values['stop_reason']}.", values)
    if assessment is not None and assessment.alarm:
        return _status("policy", WARN, assessment.reason, values)
    if not message.published and not held:
        return _status("policy", WARN, f"The last decision was not published: {message.note}", values)
    if message.doubts:
        return _status("policy", WARN, f"In doubt: {'; '.join(message.doubts)}.", values)
    return _status("policy", OK, f"{message.iterations} iterations, horizon {message.horizon}.", values)


def gate_status(heard: Heard, now_s: float, stale_s: float) -> DiagnosticStatus:
    message: GateStatus | None = heard.message
    if message is None or heard.silent(now_s, stale_s):
        return _status("gate", STALE, f"No status within {stale_s:g} s.", heard.rates(now_s))
    mode = mode_name(message.mode)
    values = {
        "mode": mode,
        "hold_id": message.hold_id,
        "who": message.who,
        "passed": message.passed,
        "refused": message.refused,
        "last_refusal": message.last_refusal,
        **{f"cause_{i}": cause for i, cause in enumerate(message.causes)},
        **heard.rates(now_s),
    }
    stopped = message.mode in (GateStatus.HOLD, GateStatus.PAUSE)
    level = ERROR if message.causes else WARN if stopped else OK
    return _status("gate", level, f"{mode}: {message.reason}.", values)


def controller_status(arm: str, heard: Heard, rejected_before: int, now_s: float, stale_s: float) -> DiagnosticStatus:
    """One arm's controller. Rejections are counted where the message has them; ros2_control's own has not."""
    name = f"controller {arm}"
    if heard.message is None or heard.silent(now_s, stale_s):
        return _status(name, STALE, f"No controller state within {stale_s:g} s.", heard.rates(now_s))
    message, values = heard.message, heard.rates(now_s)
    errors = np.abs(np.array(message.error.positions)) if len(message.error.positions) else np.array([np.nan])
    values["largest_error"] = f"{errors.max():.4f}"
    if not hasattr(message, "rejected"):
        return _status(name, OK, f"Largest error {errors.max():.4f}.", values)
    values |= {"accepted": message.accepted, "rejected": message.rejected, "last_rejection": message.last_rejection}
    if message.rejected > rejected_before:
        return _status(
            name, ERROR, f"Rejected {message.rejected - rejected_before} trajectories: {message.last_rejection}", values
        )
    return _status(name, OK, f"Largest error {errors.max():.4f}.", values)


def camera_status(
    camera: Camera,
    heard: Heard,
    publishers: tuple[int, int],
    expected_hz: float,
    now_s: float,
    stale_s: float,
    alternating: str = "",
) -> DiagnosticStatus:
    """From camera_info, which comes with every picture and is small; a driver that has none is only looked for.

    publishers: how many there are of (the images, camera_info). alternating: a sentence where there are several of the images.
    """
    name = f"camera {camera.name}"
    images, infos = publishers
    if alternating:
        return _status(name, ERROR, alternating, heard.rates(now_s))
    if images == 0:
        return _status(name, WARN, f"Nothing publishes {camera.topic}. Is the camera's driver running?", heard.rates(now_s))
    if heard.message is None and infos == 0:
        return _status(name, OK, f"{camera.topic} has a publisher without camera_info: its rate is not known.", {})
    return _stream_status(name, camera.topic, heard, expected_hz, now_s, stale_s)


def joints_status(
    topic: str, heard: Heard, publishers: int, expected_hz: float, now_s: float, stale_s: float
) -> DiagnosticStatus:
    """Whether joint states come, and how often. What is in them is judged by the gate, whose causes name what it refuses."""
    name = f"joint states {topic}"
    if publishers == 0:
        return _status(name, WARN, f"Nothing publishes {topic}. Is the joint state broadcaster running?", heard.rates(now_s))
    return _stream_status(name, topic, heard, expected_hz, now_s, stale_s)


def _stream_status(name: str, topic: str, heard: Heard, expected_hz: float, now_s: float, stale_s: float) -> DiagnosticStatus:
    if heard.message is None:
        return _status(name, WARN, f"{topic} has a publisher, and nothing has come.", heard.rates(now_s))
    if heard.silent(now_s, stale_s):
        return _status(name, STALE, f"Silent for {heard.meter.age_s(now_s):.1f} s.", heard.rates(now_s))
    hz = heard.meter.hz(now_s)
    level = WARN if hz < 0.7 * expected_hz else OK
    return _status(name, level, f"{hz:.1f} Hz, expected {expected_hz:g} Hz.", heard.rates(now_s))


def _stop_reason(value: int) -> str:
    return StopReason(value).name if value in set(StopReason) else f"unknown {value}"


def _status(name: str, level: bytes, message: str, values: Mapping[str, Any]) -> DiagnosticStatus:
    """Text that came from outside is cleaned: it ends up in logs and terminals."""
    return DiagnosticStatus(
        level=level,
        name=f"rdvla: {name}",
        message=conversions.printable(message),
        values=[KeyValue(key=str(key), value=conversions.printable(str(value))) for key, value in values.items()],
    )
