"""How a new chunk joins the motion that is under way: objects, chosen by name in a configuration.

    make_seam({"method": "offset_fading", "fade_s": 0.3})

All are asked alike, with the arguments of `trajectory.plan`: `seam.plan(targets, step_s=..., start=..., ...)` -> Trajectory,
or TrajectoryError where there is no legal one. docs/control.md measures them against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rdvla_ros.control.motion.limits import JointLimits
from rdvla_ros.control.motion.trajectory import PlanOptions, Reference, Trajectory, plan
from rdvla_ros.types import RdvlaError, TrajectoryError, make_by_name

DEFAULTS = PlanOptions()


class SeamError(RdvlaError):
    """A seam method that cannot be made."""


class Seam(Protocol):
    """What every method offers; the arguments are those of `trajectory.plan`. joins: its motions begin on the running one."""

    joins: bool

    def plan(self, targets: np.ndarray, **how: Any) -> Trajectory: ...


@dataclass(frozen=True)
class CutAndBlend:
    """The rows that have passed are cut; from where the arms are the motion goes to the rows as fast as its limits and its
    smoothness allow, and then follows them."""

    joins = True

    def plan(self, targets: np.ndarray, **how: Any) -> Trajectory:
        return plan(targets, **how)


@dataclass(frozen=True)
class OffsetFading:
    """The rows are shifted onto where the arms are, and the shift fades away: gone to a tenth after fade_s.

    The shift has the distance o and the velocity w of the arms from the chunk at the switch and decays without overshoot:
    d(t) = (o + (w + k o) t) exp(-k t), which has d(0) = o and d'(0) = w; (1 + k t) exp(-k t) = 0.1 at k t = 3.89.
    """

    fade_s: float = 0.3
    joins = True

    def __post_init__(self) -> None:
        if isinstance(self.fade_s, bool) or not isinstance(self.fade_s, (int, float)) or not 0.01 <= self.fade_s <= 10.0:
            raise SeamError(f"fade_s: expected 0.01 .. 10 s, got {self.fade_s!r}")

    def plan(
        self,
        targets: np.ndarray,
        *,
        step_s: float,
        elapsed_s: float,
        start: Reference,
        limits: JointLimits,
        lead_s: float = 0.04,
        options: PlanOptions = DEFAULTS,
        **how: Any,
    ) -> Trajectory:
        rows = np.asarray(targets, dtype=np.float64)
        if rows.ndim == 2 and len(rows) > 1 and rows.shape[1] == len(limits.names) and np.isfinite(rows).all():
            stays = np.array([name in options.may_lag for name in limits.names])
            rows = np.where(stays, rows, self._shifted(rows, step_s, elapsed_s, start, limits, lead_s))
        return plan(rows, step_s=step_s, elapsed_s=elapsed_s, start=start, limits=limits, lead_s=lead_s, options=options, **how)

    def _shifted(
        self, rows: np.ndarray, step_s: float, elapsed_s: float, start: Reference, limits: JointLimits, lead_s: float
    ) -> np.ndarray:
        """Rows (H, J) with the shift; those within the position limits stay within them, and so do far ones far."""
        due_s = (np.arange(len(rows)) + 1) * step_s - elapsed_s
        segment = int(np.clip(np.searchsorted(due_s, lead_s) - 1, 0, len(rows) - 2))
        velocity = (rows[segment + 1] - rows[segment]) / step_s
        offset = start.position - (rows[segment] + (lead_s - due_s[segment]) * velocity)
        if (np.abs(offset) > DEFAULTS.reach_s * limits.velocity).any():
            return rows  # a chunk for another state: plan refuses it and says why
        rate = 3.89 / self.fade_s
        t = np.maximum(due_s - lead_s, 0.0)[:, None]
        shifted = rows + (offset + (start.velocity - velocity + rate * offset) * t) * np.exp(-rate * t)
        return np.where(limits.clip(rows) == rows, limits.clip(shifted), shifted)


@dataclass(frozen=True)
class Replace:
    """The rows as they are, with the slopes between them as velocities: what a node without motion planning would send.

    It looks at neither the running motion nor the limits, so the gate refuses much of it. Only to compare with.
    """

    joins = False

    def plan(
        self,
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
        options: PlanOptions = DEFAULTS,
    ) -> Trajectory:
        targets = np.asarray(targets, dtype=np.float64)
        due_s = (np.arange(len(targets)) + 1) * step_s - elapsed_s
        left = due_s >= lead_s
        if horizon < 1 or not left.any() or not np.isfinite(targets).all():
            raise TrajectoryError(f"Nothing of the chunk can be sent: {int(left.sum())} rows are left, horizon {horizon}.")
        rows, times_s = targets[left][:horizon], due_s[left][:horizon]
        if len(rows) < 2:
            rows, times_s = np.repeat(rows, 2, axis=0), np.append(times_s, times_s + step_s)
        velocities = np.gradient(rows, times_s, axis=0)
        velocities[-1] = 0.0
        return Trajectory(limits.names, np.round(times_s, 6), rows, velocities, now, now_s)


METHODS: dict[str, Callable[..., Seam]] = {"cut_and_blend": CutAndBlend, "offset_fading": OffsetFading, "replace": Replace}


def make_seam(settings: Mapping[str, Any]) -> Seam:
    """The method that a configuration names under "method"; the other keys are its arguments."""
    return make_by_name(settings, "method", METHODS, "seam method", SeamError)
