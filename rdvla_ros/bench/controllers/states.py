"""What one arm's controller reported, cycle by cycle, as arrays. M reports, J joints; times are nanoseconds, as in the messages.

joint_trajectory_controller says with every report how long after the start of its trajectory the reference was sampled
(`reference.time_from_start`; Jazzy and later). That start is the stamp of the message it follows. Both together give the time of
the sample exactly, where the header's stamp is off by however long the update loop took to get there, which differences of
positions would magnify into accelerations of 20 rad/s^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rdvla_ros.control.motion.limits import JointLimits

SECOND = 1_000_000_000
SAME_NS = 5_000_000  # a report belongs to the message whose stamp lies this near to where its trajectory began
LEAST_GAP = 0.2  # of the usual time between samples: nearer ones say nothing about a speed


@dataclass(frozen=True)
class States:
    """header_ns, from_start_ns (M,); position, velocity, acceleration of the reference and command, what the joints are given,
    each (M, J)."""

    header_ns: np.ndarray
    from_start_ns: np.ndarray
    position: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    command: np.ndarray

    @classmethod
    def of_messages(cls, messages: Sequence[Any], joint_names: Sequence[str]) -> States:
        """Of JointTrajectoryControllerState, joints in the given order. Reports without a reference are left out."""
        kept = [
            m for m in messages if len(m.reference.positions) == len(m.joint_names) and set(joint_names) <= set(m.joint_names)
        ]

        def rows(point: str, field: str) -> np.ndarray:
            found = []
            for message in kept:
                order = [list(message.joint_names).index(name) for name in joint_names]
                values = getattr(getattr(message, point), field)
                full = len(values) == len(message.joint_names)
                found.append([values[i] for i in order] if full else [np.nan] * len(order))
            return np.array(found, dtype=np.float64).reshape(-1, len(joint_names))

        return cls(
            np.array([nanoseconds(m.header.stamp) for m in kept], dtype=np.int64),
            np.array([nanoseconds(m.reference.time_from_start) for m in kept], dtype=np.int64),
            *(rows("reference", field) for field in ("positions", "velocities", "accelerations")),
            rows("output", "positions"),
        )

    def __len__(self) -> int:
        return len(self.header_ns)

    def select(self, chosen: np.ndarray | slice) -> States:
        fields = (self.header_ns, self.from_start_ns, self.position, self.velocity, self.acceleration, self.command)
        return States(*(field[chosen] for field in fields))

    def begun_ns(self, stamps_ns: Sequence[int]) -> np.ndarray:
        """(M,) start of the trajectory that each report follows: the stamp of a message, or, where none is near, what the first
        report of that trajectory says."""
        apparent, known = self.header_ns - self.from_start_ns, np.sort(np.array(stamps_ns, dtype=np.int64))
        begun, own = np.empty_like(apparent), 0
        for i, value in enumerate(apparent):
            nearest = known[np.abs(known - value).argmin()] if len(known) else None
            if nearest is not None and abs(nearest - value) <= SAME_NS:
                begun[i], own = nearest, 0
            else:
                own = value if not own or abs(value - own) > SAME_NS else own
                begun[i] = own
        return begun

    def times_ns(self, stamps_ns: Sequence[int]) -> np.ndarray:
        """(M,) when the references were sampled."""
        return self.begun_ns(stamps_ns) + self.from_start_ns


def nanoseconds(stamp: Any) -> int:
    return int(stamp.sec) * SECOND + int(stamp.nanosec)


def differences(times_ns: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First, second and third derivative (M, J) at each sample and the one, two, three before it, NaN where there are none.

    Newton's divided differences n! f[t0..tn]: by the mean value theorem of an n times differentiable motion they lie within the
    range of its n-th derivative, however unevenly it was sampled. So they exceed a limit only if the motion does, or steps.
    """
    times_s = (times_ns - times_ns[:1]) / SECOND
    table, found = positions, []
    for order in (1, 2, 3):
        gaps = (times_s[order:] - times_s[:-order])[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            table = (table[1:] - table[:-1]) / gaps
        table = np.where(gaps > 0.0, table, np.nan)
        found.append(np.concatenate([np.full((order, positions.shape[1]), np.nan), table * (1, 2, 6)[order - 1]]))
    return tuple(found)


def thinned(times_ns: np.ndarray) -> np.ndarray:
    """(M,) bool: samples a sensible time after the one before: at a new message the controller sets its time anew."""
    if len(times_ns) < 3:
        return np.ones(len(times_ns), dtype=bool)
    least = LEAST_GAP * np.median(np.diff(times_ns))
    chosen, last = np.zeros(len(times_ns), dtype=bool), -np.inf
    for i, time_ns in enumerate(times_ns):
        if time_ns - last >= least:
            chosen[i], last = True, time_ns
    return chosen


def shares(times_ns: np.ndarray, positions: np.ndarray, limits: JointLimits) -> dict[str, np.ndarray]:
    """(M,) largest share of each limit that any joint takes, by differences of its positions."""
    bounds = {"velocity": limits.velocity, "acceleration": limits.acceleration, "jerk": limits.jerk}
    derived = zip(bounds.items(), differences(times_ns, positions), strict=True)
    return {name: np.nan_to_num(np.abs(values) / bound, nan=0.0).max(axis=1) for (name, bound), values in derived}
