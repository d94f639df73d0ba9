"""`rdvla bench limits`: random chunks, seams, holds and stops, on controllers of every kind: does anything go beyond a limit?"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from rdvla_ros.bench.machine import machine
from rdvla_ros.bench.motion.random_chunks import Tally, run
from rdvla_ros.robot import RobotDescription, shipped

PER_STREAM = 20  # decisions
PER_JOB = 25  # streams: about 3 s
_robot: RobotDescription | None = None  # of a worker process


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 1 where something went beyond a limit."""
    options = _parser().parse_args(argv)
    streams = math.ceil(options.cases / PER_STREAM)
    done, tally, seconds = _earlier(options.out) if options.resume else (0, Tally(), 0.0)
    begun_s = time.monotonic()
    spawn = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    with ProcessPoolExecutor(options.processes, spawn, initializer=_begin, initargs=(str(options.robot),)) as pool:
        jobs = {pool.submit(_job, begin, min(PER_JOB, streams - begin)): begin for begin in range(done, streams, PER_JOB)}
        finished: dict[int, Tally] = {}
        with tqdm(total=streams * PER_STREAM, initial=done * PER_STREAM, unit="case", smoothing=0.02) as bar:
            for job in as_completed(jobs):
                finished[jobs[job]] = job.result()
                bar.update(min(PER_JOB, streams - jobs[job]) * PER_STREAM)
                while done in finished:  # in order, so that a run that was stopped can be continued
                    tally.add(finished.pop(done))
                    done = min(done + PER_JOB, streams)
                    _save(options, done, tally, seconds + time.monotonic() - begun_s)
                bar.set_postfix(violations=len(tally.violations))
    _save(options, done, tally, seconds + time.monotonic() - begun_s)
    print(_summary(tally, options.out))
    return 1 if tally.violations else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("rdvla bench limits", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="decisions: random chunks, refused ones included, and holds")
    parser.add_argument("--robot", type=Path, default=shipped("config/aloha_sim.yaml"), help="robot description")
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="worker processes")
    parser.add_argument("--resume", action="store_true", help="go on where --out ends")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/control_limits.json"), help="results, written as it goes on")
    return parser


def _begin(robot_file: str) -> None:
    global _robot
    _robot = RobotDescription.load(robot_file)


def _job(first_seed: int, count: int) -> Tally:
    tally = Tally()
    for seed in range(first_seed, first_seed + count):
        tally.add(run(_robot, seed, PER_STREAM))
    return tally


def _earlier(path: Path) -> tuple[int, Tally, float]:
    """Streams that are done, what they came to, and how long they took."""
    if not path.exists():
        return 0, Tally(), 0.0
    stored = json.loads(path.read_text(encoding="utf-8"))
    return stored["streams"], Tally(**stored["tally"]), stored["seconds"]


def _save(options: argparse.Namespace, streams: int, tally: Tally, seconds: float) -> None:
    options.out.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "command": f"rdvla bench limits --cases {options.cases}",
        "streams": streams,
        "decisions_per_stream": PER_STREAM,
        "tally": asdict(tally),
        "seconds": round(seconds, 1),
        "machine": machine(),
    }
    temporary = options.out.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    temporary.replace(options.out)


def _summary(tally: Tally, out: Path) -> str:
    shares = ", ".join(f"{what} {share:.4f}" for what, share in tally.largest.items())
    return (
        f"{tally.chunks} chunks ({tally.followed} followed, {tally.refused} refused, {tally.refused_by_gate} refused by the "
        f"gate, {tally.late} too late, {tally.waited} during a hold), {tally.holds} holds, {tally.samples} updates: "
        f"{len(tally.violations)} violations\n"
        f"largest share of each limit: {shares}\nsaved in {out}"
    )
