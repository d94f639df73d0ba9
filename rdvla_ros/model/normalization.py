"""Joint positions and actions between policy units and the network's -1..1, per joint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rdvla_ros.types import CheckpointError, ObservationError, nearest_names

REPRESENTATIONS = ("absolute", "relative")
MINIMUM_WIDTH = 0.02  # [rad, or gripper range]: a joint that hardly moved in the data is scaled by this instead

MINIMUM_STD = 0.02  # of a normalised action: a joint that never moved must not outweigh all others in a divergence


@dataclass(frozen=True)
class Scaler:
    """low -> -1, high -> +1, linear in between and beyond. low, high: (A,) float64, high - low >= MINIMUM_WIDTH."""

    low: np.ndarray
    high: np.ndarray

    @classmethod
    def from_samples(cls, samples: np.ndarray, quantile: float = 0.01) -> Scaler:
        """samples (..., A) -> scaling by the quantile and 1 - quantile of each column (0: least and greatest).

        An arm that never moves would have a range of zero, and the smallest sensor noise would become a huge number:
        such a range is widened around its middle to MINIMUM_WIDTH.
        """
        flat = np.asarray(samples, dtype=np.float64).reshape(-1, np.shape(samples)[-1])
        if not len(flat) or not np.isfinite(flat).all():
            raise CheckpointError(f"Statistics: expected at least one row of finite numbers, got shape {np.shape(samples)}.")
        low, high = np.quantile(flat, [quantile, 1.0 - quantile], axis=0)
        middle, half = (low + high) / 2, np.maximum(high - low, MINIMUM_WIDTH) / 2
        return cls(middle - half, middle + half)

    @classmethod
    def from_dict(cls, data: Mapping[str, Sequence[float]], width: int, what: str) -> Scaler:
        """From the manifest: {'low': [...], 'high': [...]}, each `width` finite numbers with low < high."""
        if set(data) != {"low", "high"}:
            raise CheckpointError(f"Statistics '{what}': expected keys low, high, got {', '.join(map(str, data)) or 'none'}.")
        low, high = (np.asarray(data[key], dtype=np.float64) for key in ("low", "high"))
        for key, values in (("low", low), ("high", high)):
            if values.shape != (width,) or not np.isfinite(values).all():
                raise CheckpointError(f"Statistics '{what}.{key}': expected {width} finite numbers, got shape {values.shape}.")
        if (high - low < 0.5 * MINIMUM_WIDTH).any():
            column = int(np.argmin(high - low))
            raise CheckpointError(
                f"Statistics '{what}': expected high - low of at least {0.5 * MINIMUM_WIDTH:g} in every column, got "
                f"{high[column] - low[column]:g} in column {column}: a division by it would turn noise into motion."
            )
        return cls(low, high)

    def to_dict(self) -> dict[str, list[float]]:
        """For the manifest; inverse of `from_dict`."""
        return {"low": self.low.tolist(), "high": self.high.tolist()}

    def normalise(self, values: np.ndarray) -> np.ndarray:
        """(..., A) policy units -> (..., A), -1..1 within the range of the data."""
        return 2.0 * (values - self.low) / (self.high - self.low) - 1.0

    def denormalise(self, values: np.ndarray) -> np.ndarray:
        """Inverse of `normalise`."""
        return 0.5 * (values + 1.0) * (self.high - self.low) + self.low


SENSOR_REACH = 3.0  # normalised: a blow beyond three times what was demonstrated says no more than that


@dataclass(frozen=True)
class SensorSpace:
    """Readings beside images and joints (force, touch): name -> how many numbers, and their scaling, one after the other."""

    widths: Mapping[str, int]
    scaler: Scaler

    @classmethod
    def fit(cls, widths: Mapping[str, int], readings: np.ndarray) -> SensorSpace:
        """readings (N, W) of the demonstrations, W the sum of the widths."""
        return cls(dict(widths), Scaler.from_samples(readings))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SensorSpace:
        widths = data.get("widths")
        if not isinstance(widths, Mapping) or not all(type(width) is int and width > 0 for width in widths.values()):
            raise CheckpointError(f"Statistics 'sensors.widths': expected names with whole numbers above 0, got {widths!r}.")
        rest = {key: value for key, value in data.items() if key != "widths"}
        return cls(dict(widths), Scaler.from_dict(rest, sum(widths.values()), "sensors"))

    def to_dict(self) -> dict[str, Any]:
        return {"widths": dict(self.widths), **self.scaler.to_dict()}

    def encode(self, readings: np.ndarray) -> np.ndarray:
        """(..., W) -> (..., W), -1..1 within the range of the data, cut at SENSOR_REACH."""
        return np.clip(self.scaler.normalise(readings), -SENSOR_REACH, SENSOR_REACH)

    def beyond(self, readings: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """One sentence for each sensor whose reading `encode` cuts: the policy does not see how large it is."""
        sentences, begin = [], 0
        for name, width in self.widths.items():
            low, high = self.scaler.low[begin : begin + width], self.scaler.high[begin : begin + width]
            begin, values = begin + width, np.asarray(readings[name], dtype=np.float64)
            least, greatest = (0.5 * (reach + 1.0) * (high - low) + low for reach in (-SENSOR_REACH, SENSOR_REACH))
            outside = np.flatnonzero((values < least) | (values > greatest))
            if outside.size:
                i = outside[0]
                sentences.append(
                    f"sensor '{name}' reads {values[i]:.4g} (number {i + 1} of {width}) where the demonstrations lie in "
                    f"{low[i]:.4g} .. {high[i]:.4g}: the policy takes it for {np.clip(values[i], least[i], greatest[i]):.4g}"
                )
        return tuple(sentences)

    def encode_named(self, readings: Mapping[str, np.ndarray]) -> np.ndarray:
        """name -> (w,) of one moment -> (W,); ObservationError where one is missing, of another size or not finite."""
        parts = []
        for name, width in self.widths.items():
            if name not in readings:
                raise ObservationError(f"No reading of sensor '{name}'. {nearest_names(name, readings)}")
            values = np.asarray(readings[name], dtype=np.float64)
            if values.shape != (width,) or not np.isfinite(values).all():
                raise ObservationError(f"Sensor '{name}': expected {width} finite numbers, got {values!r}.")
            parts.append(values)
        return self.encode(np.concatenate(parts))


@dataclass(frozen=True)
class ActionSpace:
    """What the network's numbers mean. A joints, H steps.

    representation: 'absolute' (joint targets) or 'relative' (targets minus the measured position of the observation).
    relative: (A,) bool, the columns that are relative: grippers stay absolute in both, since open and closed are places.
    action_std: (A,) standard deviation of the demonstrated actions, normalised (None: not recorded by older releases).
    demonstrated: where demonstrations went (None: the range of proprioception, which is the same for our own training).
    sensors: further readings that the network sees (None: none).
    """

    relative: np.ndarray
    proprio: Scaler
    action: Scaler
    action_std: np.ndarray | None = None
    demonstrated: Scaler | None = None
    sensors: SensorSpace | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Mapping[str, Sequence[float]]], relative: np.ndarray) -> ActionSpace:
        """Inverse of `to_dict`; `relative` (A,) says how many columns there must be."""
        width, action = len(relative), dict(data["action"])
        std = std_from_dict(action, width)
        action.pop("std", None)
        reach = Scaler.from_dict(data["demonstrated"], width, "demonstrated") if "demonstrated" in data else None
        proprio, scaler = (
            Scaler.from_dict(part, width, name) for part, name in ((data["proprio"], "proprio"), (action, "action"))
        )
        sensors = SensorSpace.from_dict(data["sensors"]) if "sensors" in data else None
        return cls(relative, proprio, scaler, std, reach, sensors)

    def to_dict(self) -> dict[str, dict[str, list[float]]]:
        """All statistics, for a manifest or a training state; `relative` follows from the representation."""
        std = {} if self.action_std is None else {"std": self.action_std.tolist()}
        reach = {} if self.demonstrated is None else {"demonstrated": self.demonstrated.to_dict()}
        sensors = {} if self.sensors is None else {"sensors": self.sensors.to_dict()}
        return {"proprio": self.proprio.to_dict(), "action": self.action.to_dict() | std, **reach, **sensors}

    @property
    def representation(self) -> str:
        return "relative" if self.relative.any() else "absolute"

    def encode_proprio(self, positions: np.ndarray) -> np.ndarray:
        """(..., A) measured positions -> (..., A) within -1..1."""
        return np.clip(self.proprio.normalise(positions), -1.0, 1.0)

    def encode_targets(self, targets: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """(..., H, A) absolute targets, (..., A) measured positions -> (..., H, A) normalised."""
        return self.action.normalise(targets - self._offset(positions))

    def decode_targets(self, actions: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """(..., H, A) normalised, (..., A) measured positions -> (..., H, A) absolute targets; inverse of encode_targets."""
        return self.action.denormalise(actions) + self._offset(positions)

    def within_demonstrated(self, targets: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Targets (..., H, A) kept where demonstrations went, or where the arms are already.

        A relative action where nothing was learnt moves on from wherever the last one led: without a bound a joint could
        wander to its stop.
        """
        reach = self.proprio if self.demonstrated is None else self.demonstrated
        low = np.minimum(reach.low, positions)[..., None, :]
        high = np.maximum(reach.high, positions)[..., None, :]
        return np.clip(targets, low, high)

    def _offset(self, positions: np.ndarray) -> np.ndarray:
        return np.where(self.relative, positions, 0.0)[..., None, :]


def relative_columns(representation: str, joint_names: Sequence[str], gripper_joints: Sequence[str]) -> np.ndarray:
    """(A,) bool: the columns that are relative under this representation."""
    if representation not in REPRESENTATIONS:
        raise CheckpointError(f"Action representation: expected one of {', '.join(REPRESENTATIONS)}, got '{representation}'.")
    return np.array([representation == "relative" and name not in gripper_joints for name in joint_names], dtype=bool)


def fit_action_space(relative: np.ndarray, positions: np.ndarray, targets: np.ndarray) -> ActionSpace:
    """positions (N, A) and absolute targets (N, H, A) of the demonstrations -> scaling.

    Proprioception by the full range with a margin (it is clipped, so nothing that occurs may be cut off); actions by the
    1 % and 99 % quantiles, so that a rare fast motion does not press everything else together.
    """
    proprio = Scaler.from_samples(positions, quantile=0.0)
    margin = 0.1 * (proprio.high - proprio.low)
    actions = targets - np.where(relative, positions, 0.0)[:, None, :]
    scaler = Scaler.from_samples(actions)
    std = scaler.normalise(actions).reshape(-1, actions.shape[-1]).std(axis=0)
    return ActionSpace(relative, Scaler(proprio.low - margin, proprio.high + margin), scaler, np.maximum(std, MINIMUM_STD))


def std_from_dict(data: Mapping[str, Sequence[float]], width: int) -> np.ndarray | None:
    """ActionSpace.action_std from the manifest's action statistics: key 'std', `width` numbers above 0; None without it."""
    if "std" not in data:
        return None
    std = np.asarray(data["std"], dtype=np.float64)
    if std.shape != (width,) or not (np.isfinite(std) & (std > 0)).all():
        raise CheckpointError(f"Statistics 'action.std': expected {width} finite numbers above 0, got {data['std']!r}.")
    return std
