"""What a trajectory must fulfil before it may reach a controller. Every refusal is one sentence: joint, expected, got."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rdvla_ros.control.motion import cubic
from rdvla_ros.robot import Joint, RobotDescription
from rdvla_ros.types import TrajectoryError, nearest_names

VELOCITY_EPSILON = 1e-7  # largest |velocity| of a last point that controllers take for zero (float32 epsilon)
POSITION_MARGIN = 0.02  # share of a joint's range by which a position may lie outside: measured grippers rest a little beyond
LONGEST_S = 60.0  # no decision moves for longer; a larger time is a unit error


@dataclass(frozen=True)
class JointLimits:
    """Limits of J joints in controller units; all arrays (J,)."""

    names: tuple[str, ...]
    lower: np.ndarray
    upper: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    jerk: np.ndarray

    @classmethod
    def of_joints(cls, joints: Iterable[Joint]) -> JointLimits:
        joints = tuple(joints)
        fields = ("lower", "upper", "velocity", "acceleration", "jerk")
        arrays = {field: np.array([getattr(joint, field) for joint in joints], dtype=np.float64) for field in fields}
        return cls(names=tuple(joint.name for joint in joints), **arrays)

    @classmethod
    def of_robot(cls, robot: RobotDescription) -> JointLimits:
        return cls.of_joints(robot.joints)

    def select(self, joints: Sequence[int]) -> JointLimits:
        """Of some joints, by index."""
        arrays = {field: getattr(self, field)[joints] for field in ("lower", "upper", "velocity", "acceleration", "jerk")}
        return JointLimits(names=tuple(self.names[j] for j in joints), **arrays)

    @property
    def range(self) -> np.ndarray:
        """(J,) distance between the position limits."""
        return self.upper - self.lower

    def span(self, joint: int) -> str:
        """The position limits of one joint, for messages."""
        return f"{self.lower[joint]:.4g} .. {self.upper[joint]:.4g}"

    def clip(self, positions: np.ndarray) -> np.ndarray:
        """Nearest positions inside the limits; NaN stays NaN, so look for it first."""
        return np.clip(positions, self.lower, self.upper)


@dataclass(frozen=True)
class Tolerances:
    """How far a checked trajectory may exceed a limit, as a share of it (numerical noise and rounding of the message)."""

    position: float = POSITION_MARGIN  # share of the joint's range
    velocity: float = 0.05
    acceleration: float | None = 0.05  # None: it is not looked at
    jerk: float | None = None


def joint_order(names: Sequence[str], limits: JointLimits) -> np.ndarray:
    """(J,) column of the message for each joint of `limits`; refuses missing, unknown and repeated names."""
    for name in names:
        if name not in limits.names:
            raise TrajectoryError(f"Joint '{name}' is not expected here. {nearest_names(name, limits.names)}")
        if list(names).count(name) > 1:
            raise TrajectoryError(f"Joint '{name}' stands {list(names).count(name)} times, expected once.")
    missing = [name for name in limits.names if name not in names]
    if missing:
        raise TrajectoryError(f"Joint '{missing[0]}' is missing: expected {len(limits.names)} joints, got {len(names)}.")
    return np.array([list(names).index(name) for name in limits.names])


def check_trajectory(
    names: Sequence[str],
    times_s: np.ndarray,
    positions: np.ndarray,
    velocities: np.ndarray,
    limits: JointLimits,
    *,
    tolerances: Tolerances = Tolerances(),
) -> np.ndarray:
    """Refuse (TrajectoryError) what may not be sent; returns the columns (J,) that bring the arrays into the limits' order.

    times_s (N,) from the message's time base; positions, velocities (N, J) in the order of `names`.
    """
    order = joint_order(names, limits)
    times_s, positions, velocities = (np.asarray(x, dtype=np.float64) for x in (times_s, positions, velocities))
    _check_shapes(times_s, positions, velocities, len(names))
    positions, velocities = positions[:, order], velocities[:, order]
    _check_finite(times_s, positions, velocities, limits)
    _check_times(times_s)
    moving = np.abs(velocities[-1]) > VELOCITY_EPSILON
    if moving.any():
        joint = int(np.argmax(moving))
        raise TrajectoryError(
            f"The trajectory does not end at rest: joint '{limits.names[joint]}' has velocity {velocities[-1, joint]:.4g} in its "
            "last point, expected 0."
        )
    _check_peaks(cubic.peaks(times_s, positions, velocities), limits, tolerances)
    return order


def _check_shapes(times_s: np.ndarray, positions: np.ndarray, velocities: np.ndarray, joints: int) -> None:
    if times_s.ndim != 1 or len(times_s) < 2:
        raise TrajectoryError(f"Expected at least 2 points (a motion and its end at rest), got {times_s.size}.")
    for what, array in (("positions", positions), ("velocities", velocities)):
        if array.shape != (len(times_s), joints):
            raise TrajectoryError(
                f"Expected {what} for {len(times_s)} points x {joints} joints, got {' x '.join(map(str, array.shape)) or 'none'}."
            )


def _check_finite(times_s: np.ndarray, positions: np.ndarray, velocities: np.ndarray, limits: JointLimits) -> None:
    if not np.isfinite(times_s).all():
        raise TrajectoryError("A point's time is not finite.")
    for what, array in (("position", positions), ("velocity", velocities)):
        bad = ~np.isfinite(array)
        if bad.any():
            point, joint = (int(i[0]) for i in np.nonzero(bad))
            raise TrajectoryError(
                f"Joint '{limits.names[joint]}': {what} of point {point} is {array[point, joint]}, expected a finite number."
            )


def _check_times(times_s: np.ndarray) -> None:
    if times_s[0] < 0.0:
        raise TrajectoryError(f"The first point lies at {times_s[0]:.4g} s, expected at 0 or later.")
    steps = np.diff(times_s)
    if (steps <= 0.0).any():
        point = int(np.argmax(steps <= 0.0))
        raise TrajectoryError(
            f"Times must increase: point {point} lies at {times_s[point]:.4g} s, point {point + 1} at {times_s[point + 1]:.4g} s."
        )
    if times_s[-1] > LONGEST_S:
        raise TrajectoryError(f"The last point lies at {times_s[-1]:.4g} s, expected at most {LONGEST_S:g} s.")


def _check_peaks(peaks: dict[str, np.ndarray], limits: JointLimits, tolerances: Tolerances) -> None:
    margin = tolerances.position * limits.range
    for joint, name in enumerate(limits.names):
        for value in (peaks["lower"][joint], peaks["upper"][joint]):
            if not limits.lower[joint] - margin[joint] <= value <= limits.upper[joint] + margin[joint]:
                raise TrajectoryError(f"Joint '{name}' would go to {value:.4g}, expected within {limits.span(joint)}.")
        for what in ("velocity", "acceleration", "jerk"):
            tolerance = getattr(tolerances, what)
            limit, value = getattr(limits, what)[joint], peaks[what][joint]
            if tolerance is not None and not value <= limit * (1.0 + tolerance):
                raise TrajectoryError(f"Joint '{name}' would reach {what} {value:.4g}, expected at most {limit:.4g}.")


def check_continuity(
    position: np.ndarray,
    velocity: np.ndarray,
    reference_position: np.ndarray,
    reference_velocity: np.ndarray,
    limits: JointLimits,
    *,
    within_s: float = 0.05,
) -> None:
    """Refuse a first point (J,) that the motion now being followed does not lead to.

    The gap may be what `within_s` of the joint's largest speed covers, and the step in velocity what `within_s` of its
    largest acceleration covers.
    """
    gap, step = np.abs(position - reference_position), np.abs(velocity - reference_velocity)
    for joint, name in enumerate(limits.names):
        if not gap[joint] <= within_s * limits.velocity[joint]:
            raise TrajectoryError(
                f"Joint '{name}' would jump: the first point is at {position[joint]:.4g}, the motion being followed at "
                f"{reference_position[joint]:.4g}, expected at most {within_s * limits.velocity[joint]:.4g} apart."
            )
        if not step[joint] <= within_s * limits.acceleration[joint]:
            raise TrajectoryError(
                f"Joint '{name}' would jerk: the first point has velocity {velocity[joint]:.4g}, the motion being followed "
                f"{reference_velocity[joint]:.4g}, expected at most {within_s * limits.acceleration[joint]:.4g} apart."
            )


def check_ramp(
    duration_s: float,
    positions: np.ndarray,
    velocities: np.ndarray,
    limits: JointLimits,
    *,
    tolerances: Tolerances = Tolerances(),
    slack_s: float = 0.0,
) -> None:
    """Refuse a way to the first point that a controller could only go beyond the limits; positions, velocities (2, J).

    slack_s: the positions may be off by what the joints' largest speed covers in this time.
    """
    peaks = cubic.peaks(np.array([0.0, duration_s]), positions, velocities)
    slack = slack_s * limits.velocity
    for power, what, factor in ((1, "velocity", 1.5), (2, "acceleration", 6.0), (3, "jerk", 12.0)):
        tolerance, limit = getattr(tolerances, what), getattr(limits, what)
        if tolerance is None:
            continue
        over = ~(peaks[what] <= limit * (1.0 + tolerance) + factor * slack / duration_s**power)  # of a cubic that is off by slack
        if over.any():
            joint = int(np.argmax(over))
            raise TrajectoryError(
                f"Joint '{limits.names[joint]}' would jump: from where it is at {positions[0, joint]:.4g} to the first point at "
                f"{positions[1, joint]:.4g} in {duration_s:.4g} s it would reach {what} {peaks[what][joint]:.4g}, "
                f"expected at most {limit[joint]:.4g}."
            )
