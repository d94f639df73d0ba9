"""The values that travel between the rooms: frozen, with shapes and units.

A = joints of the robot (all arms, in the order of the robot description), H = steps of an action chunk,
K = scratchpad rows (K = H), D = hidden width, B = batch.

*Policy units* are radians, with each gripper scaled to 0 (closed) .. 1 (open); `RobotDescription.to_policy` and
`from_policy` convert from and to what the controllers use.
"""

from __future__ import annotations

import difflib
import enum
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # torch stays out of the processes that only pass values on (the gate imports this module)
    import torch


class RdvlaError(Exception):
    """Root of every error this package raises on purpose: it says what was expected, what came, and what to do."""


class RobotDescriptionError(RdvlaError):
    """A robot description that cannot be used."""


class CheckpointError(RdvlaError):
    """A checkpoint that cannot be read, or that was made for another robot."""


class ObservationError(RdvlaError):
    """Input from which no decision may be made."""


class TrajectoryError(RdvlaError):
    """A motion that may not be sent."""


class InfeasibleError(TrajectoryError):
    """A chunk in itself in order that no motion within the limits follows from where the arms are, or none in time."""


def nearest_names(name: str, names: Iterable[str]) -> str:
    """End of an error message: the names that exist, and the likeliest one meant."""
    names = [str(n) for n in names]
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"Known: {', '.join(names) if names else 'none'}.{hint}"


def make_by_name(
    settings: Mapping[str, Any], key: str, choices: Mapping[str, Callable], what: str, error: type[RdvlaError]
) -> Any:
    """The object that a configuration names: settings[key] is a name in `choices`, the other keys are its arguments.

    what: how errors call it ('halting rule'). Raises `error` for an unknown name, an unknown argument or a missing one.
    Parameters whose names begin with _ are not offered.
    """
    settings = dict(settings)
    name = settings.pop(key, None)
    if name not in choices:
        raise error(f"{what}: unknown '{name}'. {nearest_names(name, choices)}")
    parameters = {n: p for n, p in inspect.signature(choices[name]).parameters.items() if not n.startswith("_")}
    for argument in settings:
        if argument not in parameters:
            raise error(f"{what} '{name}': unknown key '{argument}'. {nearest_names(argument, parameters)}")
    missing = [n for n, p in parameters.items() if p.default is p.empty and n not in settings]
    if missing:
        raise error(f"{what} '{name}': missing {', '.join(missing)}")
    return choices[name](**settings)


class StopReason(enum.IntEnum):
    """Why the recurrent core stopped iterating."""

    FIXED_DEPTH = 0  # the rule asked for a number of iterations, and they were made
    CONVERGED = 1  # the rule's measure of change fell below its threshold
    ITERATION_LIMIT = 2  # the limit came first: not converged
    DEADLINE = 3  # the time was up: the best chunk so far
    NON_FINITE = 4  # NaN or infinity arose inside the iteration: the chunk may not be used
    DIVERGED = 5  # the iterations moved the plan further and further: the chunk may not be used

    @property
    def unusable(self) -> bool:
        return self in (StopReason.NON_FINITE, StopReason.DIVERGED)


@dataclass(frozen=True)
class Observation:
    """What the policy sees at one moment.

    images: camera name -> (height, width, 3) uint8, RGB.
    positions: (A,) float64, measured joint positions in policy units.
    stamp_s: time of the observation on the ROS clock [s]: the oldest stamp among its parts.
    sensors: name -> (w,) further readings (force, touch), for a policy that was trained with them.
    """

    images: Mapping[str, np.ndarray]
    positions: np.ndarray
    instruction: str
    stamp_s: float = 0.0
    sensors: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class ActionChunk:
    """Joint targets on an even grid: row i is to be reached at stamp_s + (i + 1) * step_s.

    positions: (H, A) float64, absolute joint positions in policy units.
    """

    positions: np.ndarray
    step_s: float
    stamp_s: float = 0.0


@dataclass(frozen=True)
class Refinement:
    """What the recurrent head computed for a batch.

    actions: (B, H, A) normalised chunk. iterations: (B,) int64, core iterations made.
    change: (B, r_max) mean-squared change of the chunk from iteration k-1 to k in column k-1 (so column 0 is NaN);
        NaN where not evaluated, +inf where the iteration produced a non-finite value.
    halted: (B,) bool, the stopping rule was met (False: limit, deadline or non-finite).
    state: (B, K, D) final scratchpad. stop_reason: (B,) int64 of StopReason.
    spread: (B,) mean variance of the chunk over several initial scratchpads, where several were run.
    step_change: (B, H) mean-squared change of each chunk step at the last evaluated iteration (NaN where there is none).
    """

    actions: torch.Tensor
    iterations: torch.Tensor
    change: torch.Tensor
    halted: torch.Tensor
    state: torch.Tensor
    stop_reason: torch.Tensor
    spread: torch.Tensor | None = None
    step_change: torch.Tensor | None = None


@dataclass(frozen=True)
class Decision:
    """One decision of the policy: the chunk, how it was reached, and where the time went.

    iterations, limit: iterations made and allowed. threshold: the stopping rule's (NaN where it has none).
    change: (iterations,) float64, see Refinement.change. converged: the rule was met.
    step_change: (H,) float64, see Refinement.step_change.
    timings: stage -> seconds, with 'total'.
    """

    chunk: ActionChunk
    refinement: Refinement | None
    timings: Mapping[str, float]
    iterations: int
    limit: int
    threshold: float
    change: np.ndarray
    step_change: np.ndarray
    stop_reason: StopReason
    converged: bool
    spread: float = float("nan")
    notes: tuple[str, ...] = field(default=())
