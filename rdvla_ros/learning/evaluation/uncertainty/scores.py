"""From kept episodes to scores: which signal ranks the runs that will fail above those that will not, and at which threshold.

Length leak: failed runs are the longest, and whatever grows with time would look like a predictor. All runs of a task are cut to
its shortest one before anything is ranked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rdvla_ros.control.supervision.calibration import CalibrationError, conformal_threshold
from rdvla_ros.control.supervision.signals import LatentReference, Seen, SignalMeter, window_maximum
from rdvla_ros.learning.evaluation.uncertainty.kept import Kept
from rdvla_ros.learning.evaluation.uncertainty.perturbations import KINDS, in_fit_part

WINDOW = 5  # decisions
RESAMPLES, LEAST = 1000, 3  # of a bootstrap; failures and successes without which nothing is ranked
LEAST_SCALE = 0.05


@dataclass(frozen=True)
class Trace:
    """One episode's signals. stamp_s (N,) from its first decision on; signals: name -> (N,); latents (N, D)."""

    about: Mapping[str, Any]
    stamp_s: np.ndarray
    signals: Mapping[str, np.ndarray]
    latents: np.ndarray

    @property
    def failed(self) -> bool:
        return not self.about["success"]

    @property
    def task(self) -> str:
        return str(self.about["task"])

    @property
    def nominal(self) -> bool:
        return KINDS[self.about["kind"]].nominal

    @property
    def seen_kind(self) -> bool:
        return KINDS[self.about["kind"]].seen

    @property
    def fits(self) -> bool:
        """Weights and thresholds may see it."""
        return in_fit_part(self.about["seed"]) and self.seen_kind

    def cut(self, until_s: float) -> Trace:
        keep = self.stamp_s < until_s - 1e-6  # the shortest run has no decision at its end either
        signals = {name: values[keep] for name, values in self.signals.items()}
        return Trace(self.about, self.stamp_s[keep], signals, self.latents[keep])


def seen_decisions(kept: Kept) -> list[Seen]:
    """As the monitor hears them."""
    rows, joints = kept.rows, sum(kept.about["arms"].values())
    return [
        Seen(
            stamp_s=rows["stamp_s"][i],
            iterations=rows["iterations"][i],
            change=rows["change"][i],
            chunk=np.reshape(rows["chunk"][i], (-1, joints)),
            step_s=kept.about["step_s"],
            horizon=rows["horizon"][i],
            measured=np.asarray(rows["measured"][i]),
            spread=rows["spread"][i],
            iterate_variance=rows["iterate_variance"][i],
            latent=np.asarray(rows["latent"][i]),
        )
        for i in range(len(rows["stamp_s"]))
    ]


def arm_columns(arms: Mapping[str, int]) -> dict[str, slice]:
    """name -> its columns, from the numbers of joints in order."""
    ends = np.cumsum(list(arms.values())).tolist()
    return {name: slice(end - count, end) for (name, count), end in zip(arms.items(), ends, strict=True)}


def trace(kept: Kept, reference: LatentReference | None = None) -> Trace:
    meter = SignalMeter(arm_columns(kept.about["arms"]), reference)
    meter.reset(kept.about["seed"])
    rows = [meter.add(seen) for seen in seen_decisions(kept)]
    names = dict.fromkeys(name for row in rows for name in row)
    signals = {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
    return Trace(kept.about, np.asarray(kept.rows["stamp_s"]), signals, np.asarray(kept.rows["latent"], dtype=np.float32))


def traces(episodes: Sequence[Kept]) -> list[Trace]:
    """With the distance of the latents to those of the fit part's successful runs, per task."""
    references = {}
    for task in {kept.about["task"] for kept in episodes}:
        chosen = [
            np.asarray(kept.rows["latent"])
            for kept in episodes
            if kept.about["task"] == task
            and not kept.failed
            and in_fit_part(kept.about["seed"])
            and KINDS[kept.about["kind"]].seen
        ]
        references[task] = LatentReference.fit(np.concatenate(chosen)) if len(chosen) > 1 else None
    return [trace(kept, references[kept.about["task"]]) for kept in episodes]


def shortest_s(found: Iterable[Trace]) -> dict[str, float]:
    """task -> the length of its shortest run [s]; no later decision counts."""
    lengths: dict[str, float] = {}
    for one in found:
        lengths[one.task] = min(lengths.get(one.task, np.inf), one.about["duration_s"])
    return lengths


@dataclass(frozen=True)
class Scaling:
    """signal -> (mean, scale) over the decisions of successful nominal runs of one task."""

    mean: Mapping[str, float]
    scale: Mapping[str, float]

    @classmethod
    def fit(cls, chosen: Sequence[Trace]) -> Scaling:
        mean, scale = {}, {}
        for name in chosen[0].signals if chosen else ():
            values = np.concatenate([one.signals[name] for one in chosen])
            values = values[np.isfinite(values)]
            mean[name] = float(values.mean()) if values.size else 0.0
            scale[name] = max(float(values.std()) if values.size else 0.0, LEAST_SCALE * abs(mean[name]), 1e-3)
        return cls(mean, scale)

    def z(self, one: Trace, name: str) -> np.ndarray:
        """(N,) NaN where unknown."""
        if name not in self.mean:
            return np.full(len(one.stamp_s), np.nan)
        return (one.signals[name] - self.mean[name]) / self.scale[name]


Scorer = Callable[[Trace], np.ndarray]  # (N,) a score for each decision, comparable between tasks


def episode_score(scores: np.ndarray) -> float:
    """The largest of a sliding window's largest: no sums, which would only tell how long a run was."""
    return float(window_maximum(scores, WINDOW).max()) if len(scores) else -np.inf


def auroc(bad: np.ndarray, good: np.ndarray) -> float:
    """Probability that a run that fails scores higher than one that succeeds, ties half."""
    if not len(bad) or not len(good):
        return float("nan")
    every = np.concatenate([bad, good])
    _, inverse, counts = np.unique(every, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2.0
    return float((ranks[inverse][: len(bad)].sum() - len(bad) * (len(bad) + 1) / 2) / (len(bad) * len(good)))


Strata = Sequence[tuple[np.ndarray, np.ndarray]]  # scores of failures and of successes, of each task


def pooled_auroc(strata: Strata) -> float:
    """Over pairs of the same task only: which task it is must not look like a prediction."""
    pairs = [len(bad) * len(good) for bad, good in strata]
    known = [(auroc(bad, good), count) for (bad, good), count in zip(strata, pairs, strict=True) if count]
    return float(np.average([a for a, _ in known], weights=[n for _, n in known])) if known else float("nan")


def auroc_interval(strata: Strata, seed: int = 0) -> tuple[float, float]:
    """95 %, by bootstrap over episodes; failures and successes of each task are drawn apart."""
    rng, right, pairs = np.random.default_rng(seed), np.zeros(RESAMPLES), 0

    def times_drawn(count: int) -> np.ndarray:
        """(RESAMPLES, count): how often each of them is in a resample."""
        return rng.multinomial(count, np.full(count, 1.0 / count), size=RESAMPLES).astype(np.float64)

    for bad, good in strata:
        if len(bad) and len(good):
            in_order = (bad[:, None] > good) + 0.5 * (bad[:, None] == good)
            right += np.einsum("rg,rg->r", times_drawn(len(bad)) @ in_order, times_drawn(len(good)))
            pairs += len(bad) * len(good)
    low, high = np.quantile(right / pairs, (0.025, 0.975))
    return float(low), float(high)


def ranking(found: Sequence[Trace], scorer: Scorer) -> dict[str, Any]:
    """AUROC of episodes that are cut already."""
    strata = []
    for task in sorted({one.task for one in found}):
        ones = [one for one in found if one.task == task]
        scores, failed = np.array([episode_score(scorer(one)) for one in ones]), np.array([one.failed for one in ones])
        strata.append((scores[failed], scores[~failed]))
    failures, successes = (sum(len(pair[part]) for pair in strata) for part in (0, 1))
    result: dict[str, Any] = {"failures": failures, "successes": successes, "auroc": None, "interval": None}
    if any(min(len(bad), len(good)) >= LEAST for bad, good in strata):
        result.update(auroc=pooled_auroc(strata), interval=auroc_interval(strata))
    return result


def thresholds(calibrating: Sequence[Trace], scorer: Scorer, alpha: float) -> dict[str, float]:
    """task -> threshold on whole runs that succeeded; tasks with too few of them are absent."""
    result = {}
    for task in {one.task for one in calibrating}:
        scores = [episode_score(scorer(one)) for one in calibrating if one.task == task and not one.failed]
        try:
            result[task] = conformal_threshold(scores, alpha)
        except CalibrationError:
            continue
    return result


def alarms(found: Sequence[Trace], scorer: Scorer, limits: Mapping[str, float], cut_s: Mapping[str, float]) -> dict[str, Any]:
    """What a threshold does to whole runs: share of failures with an alarm (at all, and before the task's shortest run is over),
    share of nominal successes with one, alarms per such run and per minute of them, time from alarm to the end of a failure."""
    caught, early, clean, begun, minutes, ahead = [], [], [], [], 0.0, []
    for one in found:
        if one.task not in limits:
            continue
        over = window_maximum(scorer(one), WINDOW) > limits[one.task]
        first_s = float(one.stamp_s[np.argmax(over)]) if over.any() else np.inf
        if one.failed:
            caught.append(bool(over.any()))
            early.append(first_s <= cut_s[one.task])
            if over.any():
                ahead.append(one.about["duration_s"] - first_s)
        elif one.nominal:
            clean.append(bool(over.any()))
            begun.append(int(over[0]) + int((over[1:] & ~over[:-1]).sum()) if len(over) else 0)
            minutes += one.about["duration_s"] / 60.0
    return {
        "caught": [int(sum(caught)), len(caught)],
        "caught_early": [int(sum(early)), len(early)],
        "false": [int(sum(clean)), len(clean)],
        "alarms_per_clean_episode": float(np.mean(begun)) if begun else None,
        "alarms_per_clean_minute": sum(begun) / minutes if minutes else None,
        "ahead_s": float(np.median(ahead)) if ahead else None,
    }
