"""What a message of a new motion contains, so that no controller makes a step of it: it begins on the running motion, before now.

From the moment a message arrives a joint_trajectory_controller goes on one cubic from a state of its own to the message's
first point, if that lies ahead. That state is never exactly the running motion's. On Jazzy, Kilted and master it is the command
of the next update, taken as that of the last one: the command makes a double step and then crawls. On Humble it is the command
of the last update, taken as that of now: the arm stalls for a period. Where it is the measured state, the arm goes back by its
lag. If the first point lies before the update that takes the message, no such cubic exists, and the state plays no part. So a
message repeats the running motion from HISTORY_S before it is sent up to where the new motion leaves it:

    stamp ------------ sent -------- arrival ------------ switch ------------------->
      |  running motion, all its points  ...  repeated      |  the new motion

The arrival may lie anywhere between sending and switch, may differ from arm to arm, and changes nothing. Times are seconds on the
ROS clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rdvla_ros.control.motion.trajectory import Reference, Trajectory

HISTORY_S = 0.04  # before sending: more than a period of 100 Hz, and what clocks of two hosts may differ by
CLOSE_S = 1e-6  # times of messages are whole microseconds, and a ROS time as a float is no finer
APART_S = 0.001  # points of a message are no closer: rounding would count as jerk


@dataclass(frozen=True)
class Handover:
    """send_s: the time that plans count from. switch_s: when the running motion is left.

    history_s: when the points of the running motion are due that the message begins with; empty where that motion is not known
    exactly: the message then begins at the switch, and the controller goes there from where it is.
    """

    send_s: float
    switch_s: float
    history_s: tuple[float, ...] = ()

    @property
    def stamp_s(self) -> float:
        """The header.stamp, the message's time base."""
        return round(self.send_s - HISTORY_S, 6)

    @property
    def lead_s(self) -> float:
        """From sending to the switch."""
        return round(self.switch_s - self.send_s, 6)

    def without_history(self) -> Handover:
        """For a motion that does not begin on the running one."""
        return replace(self, history_s=())

    def message(self, motion: Trajectory, history: Sequence[Reference]) -> Trajectory:
        """A motion whose times count from send_s, as it goes out: from the stamp, after the states (at history_s) of the running
        one."""
        whole = motion.preceded_by([at_s - self.send_s for at_s in self.history_s], history)
        return whole.delayed(self.send_s - self.stamp_s)


def handover(now_s: float, lead_s: float, points_s: Iterable[float] | None = ()) -> Handover:
    """The one from now that leaves the running motion after lead_s, or up to APART_S earlier, where one of its points is.

    points_s: when the points of the running motion are due, ascending; empty where the arms rest, None where what they follow
    is not known exactly.
    """
    send_s, switch_s = round(now_s, 6), round(now_s + lead_s, 6)
    if points_s is None:
        return Handover(send_s, switch_s)
    begin_s = round(send_s - HISTORY_S, 6)
    inside_s = [round(at_s, 6) for at_s in points_s if begin_s < at_s <= switch_s + CLOSE_S]
    if inside_s and switch_s - inside_s[-1] < APART_S:
        switch_s = inside_s.pop()
    if inside_s and inside_s[0] - begin_s < APART_S:
        begin_s = inside_s.pop(0)
    return Handover(send_s, switch_s, (begin_s, *inside_s))
