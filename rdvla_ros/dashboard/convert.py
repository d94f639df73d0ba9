"""From messages to the model's values. Nothing here keeps state or reads a clock; nothing in a message can make it raise."""

from __future__ import annotations

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from rdvla_ros.dashboard.model import LONGEST_TRACE, Chunk, Decision, Gate, Uncertainty, clean
from rdvla_ros.msg import Convergence, GateStatus
from rdvla_ros.msg import Uncertainty as UncertaintyMessage
from rdvla_ros.nodes.common import conversions
from rdvla_ros.robot import Arm

OURS = "rdvla: "  # begins the names of the monitor's diagnostics
MOST_TEXTS = 20
LONGEST_CHUNK = 500  # points


def gate(message: GateStatus) -> Gate:
    since_s, sent_s = conversions.seconds(message.since), conversions.seconds(message.header.stamp)
    return Gate(
        mode=message.mode,
        hold_id=message.hold_id,
        reason=clean(message.reason).rstrip("."),
        who=clean(message.who, 80),
        since_ros_s=since_s,
        for_s=sent_s - since_s if since_s > 0.0 and sent_s >= since_s else None,
        passed=message.passed,
        refused=message.refused,
        last_refusal=clean(message.last_refusal),
        causes=tuple(clean(cause) for cause in message.causes[:MOST_TEXTS]),
        taken_over=tuple(clean(arm, 80) for arm in message.taken_over[:MOST_TEXTS]),
        exceptions=message.exceptions,
    )


def decision(now_s: float, message: Convergence) -> Decision:
    return Decision(
        at_s=now_s,
        sequence=message.sequence,
        iterations=message.iterations,
        limit=message.limit,
        stop_reason=message.stop_reason,
        converged=message.converged,
        threshold=message.threshold,
        change=tuple(message.change[:LONGEST_TRACE]),
        horizon=message.horizon,
        chunk_length=message.chunk_length,
        step_s=message.step_s,
        published=message.published,
        note=clean(message.note),
        doubts=tuple(clean(doubt) for doubt in message.doubts[:MOST_TEXTS]),
        instruction=clean(message.instruction, 512),
        timings={
            clean(name, 40): float(value)
            for name, value in zip(message.timing_names[:MOST_TEXTS], message.timings_s[:MOST_TEXTS], strict=False)
        },
    )


def uncertainty(now_s: float, message: UncertaintyMessage) -> Uncertainty:
    return Uncertainty(
        at_s=now_s,
        sequence=message.sequence,
        score=message.score,
        window_score=message.window_score,
        alarm_threshold=message.alarm_threshold,
        alarm=message.alarm,
        calibrated=message.calibrated,
        reason=clean(message.reason),
    )


def parts(message: DiagnosticArray) -> dict[str, tuple[int, str]]:
    """Ours only: others publish on /diagnostics too. Empty where there is none of ours."""
    ours = [status for status in message.status if status.name.startswith(OURS)]
    return {clean(s.name.removeprefix(OURS), 80): (int.from_bytes(s.level, "little"), clean(s.message)) for s in ours}


def positions(message: JointState, arm: Arm, known: dict[str, float]) -> np.ndarray | None:
    """(J,) in the arm's order, controller units; None where nothing of the arm comes, or not all of it has come yet.

    known: joint -> newest position, kept by the caller: an arm and its gripper may come in messages of their own.
    """
    mine = [(name, value) for name, value in zip(message.name, message.position, strict=False) if name in arm.joint_names]
    known.update(mine)
    if not mine or len(known) < len(arm.joint_names):
        return None
    return np.array([known[name] for name in arm.joint_names], dtype=np.float64)


def chunk(message: JointTrajectory, arm: Arm) -> Chunk | None:
    """What the policy wants of the arm; None where the message is not of this arm or not a motion."""
    if any(name not in message.joint_names for name in arm.joint_names):
        return None
    order, count = [list(message.joint_names).index(name) for name in arm.joint_names], len(message.joint_names)
    points = [point for point in message.points[:LONGEST_CHUNK] if len(point.positions) == count]
    if not points:
        return None
    begin_s = conversions.seconds(message.header.stamp)
    times_s = np.array([begin_s + conversions.seconds(point.time_from_start) for point in points])
    values = np.array([point.positions for point in points], dtype=np.float64)[:, order]
    return Chunk(times_s, values) if np.isfinite(values).all() else None
