"""From the messages of the policy to one assessment per decision: pairs a decision with its chunks, and judges it, by a
calibration where a matching one is there."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rdvla_ros.control.supervision.calibration import FILE, Calibration, CalibrationError, digest_of
from rdvla_ros.control.supervision.signals import Seen, SignalMeter
from rdvla_ros.control.supervision.uncertainty import Assessment, Settling, Threshold, UncertaintyMonitor
from rdvla_ros.msg import Convergence
from rdvla_ros.nodes.common import conversions
from rdvla_ros.robot import RobotDescription
from rdvla_ros.types import ObservationError, StopReason

KEPT = 8  # chunks of each arm that wait for their decision


def find_calibration(path: str, checkpoint: str, alpha: float) -> tuple[Calibration | None, str]:
    """The calibration for the checkpoint, or None and why not, in one sentence: the monitor lives on without one.

    path: empty for the file in the checkpoint's folder, which need not be there.
    """
    try:
        file = Path(path) if path else Path(checkpoint) / FILE
        if not path and not (checkpoint and file.is_file()):
            return None, f"Uncalibrated: {file if checkpoint else 'no checkpoint and no calibration are named'}, nothing there."
        if not checkpoint:
            raise CalibrationError(f"{file}: for which checkpoint is it? Set parameter checkpoint to the policy's folder.")
        found = Calibration.load(file, digest_of(checkpoint)).for_alpha(alpha)
    except CalibrationError as error:
        return None, f"Uncalibrated: {error}"
    runs = ", ".join(f"'{text}' from {known.n} runs" for text, known in found.instructions.items())
    return found, f"Calibrated on {found.date} for {alpha:.0%} false alarms: {runs}."


class Judge:
    """judged(assessment, decision, moving): called once for each decision, in order. moving: arm -> mean commanded speed."""

    def __init__(
        self,
        robot: RobotDescription,
        judged: Callable[[Assessment, Convergence, dict[str, float]], None],
        *,
        window: int,
        threshold: Threshold,
        default_threshold: float,
        calibration: Calibration | None,
        alpha: float,
    ):
        self._robot, self._judged = robot, judged
        self._monitor = UncertaintyMonitor(
            window=window, threshold=threshold, default_threshold=default_threshold, calibration=calibration, alpha=alpha
        )
        self._columns = dict(robot.arm_slices)
        self._meter = SignalMeter(self._columns)
        self._needs_chunks = calibration is not None
        self._chunks: dict[str, dict[int, np.ndarray]] = {arm.name: {} for arm in robot.arms}  # stamp [ns] -> (1 + H, J)
        self._waiting: Convergence | None = None

    def reset(self) -> None:
        """A person has looked: what was before does not count."""
        self._monitor.reset()
        self._meter.reset()

    def on_decision(self, message: Convergence) -> None:
        self.flush()  # its chunk did not come
        self._waiting = message
        if not self._needs_chunks or self._chunk(message) is not None:
            self.flush()

    def on_chunk(self, arm: Any, message: Any) -> None:
        """A JointTrajectory of names.chunk; ObservationError where it is none of this arm."""
        motion = conversions.trajectory(message)
        if tuple(motion.joint_names) != tuple(arm.joint_names) or len(motion.positions) < 2:
            raise ObservationError(
                f"Chunk of arm '{arm.name}': expected two or more points of {', '.join(arm.joint_names)}, got "
                f"{len(motion.positions)} of {', '.join(motion.joint_names) or 'nothing'}."
            )
        kept = self._chunks[arm.name]
        kept[_nanoseconds(message.header.stamp)] = motion.positions
        while len(kept) > KEPT:
            kept.pop(next(iter(kept)))
        if self._waiting is not None and self._chunk(self._waiting) is not None:
            self.flush()

    def flush(self) -> None:
        """Judge the decision that waits for its chunk as it is."""
        message, self._waiting = self._waiting, None
        if message is None:
            return
        chunk, moving = self._chunk(message), {}
        if not message.published:  # nothing of it is executed: the next one joins nothing
            self._meter.reset()
        if chunk is not None:
            speed = np.abs(np.diff(chunk, axis=0)).mean(axis=0) / max(message.step_s, 1e-6)
            moving = {name: float(speed[columns].mean()) for name, columns in self._columns.items()}
        with np.errstate(all="ignore"):
            signals = self._meter.add(_seen(message, chunk))
        self._judged(self._monitor.add(settling(message), signals, message.instruction), message, moving)

    def _chunk(self, message: Convergence) -> np.ndarray | None:
        """(1 + H, A) policy units: the measured joints and the rows; None until every arm's is there."""
        stamp = _nanoseconds(message.observation_stamp)
        parts = [self._chunks[arm.name].get(stamp) for arm in self._robot.arms]
        if any(part is None for part in parts) or len({len(part) for part in parts}) != 1:
            return None
        return self._robot.to_policy(np.concatenate(parts, axis=1))


def settling(message: Convergence) -> Settling:
    """A stop reason that this version does not know is treated as the worst one."""
    known = message.stop_reason in set(StopReason)
    return Settling(
        sequence=message.sequence,
        iterations=message.iterations,
        limit=message.limit,
        stop_reason=StopReason(message.stop_reason) if known else StopReason.NON_FINITE,
        converged=message.converged,
        threshold=message.threshold,
        change=tuple(message.change),
    )


def _seen(message: Convergence, chunk: np.ndarray | None) -> Seen:
    return Seen(
        stamp_s=conversions.seconds(message.observation_stamp),
        iterations=message.iterations,
        change=tuple(message.change),
        chunk=None if chunk is None else chunk[1:],
        step_s=message.step_s if message.step_s > 0.0 else math.nan,
        horizon=message.horizon,
        measured=None if chunk is None else chunk[0],
        spread=message.spread,
    )


def _nanoseconds(stamp: Any) -> int:
    return stamp.sec * conversions.NANOSECONDS + stamp.nanosec
