"""What the gate lets pass, and from where it stops: checks of both arms' motions against what the controllers follow now.

Times are seconds on the ROS clock, because they are compared with the stamps of messages. J = joints of one arm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from rdvla_ros.control.motion.followed import MOVED_S, MOVED_SHARE, Present, followed
from rdvla_ros.control.motion.handover import at_once
from rdvla_ros.control.motion.limits import JointLimits, Tolerances, check_continuity, check_ramp, check_trajectory
from rdvla_ros.control.motion.speed_estimate import Speeds
from rdvla_ros.control.motion.stop import Onward, stop
from rdvla_ros.control.motion.trajectory import LONGEST_MOTION_S, LONGEST_STOP_S, Reference, Trajectory
from rdvla_ros.robot import RobotDescription
from rdvla_ros.types import TrajectoryError


class LateError(TrajectoryError):
    """Too old, not for now, or longer than may be sent at once: no harm is in the plan itself, it is only not taken."""


class JumpError(TrajectoryError):
    """The motion does not begin where the arms are."""


@dataclass(frozen=True)
class PassageOptions:
    """longest_age_s: since the stamp. future_s: how far a stamp may lie ahead. state_age_s: how long a reported state is good.
    longest_s: the longest motion that may go on the wire at once. ramp_slack_s: where the controller leaves what it follows,
    the new motion may be off by what a joint's largest speed covers in this time, however soon its next point is due: two nodes
    do not know the arms' state to the last digit."""

    longest_age_s: float = 0.2
    future_s: float = 0.05
    state_age_s: float = 0.5
    longest_s: float = LONGEST_MOTION_S
    ramp_slack_s: float = 0.0025
    tolerances: Tolerances = Tolerances(jerk=0.05)


@dataclass(frozen=True)
class _Followed:
    """A motion that was passed, and its time base."""

    trajectory: Trajectory
    stamp_s: float


@dataclass(frozen=True)
class Stop:
    """The motion per arm, and their common time base (header.stamp)."""

    motions: dict[str, Trajectory]
    stamp_s: float


@dataclass(frozen=True)
class _Path:
    """An arm's state at a time, and when the points of the motion that it follows are due (none: it follows nothing known)."""

    at: Callable[[float], Reference]
    points_s: tuple[float, ...] = ()


class Passage:
    """Per arm: what is followed (a motion that passed, unless the controller's or the joints' last report contradicts it)."""

    def __init__(self, robot: RobotDescription, options: PassageOptions = PassageOptions()):
        self._options = options
        self.limits = {arm.name: JointLimits.of_joints(arm.joints) for arm in robot.arms}
        self.all_limits = JointLimits.of_robot(robot)
        self._followed: dict[str, _Followed] = {}
        self._reported: dict[str, Present] = {}
        self._measured: dict[str, Present] = {}
        grippers = {arm.name: np.isin(arm.joint_names, robot.gripper_joints) for arm in robot.arms}
        self.tolerances = {arm: MOVED_S * limits.velocity for arm, limits in self.limits.items()}
        # a gripper that holds something is not where it was sent
        self._grippers, self._grips, self._speeds = grippers, {}, {arm: Speeds(limits) for arm, limits in self.limits.items()}
        self._loose = {
            arm: np.where(grippers[arm], np.inf, np.maximum(tolerance, MOVED_SHARE * self.limits[arm].range))
            for arm, tolerance in self.tolerances.items()
        }

    def report_controller(self, arm: str, commanded: Reference, now_s: float) -> None:
        """What the arm's controller says that it commands."""
        self._reported[arm] = Present(commanded.position, commanded.velocity, self.tolerances[arm], now_s, commanded=True)

    def report_measured(self, arm: str, position: np.ndarray, now_s: float) -> None:
        """Where the arm's joints are; taken as at rest, so it serves where nothing better is known."""
        position = np.asarray(position, dtype=np.float64)
        self._speeds[arm].see(position, now_s)
        self._measured[arm] = Present(position, np.zeros_like(position), self._loose[arm], now_s, commanded=False)

    def forget(self, *, reports: bool = False) -> None:
        """After a hold the arms may have been moved by hand: the next motion begins from what is reported. reports: what was
        reported until now counts no more either (the clock has jumped, and with it perhaps what the controllers follow)."""
        self._followed.clear()
        if reports:
            self._reported.clear()
            self._measured.clear()

    def reported(self, arm: str) -> bool:
        """Whether the arm's controller has said what it commands (since the last `forget` of reports)."""
        return arm in self._reported

    @property
    def follows(self) -> bool:
        """Whether anything was passed since the last `forget`: the arms may be moving."""
        return bool(self._followed)

    def check(self, parts: Mapping[str, Trajectory], stamp_s: float, now_s: float) -> dict[str, Trajectory]:
        """Both arms' motions in the arms' joint order, or TrajectoryError for both: LateError, JumpError or an illegal motion."""
        checked = {}
        for arm, part in parts.items():
            limits = self.limits[arm]
            order = check_trajectory(
                part.joint_names, part.times_s, part.positions, part.velocities, limits, tolerances=self._options.tolerances
            )
            velocities = part.velocities[:, order]  # a copy
            velocities[-1] = 0.0  # exactly, whatever rounding left there
            checked[arm] = Trajectory(limits.names, part.times_s, part.positions[:, order], velocities)
        self._check_time(checked, stamp_s, now_s)
        for arm, trajectory in checked.items():
            self._check_start(arm, trajectory, stamp_s, now_s)
        return checked

    def passed(self, parts: Mapping[str, Trajectory], stamp_s: float, now_s: float | None = None) -> None:
        """These motions went to the controllers, at now_s (None: at their stamp), which leave for their first points at once."""
        begin_s = stamp_s if now_s is None else min(now_s, stamp_s)
        for arm, part in parts.items():
            before = self.reference(arm, begin_s)
            points = part.times_s, part.positions, part.velocities
            self._grips[arm] = Reference.at_rest(part.positions[-1])
            self._followed[arm] = _Followed(Trajectory(part.joint_names, *points, before, begin_s - stamp_s), stamp_s)

    def reference(self, arm: str, at_s: float) -> Reference | None:
        """What the arm's controller follows at a time not before now; None where nothing is known of the arm."""
        present = self._present(arm, at_s)
        if arm in self._followed:
            return followed(self._followed[arm].trajectory, self._followed[arm].stamp_s, present, at_s)
        return present and present.moved_to(at_s)

    def _present(self, arm: str, at_s: float) -> Present | None:
        """The controller's report, or where there is no recent one the measured state."""
        for source in (self._reported, self._measured):
            if arm in source and abs(at_s - source[arm].at_s) <= self._options.state_age_s:
                return source[arm]
        return None

    def stop(self, now_s: float, lead_s: float) -> Stop | None:
        """The motions that bring all arms to rest together, at most lead_s from now on; None where an arm's state is unknown."""
        paths = [self._path(arm, now_s) for arm in self.limits]
        if any(path is None for path in paths):
            return None
        over = at_once(now_s, lead_s, sorted({point_s for path in paths for point_s in path.points_s}))

        def state(at_s: float) -> Reference:
            return _joined([path.at(at_s) for path in paths])

        onward = None
        if all(path.points_s for path in paths):
            knots_s = np.array(sorted({point_s for path in paths for point_s in path.points_s})) - over.switch_s
            onward = Onward(lambda after_s: state(over.switch_s + after_s), knots_s)
        whole = stop(state(over.switch_s), limits=self.all_limits, lead_s=over.lead_s, onward=onward)
        whole = whole.preceded_by([at_s - over.stamp_s for at_s in over.via_s], [state(at_s) for at_s in over.via_s])
        whole = replace(whole, before=state(now_s), before_s=now_s - over.stamp_s)
        return Stop({arm: whole.select(limits.names) for arm, limits in self.limits.items()}, over.stamp_s)

    def _path(self, arm: str, now_s: float) -> _Path | None:
        """What the arm does from now on. Where only the joints themselves are heard of, they have the speed they were seen with,
        and a gripper keeps the place it was sent to last: from where it is measured, what it holds would fall."""
        sent, present = self._followed.get(arm), self._present(arm, now_s)
        if sent is not None and (present is None or not present.departs(sent.trajectory, sent.stamp_s)):
            motion, base_s = sent.trajectory, sent.stamp_s
            return _Path(lambda at_s: motion.at(round(at_s - base_s, 6)), tuple((base_s + motion.times_s).tolist()))
        if present is None:
            return None
        if present.commanded:
            return _Path(present.moved_to)
        moving, hand = replace(present, velocity=self._speeds[arm].now(now_s)), self._grippers[arm]
        if arm not in self._grips:
            return _Path(moving.moved_to)
        return _Path(lambda at_s: moving.moved_to(at_s).with_joints(hand, self._grips[arm]))

    def _check_time(self, parts: Mapping[str, Trajectory], stamp_s: float, now_s: float) -> None:
        age_s = now_s - stamp_s
        if age_s > self._options.longest_age_s:
            raise LateError(f"The motion is {age_s:.3f} s old, expected at most {self._options.longest_age_s:g} s.")
        if age_s < -self._options.future_s:
            raise LateError(
                f"The motion's stamp lies {-age_s:.3f} s in the future, expected at most {self._options.future_s:g} s. "
                "Do all nodes use the same clock (use_sim_time)?"
            )
        for arm, part in parts.items():
            if part.duration_s > self._options.longest_s:
                raise LateError(
                    f"The motion of arm '{arm}' lasts {part.duration_s:.2f} s, expected at most {self._options.longest_s:g} s: "
                    f"what is on the wire must end soon after its last executed row (stop of at most {LONGEST_STOP_S:g} s)."
                )

    def _check_start(self, arm: str, trajectory: Trajectory, stamp_s: float, now_s: float) -> None:
        """At the first moment at which the controller follows the new motion, it must be where the old one is."""
        switch_s = max(stamp_s + trajectory.times_s[0], now_s)
        reference = self.reference(arm, switch_s)
        if reference is None or self.reference(arm, max(now_s, stamp_s)) is None:
            raise JumpError(
                f"Nothing is known of where arm '{arm}' is now: neither its controller nor its joint states were heard."
            )
        new = trajectory.at(switch_s - stamp_s)
        try:
            check_continuity(new.position, new.velocity, reference.position, reference.velocity, self.limits[arm])
        except TrajectoryError as error:
            raise JumpError(str(error)) from None
        self._check_ramp(arm, trajectory, stamp_s, now_s)

    def _check_ramp(self, arm: str, trajectory: Trajectory, stamp_s: float, now_s: float) -> None:
        """The controller moves from where it is to the first point that is not past: no point of the motion limits that.

        Where points are past already, the arms have left the motion meanwhile: they may catch up, as fast as they may move.
        """
        begin_s = max(now_s, stamp_s)  # a motion from the future is not followed before its time base
        first = int(np.searchsorted(trajectory.times_s, begin_s - stamp_s, side="right"))
        if first == len(trajectory.times_s):
            raise LateError("The motion came when all of its points were past.")
        reference, tolerances = self.reference(arm, begin_s), self._options.tolerances
        try:
            check_ramp(
                stamp_s + trajectory.times_s[first] - begin_s,
                np.stack([reference.position, trajectory.positions[first]]),
                np.stack([reference.velocity, trajectory.velocities[first]]),
                self.limits[arm],
                tolerances=replace(tolerances, acceleration=None, jerk=None) if first else tolerances,
                slack_s=self._options.ramp_slack_s,
            )
        except TrajectoryError as error:
            raise (LateError if first else JumpError)(str(error)) from None


def _joined(states: list[Reference]) -> Reference:
    return Reference(*(np.concatenate([getattr(s, f) for s in states]) for f in ("position", "velocity", "acceleration")))
