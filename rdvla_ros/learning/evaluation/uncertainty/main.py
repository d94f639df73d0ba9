"""`rdvla study uncertainty`: does anything that a decision tells predict that its episode will fail?

    rdvla study uncertainty --output runs/uncertainty --rounds 20

Runs episodes of every task, nominal and perturbed, keeps them below --output (the same command goes on where it stopped), and
writes signals.parquet, uncertainty.json, uncertainty.md and uncertainty.png. Weights and thresholds are fitted on seeds 51000..
and on some kinds of perturbation; everything is measured on seeds 52000.. and on those kinds and others. --no-episodes: only
evaluate what is there. --nominal FIRST COUNT: run nominal episodes of these seeds and evaluate nothing, for 'rdvla calibrate':

    rdvla study uncertainty --nominal 55000 60 --output runs/fresh
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from rdvla_ros.learning.evaluation.uncertainty.kept import EPISODES, load_all, missing, path_of, save
from rdvla_ros.learning.evaluation.uncertainty.perturbations import KINDS, NOMINAL, Kind, kinds_of, planned
from rdvla_ros.learning.evaluation.uncertainty.report import plot, tables
from rdvla_ros.learning.evaluation.uncertainty.rows import measure
from rdvla_ros.learning.evaluation.uncertainty.scores import Trace, traces
from rdvla_ros.robot import shipped
from rdvla_ros.sim.tasks import TASK_NAMES

NAME = "uncertainty"
CHECKPOINT, ROBOT = shipped("checkpoints/compact_aloha"), shipped("config/aloha_sim.yaml")
STUDIED = ("transfer_cube", "insertion")  # what the shipped checkpoint can do
TIME_LIMIT_S, LATENCY_S = 10.0, 0.2  # latency: as through the nodes on two cores; chunks that overlap exist only with one


def wanted(arguments: argparse.Namespace) -> list[tuple[str, Kind, int]]:
    """(task, kind, seed) that the command asks for."""
    if arguments.nominal:
        first, count = arguments.nominal
        return [(task, KINDS[NOMINAL], first + i) for i in range(count) for task in arguments.tasks]
    return [(t, k, s) for t, k, s in planned(arguments.tasks, arguments.rounds) if k in kinds_of(t, arguments.kinds)]


def run(arguments: argparse.Namespace, folder: Path) -> None:
    """The episodes that are not there yet, until --minutes are over."""
    import torch

    from rdvla_ros.learning.evaluation.uncertainty.episodes import Runner

    torch.set_num_threads(1)
    end_s = time.monotonic() + 60.0 * arguments.minutes
    left = list(missing(folder, wanted(arguments)))
    if not left:
        return
    runner = Runner(arguments.checkpoint, arguments.robot, arguments.time_limit, arguments.latency)
    failed = 0
    with tqdm(total=len(left), unit="episode") as progress:
        for task, kind, seed in missing(folder, left):  # another process may have run it since
            if time.monotonic() > end_s:
                break
            kept = runner.run(task, kind, seed)
            save(path_of(folder, task, kind.name, seed), kept)
            failed += kept.failed
            progress.set_postfix_str(f"{task}, {kind.name}; {failed} failed")
            progress.update()


def write_signals(found: Sequence[Trace], path: Path) -> None:
    """One row per decision: episode, time, every signal."""
    rows = [
        {
            **{key: one.about[key] for key in ("task", "kind", "seed", "success", "instruction")},
            "part": "fit" if one.fits else "test",
            "stamp_s": float(one.stamp_s[i]),
            **{name: float(values[i]) for name, values in one.signals.items()},
        }
        for one in found
        for i in range(len(one.stamp_s))
    ]
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="rdvla study uncertainty", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--robot", type=Path, default=ROBOT)
    parser.add_argument("--tasks", nargs="+", choices=TASK_NAMES, metavar="TASK", default=STUDIED)
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help="some kinds of perturbation only")
    parser.add_argument("--rounds", type=int, default=20, help="of some 15 episodes per task")
    parser.add_argument("--nominal", type=int, nargs=2, metavar=("FIRST", "COUNT"), help="only nominal episodes of these seeds")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no further episode after this time")
    parser.add_argument("--time-limit", type=float, default=TIME_LIMIT_S, help="of an episode [s]")
    parser.add_argument("--latency", type=float, default=LATENCY_S, help="from an observation to its trajectory [s]")
    parser.add_argument("--no-episodes", action="store_true", help="evaluate what is there")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(argv)
    folder = arguments.output / EPISODES
    if not arguments.no_episodes:
        run(arguments, folder)
    if arguments.nominal:
        return 0
    found = traces(load_all(folder))
    write_signals(found, arguments.output / "signals.parquet")
    result = measure(found)
    (arguments.output / f"{NAME}.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
    (arguments.output / f"{NAME}.md").write_text(tables(result), encoding="utf-8")
    plot(result, arguments.output / f"{NAME}.png")
    print(tables(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
