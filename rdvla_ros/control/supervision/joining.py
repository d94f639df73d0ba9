"""How a motion that passes the gate leaves what its arm follows: it repeats the running motion, or is made to.

One arm; J joints in controller units, times in seconds on the ROS clock. control/motion/handover says why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from rdvla_ros.control.motion import cubic
from rdvla_ros.control.motion.handover import APART_S, Handover
from rdvla_ros.control.motion.limits import JointLimits, Tolerances, check_ramp
from rdvla_ros.control.motion.trajectory import Reference, Trajectory
from rdvla_ros.types import TrajectoryError

STEP = 0.02  # share of what the acceleration, or the jerk, covers in a period by which a motion may be off the running one; the
# plan keeps more than that in reserve
RAMPS, LONG_RAMPS = 4, 12  # points of the new motion that are tried as the end of the way to it


@dataclass(frozen=True)
class Path:
    """An arm's state at a time, and when the points of the motion that it follows are due.

    known: it is what the controller commands; otherwise only where the joints are about. sent: it is what was sent to it.
    """

    at: Callable[[float], Reference]
    points_s: tuple[float, ...] = ()
    known: bool = True
    sent: bool = False


def repeats(
    motion: Trajectory, stamp_s: float, path: Path, limits: JointLimits, from_s: float, until_s: float, period_s: float
) -> bool:
    """Whether the motion is the running one from from_s to until_s: a controller that takes it there makes no step of it."""
    if not path.known or stamp_s + motion.times_s[0] > from_s:
        return False
    for at_s in np.linspace(from_s, until_s, 3):
        new, running = motion.at(at_s - stamp_s), path.at(at_s)
        off = np.abs(new.acceleration - running.acceleration) > STEP * limits.jerk * period_s
        off |= np.abs(new.velocity - running.velocity) > STEP * limits.acceleration * period_s
        off |= np.abs(new.position - running.position) > STEP * limits.acceleration * period_s**2
        if off.any():
            return False
    return True


def repeated(motion: Trajectory, path: Path, over: Handover) -> Trajectory:
    """A motion whose times count from over.send_s as it goes out: from over.stamp_s, after the running one where it is known."""
    if path.known:
        return over.message(motion, [path.at(at_s) for at_s in over.history_s])
    return over.without_history().message(replace(motion, before=path.at(over.send_s)), [])


def rejoin(
    motion: Trajectory,
    stamp_s: float,
    path: Path,
    over: Handover,
    limits: JointLimits,
    tolerances: Tolerances,
    *,
    smooth_s: float | None = None,
    slack_s: float = 0.0,
) -> Trajectory:
    """The motion from where one cubic leads to it from the running one; TrajectoryError where that would not be legal.

    The running motion is left at over.switch_s; where it is not known, the controller goes to the first point by itself, from
    now on. It leads to the first of the motion's points that it can reach inside the limits. smooth_s: the period of the
    controllers, where the acceleration may not step at the ends of the cubic. slack_s: what the first point may be off (see
    `check_ramp`); a later point then makes the cubic legal.
    """
    due_s = stamp_s + motion.times_s - over.send_s
    ahead = np.flatnonzero(due_s >= over.lead_s + (APART_S if path.known else 0.0))
    if not len(ahead):
        raise TrajectoryError("The motion came when all of its points were past.")
    leaves_s = over.lead_s if path.known else 0.0
    leaves, problem = path.at(over.send_s + leaves_s), None
    for first in ahead[: LONG_RAMPS if smooth_s is None else RAMPS]:
        positions = np.concatenate([leaves.position[None], motion.positions[first:]])
        velocities = np.concatenate([leaves.velocity[None], motion.velocities[first:]])
        times_s = np.concatenate([[leaves_s], due_s[first:]])
        ramp = times_s[1] - times_s[0], positions[:2], velocities[:2], limits
        if slack_s and first == ahead[0]:
            check_ramp(*ramp, tolerances=tolerances, slack_s=slack_s)
        try:
            check_ramp(*ramp, tolerances=tolerances)
            if smooth_s is not None:
                _check_smooth(times_s, positions, velocities, leaves, limits, smooth_s)
        except TrajectoryError as error:
            problem = problem or error
            continue
        kept = slice(0 if path.known else 1, None)
        return repeated(Trajectory(motion.joint_names, times_s[kept], positions[kept], velocities[kept]), path, over)
    raise problem


def _check_smooth(
    times_s: np.ndarray, positions: np.ndarray, velocities: np.ndarray, leaves: Reference, limits: JointLimits, smooth_s: float
) -> None:
    few = slice(0, 3)
    begins, jerk = cubic.coefficients(times_s[few], positions[few], velocities[few])
    steps = [begins[0] - leaves.acceleration]
    if len(begins) > 1:
        steps.append(begins[1] - (begins[0] + jerk[0] * (times_s[1] - times_s[0])))
    over = np.abs(steps).max(axis=0) > STEP * limits.jerk * smooth_s
    if over.any():
        joint = int(np.argmax(over))
        raise TrajectoryError(
            f"Joint '{limits.names[joint]}' would jerk: its acceleration would change by {np.abs(steps).max(axis=0)[joint]:.3g} "
            f"at once, expected at most {STEP * limits.jerk[joint] * smooth_s:.3g}."
        )
