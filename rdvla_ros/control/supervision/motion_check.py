"""What the gate lets pass, and from where it stops: checks of both arms' motions against what the controllers follow now.

Times are seconds on the ROS clock, because they are compared with the stamps of messages. J = joints of one arm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from rdvla_ros.control.motion.followed import MOVED_S, MOVED_SHARE, Present, StampedMotion, followed
from rdvla_ros.control.motion.handover import HISTORY_S, Handover, handover
from rdvla_ros.control.motion.limits import JointLimits, Tolerances, check_continuity, check_trajectory
from rdvla_ros.control.motion.speed_estimate import Speeds
from rdvla_ros.control.motion.stop import Onward, stop
from rdvla_ros.control.motion.trajectory import EXACT, LONGEST_MOTION_S, LONGEST_STOP_S, Reference, Trajectory
from rdvla_ros.control.supervision.delivery import Delivery
from rdvla_ros.control.supervision.joining import Path, rejoin, repeated, repeats
from rdvla_ros.robot import RobotDescription
from rdvla_ros.types import TrajectoryError

REPORTED = 0.4  # share of the tolerance by which a controller may be off what was sent to it: what repeats that would be a step


class LateError(TrajectoryError):
    """Too old, not for now, or longer than may be sent at once: no harm is in the plan itself, it is only not taken."""


class JumpError(TrajectoryError):
    """The motion does not begin where the arms are."""


@dataclass(frozen=True)
class MotionCheckOptions:
    """longest_age_s: since the stamp. future_s: how far a stamp may lie ahead. state_age_s: how long a reported state is good.
    longest_s: the longest motion that may go on the wire at once.
    reach_s: in this time the controllers have what passes, where their reports do not say that it takes longer (`Delivery`).
    join_s: a motion that begins ahead of now is begun this long after it passes.
    ramp_slack_s: where it is begun it may be off by what a joint's largest speed covers in this time, however soon its next point
    is due: two nodes do not know the arms' state to the last digit."""

    longest_age_s: float = 0.2
    future_s: float = 0.05
    state_age_s: float = 0.5
    longest_s: float = LONGEST_MOTION_S
    reach_s: float = 0.005
    join_s: float = 0.02
    ramp_slack_s: float = 0.0025
    tolerances: Tolerances = Tolerances(jerk=0.05)


@dataclass(frozen=True)
class Outgoing:
    """What goes to the controllers: the motion per arm, and their common time base (header.stamp)."""

    motions: dict[str, Trajectory]
    stamp_s: float


class MotionCheck:
    """Per arm: what is followed (a motion that passed, unless the controller's or the joints' last report contradicts it)."""

    def __init__(self, robot: RobotDescription, options: MotionCheckOptions = MotionCheckOptions()):
        self._options, self._period_s = options, robot.controller.period_s
        self.delivery = Delivery(options.reach_s, self._period_s)
        self.limits = {arm.name: JointLimits.of_joints(arm.joints) for arm in robot.arms}
        self.all_limits = JointLimits.of_robot(robot)
        self._followed: dict[str, StampedMotion] = {}
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
            self.delivery.forget()

    def reported(self, arm: str) -> bool:
        """Whether the arm's controller has said what it commands (since the last `forget` of reports)."""
        return arm in self._reported

    @property
    def follows(self) -> bool:
        """Whether anything was passed since the last `forget`: the arms may be moving."""
        return bool(self._followed)

    def check(self, parts: Mapping[str, Trajectory], stamp_s: float, now_s: float) -> Outgoing:
        """Both arms' motions in the arms' joint order, made to leave what the arms follow without a step, or TrajectoryError for
        both: LateError, JumpError or an illegal motion."""
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
        return self._joined(checked, stamp_s, now_s)

    def passed(self, parts: Mapping[str, Trajectory], stamp_s: float, now_s: float | None = None) -> None:
        """These motions went to the controllers, at now_s (None: at their stamp), which leave for their first points at once."""
        begin_s = stamp_s if now_s is None else now_s
        for arm, part in parts.items():
            before = self.reference(arm, begin_s) if stamp_s + part.times_s[0] > begin_s else None
            points = part.times_s, part.positions, part.velocities
            self.delivery.sent(arm, stamp_s, begin_s)
            self._grips[arm] = Reference.at_rest(part.positions[-1])
            self._followed[arm] = StampedMotion(Trajectory(part.joint_names, *points, before, begin_s - stamp_s), stamp_s)

    def reference(self, arm: str, at_s: float) -> Reference | None:
        """What the arm's controller follows at a time not before now; None where nothing is known of the arm."""
        present = self._present(arm, at_s)
        if arm in self._followed:
            return followed(self._followed[arm], present, at_s)
        return present and present.moved_to(at_s)

    def _present(self, arm: str, at_s: float) -> Present | None:
        """The controller's report, or where there is no recent one the measured state."""
        for source in (self._reported, self._measured):
            if arm in source and abs(at_s - source[arm].at_s) <= self._options.state_age_s:
                return source[arm]
        return None

    def stop(self, now_s: float, lead_s: float) -> Outgoing | None:
        """The motions that bring all arms to rest together, from lead_s after now on; None where an arm's state is unknown."""
        paths = {arm: self._path(arm, now_s) for arm in self.limits}
        if any(path is None for path in paths.values()):
            return None
        points_s = np.array(sorted({point_s for path in paths.values() for point_s in path.points_s}))
        over = handover(now_s, max(lead_s, self.delivery.longest_s), points_s.tolist())

        def state(at_s: float) -> Reference:
            return _both([path.at(at_s) for path in paths.values()])

        onward = None
        if all(path.sent for path in paths.values()):
            onward = Onward(lambda after_s: state(over.switch_s + after_s), points_s - over.switch_s)
        whole = stop(state(over.switch_s), limits=self.all_limits, lead_s=over.lead_s, onward=onward)
        motions = {arm: repeated(whole.select(self.limits[arm].names), paths[arm], over) for arm in self.limits}
        return Outgoing(motions, over.stamp_s)

    def _path(self, arm: str, now_s: float) -> Path | None:
        """What the arm does from now on. Where only the joints themselves are heard of, they have the speed they were seen with,
        and a gripper keeps the place it was sent to last: from where it is measured, what it holds would fall."""
        sent, present = self._followed.get(arm), self._present(arm, now_s)
        share = REPORTED if present is not None and present.commanded else 1.0
        if sent is not None and (present is None or not present.departs(sent, share)):
            return Path(sent.at, tuple(sent.points_s.tolist()), sent=True)
        if present is None:
            return None
        if present.commanded:
            return Path(present.moved_to)
        moving, hand = replace(present, velocity=self._speeds[arm].now(now_s)), self._grippers[arm]
        if arm not in self._grips:
            return Path(moving.moved_to, known=False)
        return Path(lambda at_s: moving.moved_to(at_s).with_joints(hand, self._grips[arm]), known=False)

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
            if part.duration_s > self._options.longest_s + HISTORY_S:  # which a motion may begin before it is sent
                raise LateError(
                    f"The motion of arm '{arm}' lasts {part.duration_s:.2f} s, expected at most {self._options.longest_s:g} s: "
                    f"what is on the wire must end soon after its last executed row (stop of at most {LONGEST_STOP_S:g} s)."
                )

    def _joined(self, parts: dict[str, Trajectory], stamp_s: float, now_s: float) -> Outgoing:
        """As they came, if each repeats what its arm follows until the controllers have it; otherwise joined to that here."""
        paths = {arm: self._known_path(arm, now_s) for arm in parts}
        until_s = now_s + self.delivery.longest_s
        if all(
            repeats(part, stamp_s, paths[arm], self.limits[arm], now_s, until_s, self._period_s) for arm, part in parts.items()
        ):
            return Outgoing(parts, stamp_s)
        points_s = sorted({point_s for path in paths.values() for point_s in path.points_s})
        over = handover(now_s, max(self._options.join_s, self.delivery.longest_s), points_s)
        motions = {arm: self._rejoined(arm, part, stamp_s, paths[arm], over) for arm, part in parts.items()}
        return Outgoing(motions, over.stamp_s)

    def _rejoined(self, arm: str, motion: Trajectory, stamp_s: float, path: Path, over: Handover) -> Trajectory:
        """Where it lies ahead, the arm goes to its first point. Where it has begun, it must be where the arm is: late motions
        that would need more acceleration, or jerk, to be caught up with are not taken."""
        limits, first_s = self.limits[arm], stamp_s + motion.times_s[0]
        began = path.known and first_s <= over.send_s
        error_kind = LateError if began and not _apart(motion, stamp_s, path, first_s, limits) else JumpError
        problem = _apart(motion, stamp_s, path, max(first_s, over.switch_s), limits)
        if not problem:
            try:
                if began:
                    return rejoin(motion, stamp_s, path, over, limits, EXACT, smooth_s=self._period_s)
                slack_s = self._options.ramp_slack_s
                return rejoin(motion, stamp_s, path, over, limits, self._options.tolerances, slack_s=slack_s)
            except TrajectoryError as error:
                problem = str(error)
        late = "The motion came when the arms should have left what they follow already. "
        raise error_kind(f"{late if error_kind is LateError else ''}{problem}")

    def _known_path(self, arm: str, now_s: float) -> Path:
        path = self._path(arm, now_s)
        if path is None:
            raise JumpError(
                f"Nothing is known of where arm '{arm}' is now: neither its controller nor its joint states were heard."
            )
        return path


def _apart(motion: Trajectory, stamp_s: float, path: Path, at_s: float, limits: JointLimits) -> str:
    """How the motion differs from the running one at a time, in one sentence; empty where it hardly does."""
    new, running = motion.at(at_s - stamp_s), path.at(at_s)
    try:
        check_continuity(new.position, new.velocity, running.position, running.velocity, limits)
    except TrajectoryError as error:
        return str(error)
    return ""


def _both(states: list[Reference]) -> Reference:
    return Reference(*(np.concatenate([getattr(s, f) for s in states]) for f in ("position", "velocity", "acceleration")))
