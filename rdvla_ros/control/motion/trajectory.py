"""From an action chunk to the motion that goes on the wire: continuous, inside the limits, and ending at rest by itself.

N points, J joints (all arms together: one common time base), H rows of a chunk. Positions are in controller units. Times
count from the trajectory's time base, which is the header.stamp of its messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from rdvla_ros.control.motion import cubic, fit
from rdvla_ros.control.motion.limits import POSITION_MARGIN, JointLimits, Tolerances, check_trajectory
from rdvla_ros.types import InfeasibleError, TrajectoryError

EXACT = Tolerances(position=0.0, velocity=0.0, acceleration=0.0, jerk=0.0)  # the fit keeps a reserve
LONGEST_MOTION_S = 3.0  # nothing longer goes on the wire at once: what was decided long ago is not followed
TOUCH = 1e-5  # share of its range by which a joint that rests on a limit may leave it: the fit's own rounding
BEHIND_S = 0.2  # over so much of a chunk's end its last velocity is taken: one row alone would be noisy
SLOWER = 1.35  # factor on the distances of the rows where the chunk is too fast
DELAYS_S, AT_REST = (0.05, 0.1, 0.2, 0.3), 1e-3  # of all rows, before they are slowed down; [unit/s] below which a joint rests
LONGEST_STOP_S = 0.5  # every motion on the wire is at rest this long after its last executed row


@dataclass(frozen=True)
class Reference:
    """What a controller commands at one moment; each (J,), acceleration included so that motions join without a jolt."""

    position: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray

    def with_joints(self, which: np.ndarray, other: Reference) -> Reference:
        """This state, but the other one for the joints that are marked (J,)."""
        return Reference(*(np.where(which, theirs, own) for own, theirs in zip(_fields(self), _fields(other), strict=True)))

    @classmethod
    def at_rest(cls, position: np.ndarray) -> Reference:
        position = np.asarray(position, dtype=np.float64)
        return cls(position, np.zeros_like(position), np.zeros_like(position))


def _fields(state: Reference) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return state.position, state.velocity, state.acceleration


@dataclass(frozen=True)
class Trajectory:
    """Points of a JointTrajectory: times_s (N,) increasing, from the time base, positions and velocities (N, J).

    before: where the first point lies ahead, the state at before_s (from the time base) from which the controller moves to it;
    None: the motion begins with its first point.
    """

    joint_names: tuple[str, ...]
    times_s: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray
    before: Reference | None = None
    before_s: float = 0.0

    @property
    def duration_s(self) -> float:
        return float(self.times_s[-1])

    def sample(self, times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Position, velocity and acceleration (M, J) at the times (M,); after the end the last position at rest."""
        times_s = np.asarray(times_s, dtype=np.float64)
        knots, positions, velocities = self.times_s, self.positions, self.velocities
        if self.before is not None:
            knots = np.concatenate([[self.before_s], knots])
            positions = np.concatenate([self.before.position[None], positions])
            velocities = np.concatenate([self.before.velocity[None], velocities])
        position, velocity, acceleration = cubic.sample(knots, positions, velocities, times_s)
        over = times_s >= knots[-1]
        velocity[over], acceleration[over] = 0.0, 0.0
        return position, velocity, acceleration

    def at(self, time_s: float) -> Reference:
        return Reference(*(x[0] for x in self.sample(np.array([time_s]))))

    def preceded_by(self, times_s: Sequence[float], states: Sequence[Reference]) -> Trajectory:
        """The same motion with points of the one that it leaves before its own."""
        if not len(times_s):
            return self
        positions, velocities = (np.stack([getattr(s, field) for s in states]) for field in ("position", "velocity"))
        return replace(
            self,
            times_s=np.concatenate([np.round(times_s, 6), self.times_s]),
            positions=np.concatenate([positions, self.positions]),
            velocities=np.concatenate([velocities, self.velocities]),
        )

    def delayed(self, by_s: float) -> Trajectory:
        """The same motion from a time base that lies so much earlier."""
        return replace(self, times_s=np.round(self.times_s + by_s, 6), before_s=self.before_s + by_s)

    def select(self, joint_names: Sequence[str]) -> Trajectory:
        """The same motion for some of the joints: one arm's part of it."""
        columns = [self.joint_names.index(name) for name in joint_names]
        before = self.before and Reference(*(getattr(self.before, f)[columns] for f in ("position", "velocity", "acceleration")))
        points = self.times_s, self.positions[:, columns], self.velocities[:, columns]
        return Trajectory(tuple(joint_names), *points, before, self.before_s)


@dataclass(frozen=True)
class PlanOptions:
    """How a chunk is followed.

    stop_s: duration of the stop after the last executed row. knot_s: least distance between two points, where there is room:
    a new motion takes over at a point, and has to reach the controllers between two of them.
    smoothing: weight [s^6] of the squared jerk against the squared distance to the rows.
    reach_s: the first row may be as far as the joint's largest speed takes it in this time.
    catch_up_s: rows due within this time of the start are followed as well as the limits allow: the gap to the chunk closes.
    lag_s: a later executed row may be missed by as much as the joint's largest speed covers in this time.
    may_lag: joints (grippers) for which none of this holds: they follow as fast as their limits allow, and nobody waits for them.
    longest_stretch: rows may be spread over up to so many times their time before the chunk is refused.
    longest_s: a motion that would last longer is not planned; the gate would not pass it.
    position_margin: share of a joint's range by which a row may lie outside the limits; it is moved onto the limit.
    """

    stop_s: float = LONGEST_STOP_S
    knot_s: float = 0.06
    smoothing: float = 1e-7
    reach_s: float = 0.3
    catch_up_s: float = 0.25
    lag_s: float = 0.03
    may_lag: tuple[str, ...] = ()
    longest_stretch: float = 3.0
    longest_s: float = LONGEST_MOTION_S
    position_margin: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 < self.stop_s <= LONGEST_STOP_S:
            raise TrajectoryError(f"stop_s: expected above 0 and at most {LONGEST_STOP_S:g} s, got {self.stop_s:g}.")


def plan(
    targets: np.ndarray,
    *,
    step_s: float,
    elapsed_s: float,
    horizon: int,
    start: Reference,
    limits: JointLimits,
    lead_s: float = 0.04,
    now: Reference | None = None,
    now_s: float = 0.0,
    options: PlanOptions = PlanOptions(),
) -> Trajectory:
    """The motion for a chunk, from its time base on; TrajectoryError where no legal one exists.

    targets: (H, J), row i due at the observation + (i + 1) * step_s. elapsed_s: the time base minus the observation; rows due
    before lead_s and half a step more are dropped. horizon: rows executed, counted from the first one that is left.
    start: what the controller follows at lead_s; the motion leaves it there with its position, velocity and acceleration.
    now: what it follows at now_s <= 0, when the motion is sent.
    """
    targets = _checked_targets(targets, limits)
    due_s = (np.arange(len(targets)) + 1) * step_s - elapsed_s
    left = due_s >= lead_s + step_s / 2
    if horizon < 1 or not left.any():
        raise InfeasibleError(
            f"Nothing of the chunk is left to execute: {len(targets)} rows of {step_s:g} s, {elapsed_s:.3f} s after their "
            f"observation, horizon {horizon}."
        )
    lags = np.array([name in options.may_lag for name in limits.names])
    beyond = np.where(lags, 0.0, _last_velocity(targets, step_s))
    targets, due_s = targets[left], due_s[left]
    executed = min(horizon, len(targets))
    targets = _inside(targets, executed, limits, options.position_margin)
    _check_reach(targets[0], due_s[0] - lead_s, start, limits, lags, options)

    stretch = _needed_stretch(targets, due_s, limits, lags)
    stretch[executed:] = np.minimum(stretch[executed:], stretch[:executed].max())  # nobody follows the later rows
    first_s, too_long = due_s[0] - lead_s, ""
    for delay_s, factor in _slower(start, options.longest_stretch / stretch.max()):
        slower = stretch * factor
        slower[0] += delay_s / first_s
        stretched_s = lead_s + np.cumsum(np.diff(due_s, prepend=lead_s) * slower)
        ends_s = stretched_s[executed - 1] + options.stop_s
        if ends_s > options.longest_s:
            too_long = too_long or (
                f"Within the joints' limits the {executed} executed rows and their stop would last {ends_s:.2f} s, "
                f"expected at most {options.longest_s:g} s: execute fewer rows of a chunk (horizon)."
            )
            continue
        motion = _follow(targets, stretched_s, executed, beyond / slower[-1], start, limits, lead_s, options)
        if motion is not None:
            missed = motion[1][stretched_s[:executed] > lead_s + options.catch_up_s]
            if not (missed[:, ~lags] > options.lag_s * limits.velocity[~lags]).any():
                return replace(motion[0], before=now, before_s=now_s)
    raise InfeasibleError(
        too_long
        or f"The chunk asks for more than the joints' limits allow: even spread over {options.longest_stretch:g} times its "
        "duration no legal motion follows it."
    )


def _slower(start: Reference, most: float) -> Iterator[tuple[float, float]]:
    """(delay of all rows [s], factor on their distances), the fastest first. Arms at rest that begin late may arrive late: that
    keeps the speed of the chunk, where a factor would slow all of it down."""
    if most < 1.0:
        return
    yield 0.0, 1.0
    if not np.abs(start.velocity).max() > AT_REST:
        yield from ((delay_s, 1.0) for delay_s in DELAYS_S)
    factor = SLOWER
    while factor <= most:
        yield 0.0, factor
        factor *= SLOWER


def _checked_targets(targets: np.ndarray, limits: JointLimits) -> np.ndarray:
    """(H, J) finite numbers."""
    targets = np.asarray(targets, dtype=np.float64)
    if targets.ndim != 2 or targets.shape[1] != len(limits.names) or not len(targets):
        raise TrajectoryError(f"Expected a chunk of rows with {len(limits.names)} joints, got shape {targets.shape}.")
    if not np.isfinite(targets).all():
        row, joint = (int(i[0]) for i in np.nonzero(~np.isfinite(targets)))
        raise TrajectoryError(
            f"Joint '{limits.names[joint]}': row {row} of the chunk is {targets[row, joint]}, expected a finite number."
        )
    return targets


def _inside(targets: np.ndarray, executed: int, limits: JointLimits, margin: float) -> np.ndarray:
    """What lies a little outside the limits is moved onto them, and so are the later rows, which only give the stop its way."""
    outside = np.abs(targets - limits.clip(targets))[:executed] > margin * limits.range
    if outside.any():
        row, joint = (int(i[0]) for i in np.nonzero(outside))
        raise TrajectoryError(
            f"Joint '{limits.names[joint]}': executed row {row} of the chunk is {targets[row, joint]:.4g}, expected within "
            f"{limits.span(joint)}."
        )
    return limits.clip(targets)


def _check_reach(
    first: np.ndarray, after_s: float, start: Reference, limits: JointLimits, lags: np.ndarray, options: PlanOptions
) -> None:
    """A chunk that begins far from where the arms are was made for another state: refuse it."""
    gap = np.abs(first - start.position) - (options.reach_s + after_s) * limits.velocity
    far = (gap > 0.0) & ~lags
    if far.any():
        joint = int(np.argmax(far))
        reach = (options.reach_s + after_s) * limits.velocity[joint]
        raise TrajectoryError(
            f"Joint '{limits.names[joint]}': the chunk begins at {first[joint]:.4g}, the controller is at "
            f"{start.position[joint]:.4g}, expected at most {reach:.4g} apart."
        )


def _needed_stretch(targets: np.ndarray, due_s: np.ndarray, limits: JointLimits, lags: np.ndarray) -> np.ndarray:
    """(R,) factor for the time before each row, so that no joint that may not lag needs more than 90 % of its speed."""
    stretch = np.ones(len(targets))
    if len(targets) > 1:
        speed = np.abs(np.diff(targets, axis=0)) / np.diff(due_s)[:, None] / (0.9 * limits.velocity)
        stretch[1:] = np.maximum(1.0, speed[:, ~lags].max(axis=1, initial=1.0))
    return stretch


def _follow(
    targets: np.ndarray,
    due_s: np.ndarray,
    executed: int,
    beyond: np.ndarray,
    start: Reference,
    limits: JointLimits,
    lead_s: float,
    options: PlanOptions,
) -> tuple[Trajectory, np.ndarray] | None:
    """The legal motion nearest to the rows and its distance (executed, J) from them; None where limits cannot be kept."""
    until_s = due_s[executed - 1]
    knots_s = _knots([lead_s, until_s, until_s + options.stop_s], options.knot_s)
    tail_s = knots_s[knots_s > until_s + 1e-5]
    stop = _slowing(targets, due_s, until_s, options.stop_s, tail_s, beyond)
    wanted = fit.Targets(
        np.concatenate([due_s[:executed], tail_s]),
        np.concatenate([targets[:executed], limits.clip(stop)]),
        np.concatenate([np.ones(executed), np.full(len(tail_s), 0.1)]),  # where the stop ends matters less than the rows
    )

    limits, bounds = _with_start(limits, start)
    state = (start.position, start.velocity, start.acceleration)
    solution = fit.nearest_motion(knots_s, state, wanted, bounds, options.smoothing)
    if solution is None:
        return None
    positions, velocities = solution
    try:  # between the knots as well, where a start that runs against a limit may go beyond it
        check_trajectory(limits.names, knots_s, positions, velocities, limits, tolerances=EXACT)
    except TrajectoryError:
        return None
    motion = Trajectory(limits.names, knots_s, positions, velocities)
    return motion, np.abs(motion.sample(due_s[:executed])[0] - targets[:executed])


def _with_start(limits: JointLimits, start: Reference) -> tuple[JointLimits, JointLimits]:
    """What the motion must keep to, and what the fit is given, which stays fit.INSET away from that.

    A start on or slightly outside a position limit (a gripper resting on its stop) is legal, and so is what it needs to
    brake, as far as the gate would let it pass; further out nothing goes. From a start nearer to a limit than the inset the fit
    need not leave at once: a wide joint with little acceleration could not.
    """
    brakes, margin = start.velocity**2 / limits.acceleration, POSITION_MARGIN * limits.range
    low = np.maximum(start.position - np.where(start.velocity < 0.0, brakes, 0.0), limits.lower - margin)
    high = np.minimum(start.position + np.where(start.velocity > 0.0, brakes, 0.0), limits.upper + margin)
    inset, touch = 1.003 * fit.INSET * limits.range, TOUCH * limits.range
    lower = np.where(start.position <= limits.lower + touch, np.minimum(low, start.position - touch), limits.lower)
    upper = np.where(start.position >= limits.upper - touch, np.maximum(high, start.position + touch), limits.upper)
    near_lower, near_upper = start.position <= limits.lower + inset, start.position >= limits.upper - inset
    bounds = replace(
        limits,
        lower=np.where(near_lower, np.minimum(lower, start.position - inset), lower),
        upper=np.where(near_upper, np.maximum(upper, start.position + inset), upper),
    )
    return replace(limits, lower=lower, upper=upper), bounds


def _last_velocity(targets: np.ndarray, step_s: float) -> np.ndarray:
    """(J,) mean velocity over the last BEHIND_S of a chunk."""
    rows = min(len(targets) - 1, max(1, round(BEHIND_S / step_s)))
    return (targets[-1] - targets[-1 - rows]) / (rows * step_s) if rows else np.zeros(targets.shape[1])


def _knots(corners_s: Sequence[float], least_s: float) -> np.ndarray:
    """Times (N+1,) through all corners, evenly divided between them and at least least_s apart where there is room, on whole
    microseconds."""
    parts = [np.asarray(corners_s[:1])]
    for begin, end in pairwise(corners_s):
        parts.append(np.linspace(begin, end, max(1, int((end - begin) / least_s + 1e-6)) + 1)[1:])
    return np.round(np.concatenate(parts), 6)


def _slowing(
    targets: np.ndarray, due_s: np.ndarray, from_s: float, stop_s: float, at_s: np.ndarray, beyond: np.ndarray
) -> np.ndarray:
    """Targets (M, J) of the stop: along the later rows, the progress along them slowing from 1 to 0.

    It slows as 1 - (d / stop_s)^2, gently at first: a chunk that comes a tenth of a second late still finds the arms at speed.
    Beyond the last row the path goes on with the velocity `beyond` (J,): a chunk that is executed to its end would otherwise
    have to be at rest in its last row, and the arms would brake before the next chunk could take over.
    """
    d = at_s - from_s
    progress = from_s + d - d**3 / (3.0 * stop_s**2)
    path = np.stack([np.interp(progress, due_s, column) for column in targets.T], axis=1)
    return path + np.maximum(progress - due_s[-1], 0.0)[:, None] * beyond
