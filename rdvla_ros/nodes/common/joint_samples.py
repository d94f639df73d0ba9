"""From joint state messages to samples of a whole arm, checked: the policy and the gate believe the same ones.

J = joints of one arm.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sensor_msgs.msg import JointState

from rdvla_ros.control.supervision.input_quality import JointJumps, SameStamp
from rdvla_ros.nodes.common import conversions
from rdvla_ros.nodes.common.conversions import Contradiction, JointGroup, OtherJoints
from rdvla_ros.types import ObservationError

NANOSECONDS = 1_000_000_000
NAMED_S = 0.5  # the graph is asked for the publishers at most this often, whatever comes


class Part(OtherJoints):
    """A message with some of the arm's joints, kept for the message that completes it."""


class ArmSamples:
    """The samples of one arm.

    jump_factor: how many times its largest speed a joint may seem to move from one sample to the next; 0: as fast as it likes.
    merge_s: joints that come in messages of their own (a gripper's driver) belong to a sample up to this far away [s].
    publishers(topic): names of the nodes that publish there, for the sentences.
    """

    def __init__(self, group: JointGroup, *, jump_factor: float, merge_s: float, publishers: Callable[[str], str]):
        self._group, self._merge_s, self._look_up = group, merge_s, publishers
        self._named: tuple[float, str] | None = None  # when the publishers were looked up, and their names
        speed = np.array([joint.velocity for joint in group.joints])
        self._same_stamp = SameStamp(speed)
        self._jumps = JointJumps(speed, factor=jump_factor) if jump_factor else None
        self._parts: dict[str, tuple[float, float]] = {}  # joint -> (stamp, position) of the newest message without all joints
        self._partial_since_s: float | None = None
        self._was_whole = False

    def take(self, message: JointState, received_s: float) -> np.ndarray:
        """(J,) positions in the arm's order, controller units.

        received_s: when the message came, on a clock that nobody can set. OtherJoints: it is no sample of this arm, and no fault.
        Part: it is a part of one. ObservationError: it is refused. Contradiction: this cannot be the robot that is described.
        """
        found = conversions.named_positions(message, self._group)
        stamp_s = conversions.seconds(message.header.stamp)
        if len(found) < len(self._group.joints):
            found = self._completed(found, stamp_s or received_s, received_s)
        self._was_whole = True
        positions = np.array([found[name] for name in self._group.names], dtype=np.float64)
        self._check_same_stamp(positions, message, received_s)
        self._check_jump(positions, stamp_s, received_s)
        return positions

    def _completed(self, found: dict[str, float], stamp_s: float, received_s: float) -> dict[str, float]:
        """A part with the group's leading joint is completed by the newest of the others; any other part only waits for it."""
        self._parts |= {name: (stamp_s, position) for name, position in found.items()}
        names = self._group.names
        missing = [name for name in names if name not in found]
        if unknown := [name for name in missing if name not in self._parts]:
            if self._partial_since_s is None:
                self._partial_since_s = received_s
            starting = not self._was_whole and received_s - self._partial_since_s <= self._merge_s
            if starting:  # what brings them may come at any moment
                raise Part(f"{self._group.topic}: joint '{unknown[0]}' of arm '{self._group.arm}' has not come yet.")
            raise Contradiction(conversions.lacks(self._group, unknown[0], found))
        if self._group.lead not in found:
            raise Part(f"{self._group.topic}: no sample of arm '{self._group.arm}' by itself.")
        oldest = max(missing, key=lambda name: abs(stamp_s - self._parts[name][0]))
        apart_s = abs(stamp_s - self._parts[oldest][0])
        if apart_s > self._merge_s:
            raise ObservationError(
                f"{self._group.topic}: joint '{oldest}' of arm '{self._group.arm}' comes in messages of its own, and the newest "
                f"lies {apart_s:.3f} s from the arm's, expected at most {self._merge_s:g} s (parameter joint_merge_s)."
            )
        return {name: self._parts[name][1] for name in names}

    def _check_same_stamp(self, positions: np.ndarray, message: JointState, received_s: float) -> None:
        stamp_ns = message.header.stamp.sec * NANOSECONDS + message.header.stamp.nanosec
        before = self._same_stamp.check(positions, stamp_ns, received_s) if stamp_ns else None
        if before is None:
            return
        joint = int(np.argmax(np.abs(positions - before)))
        raise Contradiction(
            f"{self._group.topic}: two samples of one stamp ({stamp_ns / NANOSECONDS:.3f} s) disagree: joint "
            f"'{self._group.names[joint]}' is at {before[joint]:.4g} and at {positions[joint]:.4g} (rad or m). Publishers: "
            f"{self._publishers(received_s)}. Stop all but one of those that publish these joints."
        )

    def _check_jump(self, positions: np.ndarray, stamp_s: float, received_s: float) -> None:
        jump = self._jumps.check(positions, stamp_s) if self._jumps else None
        if jump is None:
            return
        text = (
            f"{self._group.topic}: joint '{self._group.names[jump.joint]}' jumped by {jump.by:.3g} from one sample to the next, "
            f"expected at most {jump.allowed:.3g} (rad or m)"
        )
        if jump.repeated:
            raise Contradiction(
                f"{text}, again and again. Its encoder, or two publishers of the same joint? Publishers: "
                f"{self._publishers(received_s)}."
            )
        raise ObservationError(f"{text}.")

    def _publishers(self, now_s: float) -> str:
        if self._named is None or now_s - self._named[0] > NAMED_S:
            self._named = now_s, self._look_up(self._group.topic)
        return self._named[1]
