"""When a new motion is sent, from when it counts, and where it leaves the running one: exactly, whatever the controller does.

A controller leaves its path as soon as a message arrives (Humble, Jazzy, Kilted) or at the message's stamp (master), and from
there interpolates one cubic to the message's first point. That cubic is the running motion itself, position, velocity and
acceleration, if both lie on one piece of it; across one of its points it is not, and the acceleration steps. So a motion is
sent when a point has passed, and leaves the running one before the next:

    point --- send --------- arrival --------- stamp ---- switch (first point) --- next point

The arrival may lie anywhere between send and stamp, may differ from arm to arm, and changes nothing. Times are seconds on the
ROS clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

CLOCK_S = 1e-6  # times of messages are whole microseconds, and a ROS time as a float is no finer
RAMP = 1 / 3  # of the lead lies between the stamp and the first point, the rest is the messages' time to travel


@dataclass(frozen=True)
class Handover:
    """send_s: not before this. stamp_s: the header.stamp, the time base. switch_s: when the running motion is left.

    via_s: points of the running motion before the switch that belong into the message; without them the first point is due at
    the switch.
    """

    send_s: float
    stamp_s: float
    switch_s: float
    via_s: tuple[float, ...] = ()

    @property
    def lead_s(self) -> float:
        """From the time base to the switch."""
        return round(self.switch_s - self.stamp_s, 6)


def handover(now_s: float, lead_s: float, points_s: Iterable[float] = ()) -> Handover:
    """The earliest one from now on with lead_s between sending and the first point.

    points_s: when the points of the running motion are due, ascending; empty where the arms rest.
    """
    send_s = now_s
    for point_s in points_s:
        if point_s > send_s:
            if point_s - send_s >= lead_s:
                break
            send_s = point_s
    return _whole(send_s, send_s + lead_s * (1.0 - RAMP), send_s + lead_s)


def at_once(now_s: float, lead_s: float, points_s: Iterable[float] = ()) -> Handover:
    """For a hold, which waits for nothing: the switch comes at most lead_s from now.

    It is the next point of the running motion where that leaves time to travel. Where it does not, the points before the switch
    go into the message: that is exact on Humble, Jazzy and Kilted whenever the message arrives, but not on a master that keeps
    to old paths (allow_trajectory_replacement): what arrives after its stamp is followed by so much later there.
    """
    ahead_s = tuple(point_s for point_s in points_s if now_s + 2 * CLOCK_S < point_s < now_s + lead_s - 2 * CLOCK_S)
    if not ahead_s:
        return handover(now_s, lead_s)
    if ahead_s[0] - now_s >= lead_s / 4:
        return _whole(now_s, now_s + (ahead_s[0] - now_s) * (1.0 - RAMP), ahead_s[0])
    return _whole(now_s, (now_s + ahead_s[0]) / 2, now_s + lead_s, ahead_s)


def _whole(send_s: float, stamp_s: float, switch_s: float, via_s: tuple[float, ...] = ()) -> Handover:
    """On whole microseconds, as the points of motions are: a motion begins exactly on the running one."""
    return Handover(send_s, round(stamp_s, 6), round(switch_s, 6), tuple(round(point_s, 6) for point_s in via_s))
