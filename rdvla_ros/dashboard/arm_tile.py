"""The chunk that the policy wants against where the joints are."""

from __future__ import annotations

import math

import numpy as np

from rdvla_ros.dashboard import style
from rdvla_ros.dashboard.binding import pyqtgraph
from rdvla_ros.dashboard.model import ArmMotion, Snapshot
from rdvla_ros.dashboard.tile import Tile

AHEAD_S, BEHIND_S = 1.5, 1.5


class ArmTile(Tile):
    """One arm: a lane per joint over its range. Solid: measured; dashed: the chunk the policy wants."""

    def __init__(self, name: str, joints: tuple):
        super().__init__(f"Arm {name}: ━ measured  ╍ wanted", "seconds from now")
        self._name, self._joints = name, joints
        self._lower = np.array([joint.lower for joint in joints])
        self._range_of = np.maximum(np.array([joint.upper for joint in joints]) - self._lower, 1e-9)
        self._now = pyqtgraph.InfiniteLine(pos=0.0, angle=90, pen=pyqtgraph.mkPen(style.GREY, width=1))
        self.plot.addItem(self._now)
        self._wanted = self.curve(style.ORANGE, 2, dashed=True)
        self._measured = self.curve(style.BLUE, 2)
        ticks = [(len(joints) - i - 0.5, joint.name.removeprefix(f"{name}_")) for i, joint in enumerate(joints)]
        self.plot.getAxis("left").setTicks([ticks])
        self.plot.showGrid(y=False)
        self.set_range((-BEHIND_S, AHEAD_S), (0.0, float(len(joints))))

    def show_snapshot(self, snapshot: Snapshot) -> None:
        motion, seen = snapshot.arms[self._name], snapshot.seen(f"joints {self._name}")
        self.say(f"{seen.state.symbol} joints {seen.text()}", alarm=not seen.live)
        now_s = self._reference_s(motion)
        self._measured.setData(*self._lanes(motion.times_s - now_s, motion.measured))
        if motion.chunk is None:
            self._wanted.setData([], [])
        else:
            self._wanted.setData(*self._lanes(motion.chunk.times_s - now_s, motion.chunk.positions))

    def _reference_s(self, motion: ArmMotion) -> float:
        """Now, on the robot's clock: the newest measured sample, or the chunk's begin where nothing is measured."""
        if len(motion.times_s):
            return float(motion.times_s[-1])
        return float(motion.chunk.times_s[0]) if motion.chunk is not None else 0.0

    def _lanes(self, times_s: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All joints as one curve with gaps: joint i in the lane from the top, its range from floor to ceiling."""
        count = len(self._joints)
        if not len(times_s):
            return np.zeros(0), np.zeros(0)
        share = np.clip((positions - self._lower) / self._range_of, 0.0, 1.0)
        lanes = share * 0.9 + 0.05 + (count - 1 - np.arange(count))
        x = np.tile(np.append(times_s, math.nan), count)
        y = np.concatenate([np.append(lanes[:, i], math.nan) for i in range(count)])
        return x, y
