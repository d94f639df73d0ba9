"""A calibration: from the signals of a decision to one score, and where the alarm begins for each instruction.

score = exp(sum over signals of weight * z), z = (signal - mean) / scale of the instruction's own successful runs, so that 1 is an
ordinary decision. The threshold is one-sided split-conformal: of n successful runs that chose nothing, the
ceil((n + 1)(1 - alpha))-th smallest of their largest window scores; a new successful run exceeds it with probability alpha at
most (Vovk et al. 2005, Angelopoulos and Bates 2021). It holds for runs like those it was made from, and for no others.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rdvla_ros.control.supervision.signals import SIGNALS
from rdvla_ros.types import RdvlaError, nearest_names

FORMAT, VERSION = "rdvla_ros calibration", 1
FILE = "calibration.json"  # in the folder of the checkpoint that it is for
MANIFEST = "manifest.json"
FURTHEST = 8.0  # z beyond this are not told apart: nothing was seen there
ALPHAS = (0.05, 0.1)


class CalibrationError(RdvlaError):
    """A calibration that cannot be made or may not be used."""


def least_runs(alpha: float) -> int:
    """Successful runs without which no threshold for alpha exists."""
    return math.ceil(1.0 / alpha - 1e-9) - 1


def conformal_threshold(scores: Sequence[float], alpha: float) -> float:
    """scores: the largest of each of n successful runs. CalibrationError where n is too small for alpha."""
    if not 0.0 < alpha < 1.0:
        raise CalibrationError(f"alpha: expected a share of false alarms between 0 and 1, got {alpha!r}.")
    if any(math.isnan(score) for score in scores):
        raise CalibrationError("Scores: expected numbers, got NaN.")
    rank = math.ceil((len(scores) + 1) * (1.0 - alpha) - 1e-9)
    if rank > len(scores):
        raise CalibrationError(
            f"For {alpha:.0%} false alarms: expected at least {least_runs(alpha)} successful runs, got {len(scores)}. Run more "
            "episodes of this instruction, or choose a larger alpha."
        )
    return sorted(scores)[rank - 1]


@dataclass(frozen=True)
class Instruction:
    """What was seen in the n successful runs of one instruction, of `runs` in all. thresholds: alpha as text -> score above which
    there is an alarm."""

    n: int
    runs: int
    mean: Mapping[str, float]
    scale: Mapping[str, float]
    thresholds: Mapping[str, float]


@dataclass(frozen=True)
class Calibration:
    """weights: signal -> weight. window: decisions of which the largest score counts. instructions: text -> Instruction; a * in
    the text stands for any words. source: what it was made from, in words. manifest_sha256: of the checkpoint."""

    manifest_sha256: str
    date: str
    source: str
    window: int
    weights: Mapping[str, float]
    instructions: Mapping[str, Instruction]

    def __post_init__(self) -> None:
        for name in self.weights:
            if name.partition("/")[0] not in SIGNALS:
                raise CalibrationError(f"weights: unknown signal '{name}'. {nearest_names(name, SIGNALS)}")

    def instruction(self, text: str) -> Instruction | None:
        """Made for exactly this text, else for a pattern that it fits; None: not calibrated for it."""
        if text in self.instructions:
            return self.instructions[text]
        return next((known for pattern, known in self.instructions.items() if "*" in pattern and _fits(pattern, text)), None)

    def for_alpha(self, alpha: float) -> Calibration:
        """With those instructions only that have a threshold for alpha; CalibrationError where none has."""
        fitting = {
            t: known for t, known in self.instructions.items() if any(math.isclose(float(a), alpha) for a in known.thresholds)
        }
        for known in () if fitting else self.instructions.values():
            threshold_of(known, alpha)  # raises
        return replace(self, instructions=fitting)

    def parts(self, signals: Mapping[str, float], of: Instruction) -> dict[str, float]:
        """Signal -> what it adds to the score's logarithm; a signal that is not known now adds nothing."""
        found = {}
        for name, weight in self.weights.items():
            value = signals.get(name, math.nan)
            z = (value - of.mean[name]) / of.scale[name]
            found[name] = weight * max(-FURTHEST, min(FURTHEST, z)) if math.isfinite(value) else 0.0
        return found

    def score(self, signals: Mapping[str, float], of: Instruction) -> float:
        """Above 0; +inf where none of the signals is known."""
        if not any(math.isfinite(signals.get(name, math.nan)) for name in self.weights):
            return math.inf
        return math.exp(max(-50.0, min(50.0, sum(self.parts(signals, of).values()))))

    def save(self, path: Path) -> None:
        data = {"format": FORMAT, "format_version": VERSION, **asdict(self)}
        part = path.with_suffix(".part")
        part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        part.replace(path)

    @classmethod
    def load(cls, path: Path, manifest_sha256: str = "") -> Calibration:
        """CalibrationError where it is damaged, of another version or, where a digest is given, of another checkpoint."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CalibrationError(f"{path}: expected a calibration (JSON), got {type(error).__name__}: {error}.") from error
        if not isinstance(data, dict) or (data.pop("format", None), data.pop("format_version", None)) != (FORMAT, VERSION):
            raise CalibrationError(f"{path}: expected '{FORMAT}' version {VERSION}. Make it with 'rdvla calibrate'.")
        try:
            found = cls._read(data)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CalibrationError(
                f"{path}: damaged ({type(error).__name__}: {error}). Make it again with 'rdvla calibrate'."
            ) from error
        if manifest_sha256 and found.manifest_sha256 != manifest_sha256:
            raise CalibrationError(
                f"{path}: expected a calibration of this checkpoint ({manifest_sha256[:12]}), got one of another "
                f"({found.manifest_sha256[:12]}, {found.date}). Make one with 'rdvla calibrate'."
            )
        return found

    @classmethod
    def _read(cls, data: dict[str, Any]) -> Calibration:
        data = {**data, "instructions": {text: Instruction(**known) for text, known in data["instructions"].items()}}
        found = cls(**data)
        weights = set(found.weights)
        if not weights or found.window < 1:
            raise ValueError("expected weights and a window of at least 1")
        for text, known in found.instructions.items():
            numbers = [*known.mean.values(), *known.scale.values(), *known.thresholds.values(), *found.weights.values()]
            if set(known.mean) != weights or set(known.scale) != weights or not all(map(math.isfinite, numbers)):
                raise ValueError(f"'{text}': expected a finite mean and scale of every weighted signal")
            if min(known.scale.values()) <= 0.0 or min(known.thresholds.values(), default=1.0) <= 0.0:
                raise ValueError(f"'{text}': expected scales and thresholds above 0")
            for alpha in known.thresholds:
                if known.n < least_runs(float(alpha)):
                    raise ValueError(f"'{text}': {known.n} runs are too few for alpha {alpha}")
        return found


def threshold_of(known: Instruction, alpha: float) -> float:
    """CalibrationError where the file has no threshold for alpha."""
    for text, value in known.thresholds.items():
        if math.isclose(float(text), alpha):
            return value
    raise CalibrationError(
        f"alpha {alpha:g}: the calibration has thresholds for {', '.join(known.thresholds) or 'none'} (from {known.n} successful "
        f"runs; {least_runs(alpha)} are needed)."
    )


def digest_of(checkpoint: str | Path) -> str:
    """SHA-256 of the manifest, which holds that of the weights; CalibrationError where there is none."""
    try:
        return hashlib.sha256((Path(checkpoint) / MANIFEST).read_bytes()).hexdigest()
    except OSError as error:
        raise CalibrationError(f"{checkpoint}: expected a checkpoint folder with {MANIFEST}, got {error}.") from error


def today() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")


def _fits(pattern: str, text: str) -> bool:
    return re.fullmatch(".*".join(re.escape(part) for part in pattern.split("*")), text) is not None
