"""Every score of the study, fitted on the fit part, measured on the test part: one row each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rdvla_ros.control.supervision.signals import OF_TOPICS, PLACEBOS, SIGNALS
from rdvla_ros.learning.evaluation.uncertainty.combine import LatentNet, Logistic
from rdvla_ros.learning.evaluation.uncertainty.perturbations import pattern_of
from rdvla_ros.learning.evaluation.uncertainty.scores import (
    LEAST,
    Scaling,
    Scorer,
    Trace,
    alarms,
    episode_score,
    pooled_auroc,
    ranking,
    shortest_s,
    thresholds,
)

ALPHAS = (0.05, 0.1)
POOLED = "all tasks"


@dataclass(frozen=True)
class Fitted:
    """Everything that was fitted. scalings: task -> z. signs: signal -> +1 or -1, the way it points to failures. scorers: name ->
    score. logistic: of signals that a monitor hears."""

    scalings: Mapping[str, Scaling]
    signs: Mapping[str, int]
    scorers: Mapping[str, Scorer]
    logistic: Logistic | None


def fit(found: Sequence[Trace], cut_s: Mapping[str, float]) -> Fitted:
    """From the fit part alone: other seeds, and perturbations of the seen kinds."""
    part = [one for one in found if one.fits]
    scalings = {task: Scaling.fit(_calm([one for one in part if one.task == task])) for task in {one.task for one in found}}
    cut = [one.cut(cut_s[one.task]) for one in part]
    names = list(dict.fromkeys(name for one in found for name in one.signals))
    signs = {name: _sign(cut, scalings, name) for name in names}
    scorers: dict[str, Scorer] = {}
    for name in sorted(names, key=_order):
        scorers[name] = lambda one, name=name: signs[name] * np.clip(scalings[one.task].z(one, name), -1e6, 1e6)
    enough = min(sum(one.failed for one in cut), sum(not one.failed for one in cut)) >= LEAST
    logistic = None
    if enough:
        heard = [name for name in names if name.partition("/")[0] in OF_TOPICS and name != "scratchpad_spread"]
        logistic = Logistic.fit(cut, scalings, heard)
        whole = Logistic.fit(cut, scalings, [name for name in names if name.partition("/")[0] not in PLACEBOS])
        net = LatentNet(cut)
        scorers["logistic, what a monitor hears"] = lambda one: logistic.score(one, scalings[one.task])
        scorers["logistic, every signal"] = lambda one: whole.score(one, scalings[one.task])
        scorers["network on latents (SAFE-like)"] = net.score
    return Fitted(scalings, signs, scorers, logistic)


def _calm(part: Sequence[Trace]) -> list[Trace]:
    """Successful nominal runs; where there are none, all that succeeded, and then all."""
    good = [one for one in part if not one.failed]
    return [one for one in good if one.nominal] or good or list(part)


def _sign(cut: Sequence[Trace], scalings: Mapping[str, Scaling], name: str) -> int:
    """Which way a signal points, decided on the fit part."""
    strata = []
    for task in {one.task for one in cut}:
        ones = [one for one in cut if one.task == task]
        bad, good = (
            [episode_score(scalings[task].z(one, name)) for one in ones if one.failed is failed] for failed in (True, False)
        )
        strata.append((np.array(bad), np.array(good)))
    return -1 if pooled_auroc(strata) < 0.5 else 1


def _order(name: str) -> tuple[int, str]:
    plain = name.partition("/")[0]
    return list(SIGNALS).index(plain), name


def measure(found: Sequence[Trace]) -> dict[str, Any]:
    """The study's result as plain values."""
    cut_s = shortest_s(found)
    fitted = fit(found, cut_s)
    test = [one for one in found if not one.fits]
    cut = [one.cut(cut_s[one.task]) for one in test]
    tasks = sorted(cut_s)
    parts = {
        POOLED: cut,
        **{task: [one for one in cut if one.task == task] for task in tasks},
        "seen perturbations": [one for one in cut if one.seen_kind],
        "unseen perturbations": [one for one in cut if one.nominal or not one.seen_kind],
    }
    calibrating = [one for one in found if one.fits and one.nominal]
    rows = []
    for name, scorer in fitted.scorers.items():
        row: dict[str, Any] = {"score": name, "sign": fitted.signs.get(name, 1)}
        row["auroc"] = {part: ranking(ones, scorer) for part, ones in parts.items()}
        row["alarms"] = {str(alpha): alarms(test, scorer, thresholds(calibrating, scorer, alpha), cut_s) for alpha in ALPHAS}
        rows.append(row)
    return {
        "tasks": tasks,
        "shortest_s": cut_s,
        "episodes": [dict(one.about) for one in found],
        "counts": _counts(found),
        "rows": rows,
        "weights": dict(fitted.logistic.weights) if fitted.logistic else {},
        "scalings": {pattern_of(task): vars(scaling) for task, scaling in fitted.scalings.items()},
        "parts": list(parts),
    }


def _counts(found: Sequence[Trace]) -> list[dict[str, Any]]:
    """Episodes and failures by task, kind and part."""
    keys = dict.fromkeys((one.task, one.about["kind"], one.fits) for one in found)
    return [
        {
            "task": task,
            "kind": kind,
            "part": "fit" if fits else "test",
            "episodes": len(chosen := [o for o in found if (o.task, o.about["kind"], o.fits) == (task, kind, fits)]),
            "failures": sum(one.failed for one in chosen),
        }
        for task, kind, fits in keys
    ]


def best(result: Mapping[str, Any], part: str = POOLED, among: Sequence[str] | None = None) -> Mapping[str, Any] | None:
    """The row with the largest AUROC; None where nothing could be ranked."""
    known = [
        row
        for row in result["rows"]
        if row["auroc"][part]["auroc"] is not None and (among is None or row["score"].partition("/")[0] in among)
    ]
    return max(known, key=lambda row: row["auroc"][part]["auroc"], default=None)
