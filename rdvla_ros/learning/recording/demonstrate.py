"""Demonstrations: the scripted expert under disturbances, every visited state labelled by the undisturbed expert."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from rdvla_ros.learning.recording.assemble import assemble, recording_folder
from rdvla_ros.learning.recording.episodes import Episode, episode_path, save_episode
from rdvla_ros.robot import RobotDescription, shipped
from rdvla_ros.sim.disturbance import DISTURBANCES, Disturbance
from rdvla_ros.sim.expert import PERIOD_S, Expert, Memory
from rdvla_ros.sim.readings import readings
from rdvla_ros.sim.scene import AlohaSim
from rdvla_ros.sim.tasks import MAX_STAGE, TASKS, named_task

STEP_S = 0.1  # time between recorded steps, and between the rows of a label
LABEL_ROWS = 12
TAIL_STEPS = 6  # recorded after the task is finished: the policy learns to stay
TIME_LIMIT_S = 15.0
STORED_SIZE = (240, 180)  # [px] width, height
DEFAULT_ROBOT = shipped("config/aloha_sim.yaml")
PERIODS_PER_STEP = round(STEP_S / PERIOD_S)


@dataclass(frozen=True)
class Row:
    """One recorded step; fields as in episodes.Episode, without the time axis. finished: the task is done at this step."""

    images: np.ndarray
    positions: np.ndarray
    readings: np.ndarray
    labels: np.ndarray
    executed: np.ndarray
    stage: int
    phase: str
    finished: bool


class Demonstrator:
    """One simulator with the nominal expert; records episodes and labels states. Not for sharing between threads."""

    def __init__(self, task: str, robot: RobotDescription, size: tuple[int, int] = STORED_SIZE):
        self.robot, self.size = robot, size
        self.sim = AlohaSim(task)
        self.expert = Expert(self.sim.task, robot)
        self._steps = round(PERIOD_S / self.sim.timestep_s)

    def execute(self, sim: AlohaSim, reference: np.ndarray) -> None:
        """One expert period with a reference (14,) in policy units."""
        sim.set_reference(self.robot.from_policy(reference))
        sim.step(self._steps)

    def relabel(self, sim: AlohaSim, memory: Memory | None = None, rows: int | None = None) -> np.ndarray:
        """(rows (12), 14) float32: what the nominal expert would command from the present state, one row per 0.1 s.

        The simulator runs ahead and is put back. memory None: start from the references the actuators have now, at rest.
        """
        before = sim.snapshot()
        memory = memory or self.expert.begin(sim)
        labels = np.empty((rows or LABEL_ROWS, len(memory.reference)), dtype=np.float32)
        for row in labels:
            for _ in range(PERIODS_PER_STEP):
                memory, _ = self.expert.step(sim, memory)
                self.execute(sim, memory.reference)
            row[:] = memory.reference
        sim.restore(before)
        return labels

    def pictures(self, sim: AlohaSim) -> np.ndarray:
        """(C, height, width, 3) uint8: every camera as the robot publishes it, shrunk to the stored size."""
        shots = [sim.render(camera.name, camera.width, camera.height) for camera in self.robot.cameras]
        return np.stack([cv2.resize(shot, self.size, interpolation=cv2.INTER_AREA) for shot in shots])

    def readings(self, sim: AlohaSim) -> np.ndarray:
        """(W,) of the robot's sensors, one after the other."""
        return np.concatenate([np.zeros(0), *readings(sim, self.robot.sensors).values()])

    def record(self, seed: int, disturbed: bool = True) -> Episode | None:
        """One episode; None where the expert did not succeed in it."""
        rows = self.rows(seed, disturbed)
        return self._episode(seed, rows) if sum(row.finished for row in rows) >= TAIL_STEPS else None

    def rows(self, seed: int, disturbed: bool = True) -> list[Row]:
        """Every 0.1 s of an episode, until some steps after the task is finished, or the time is up."""
        sim = self.sim
        return [
            Row(
                images=self.pictures(sim),
                positions=self.robot.to_policy(sim.positions),
                readings=self.readings(sim),
                labels=self.relabel(sim, memory),
                executed=memory.reference,
                stage=sim.stage(),
                phase=self.expert.step(sim, memory)[1],
                finished=finished,
            )
            for memory, finished in self.perform(seed, disturbed)
        ]

    def perform(self, seed: int, disturbed: bool = True) -> Iterator[tuple[Memory, bool]]:
        """Run an episode; stops every 0.1 s to yield the expert's memory and whether the task is finished."""
        sim, rng = self.sim, np.random.default_rng(seed)
        style = self.expert.strategy.style_class.sample(rng) if disturbed else None
        performer = Expert(sim.task, self.robot, style)
        disturbance = Disturbance(DISTURBANCES[sim.task.name], rng) if disturbed else None
        sim.reset(seed, disturbance.start_offset if disturbance else None)
        memory, tail = performer.begin(sim), 0
        while sim.time_s < TIME_LIMIT_S and tail < TAIL_STEPS:
            finished = sim.stage() == MAX_STAGE and self.expert.strategy.finished(self.expert.view(sim))
            tail += finished
            yield memory, finished
            memory = self._perform(performer, memory, disturbance)

    def _perform(self, performer: Expert, memory: Memory, disturbance: Disturbance | None) -> Memory:
        """0.1 s of the (disturbed) expert in its own way."""
        for _ in range(PERIODS_PER_STEP):
            following, _ = performer.step(self.sim, memory)
            if disturbance:
                executed = disturbance.apply(self.sim.time_s, memory.reference, following.reference, PERIOD_S)
                following = Memory(executed, following.velocity)
            self.execute(self.sim, following.reference)
            memory = following
        return memory

    def _episode(self, seed: int, rows: list[Row]) -> Episode:
        def column(name: str, dtype) -> np.ndarray:
            return np.stack([getattr(row, name) for row in rows]).astype(dtype, copy=False)

        return Episode(
            images=column("images", np.uint8),
            positions=column("positions", np.float32),
            readings=column("readings", np.float32),
            sensor_names=np.array([sensor.name for sensor in self.robot.sensors], str),
            sensor_sizes=np.array([sensor.size for sensor in self.robot.sensors], np.int64),
            labels=column("labels", np.float32),
            executed=column("executed", np.float32),
            stage=column("stage", np.int8),
            phase=np.array([row.phase for row in rows]),
            camera_names=np.array(self.robot.camera_names),
            joint_names=np.array(self.robot.joint_names),
            task=self.sim.task.name,
            instruction=self.sim.instruction,
            seed=seed,
            step_s=STEP_S,
            max_stage=self.sim.max_stage,
        )


_worker: Demonstrator | None = None  # one per process: loading the scene and the GL context takes a second


def _start_worker(task: str, robot: RobotDescription, size: tuple[int, int]) -> None:
    global _worker
    _worker = Demonstrator(task, robot, size)


def _record_one(folder: Path, seed: int, disturbed: bool) -> tuple[int, int]:
    """Record and save one seed; (seed, steps), 0 steps where the expert failed."""
    episode = _worker.record(seed, disturbed)
    if episode is None:
        (folder / f"failed_{seed:06d}").touch()
        return seed, 0
    save_episode(folder, episode)
    return seed, len(episode.positions)


def demonstrate(
    task: str,
    seeds: Iterable[int],
    folder: str | Path,
    robot: RobotDescription,
    *,
    size: tuple[int, int] = STORED_SIZE,
    workers: int = 1,
    disturbed: bool = True,
) -> dict:
    """Record one episode per seed, then write the LeRobotDataset `folder` of all that were recorded there; seeds that were tried
    before are skipped. Returns (and writes) a summary."""
    parts = recording_folder(Path(folder))
    seeds = list(seeds)
    tried = [seed for seed in seeds if episode_path(parts, seed).exists() or (parts / f"failed_{seed:06d}").exists()]
    left = sorted(set(seeds) - set(tried))
    # One thread per worker: the software renderer and BLAS would otherwise fight for the same cores.
    for name in ("OMP_NUM_THREADS", "LP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(task, robot, size)) as pool:
        jobs = [pool.submit(_record_one, parts, seed, disturbed) for seed in left]
        for job in tqdm(jobs, desc=task, unit="episode", disable=not left):
            job.result()
    failed = sorted(int(path.name.split("_")[1]) for path in parts.glob("failed_*"))
    recorded = assemble(Path(folder), robot.name)
    summary = {"task": task, "recorded": recorded, "failed": len(failed), "failed_seeds": failed, "size": list(size)}
    (parts / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def measure(task: str, seeds: Iterable[int], robot: RobotDescription, disturbed: bool = False) -> dict:
    """How often and how fast the expert succeeds; nothing is recorded, no picture is made."""
    demonstrator, durations, failed = Demonstrator(task, robot), [], []
    seeds = list(seeds)
    for seed in tqdm(seeds, desc=task, unit="episode"):
        if sum(finished for _, finished in demonstrator.perform(seed, disturbed)) >= TAIL_STEPS:
            durations.append(demonstrator.sim.time_s)
        else:
            failed.append(seed)
    mean_s = round(float(np.mean(durations)), 2) if durations else None
    return {
        "task": task,
        "episodes": len(seeds),
        "succeeded": len(durations),
        "disturbed": disturbed,
        "failed_seeds": failed,
        "mean_duration_s": mean_s,
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="rdvla demonstrate", description=__doc__)
    parser.add_argument("--task", choices=sorted(TASKS), required=True)
    parser.add_argument("--length", type=int, help="follow_trail: hops of the trail, 0 to 8; without it 0 to 5 by the seed")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=10000, help="seeds 0..99 are held out for evaluation")
    parser.add_argument("--folder", type=Path, help="LeRobotDataset to write, or to add to")
    parser.add_argument("--measure", action="store_true", help="only count how often the expert succeeds; records nothing")
    parser.add_argument("--robot", type=Path, default=DEFAULT_ROBOT)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--undisturbed", action="store_true", help="the nominal expert only")
    arguments = parser.parse_args(argv)
    if arguments.folder is None and not arguments.measure:
        parser.error("--folder is needed to record (or --measure to only count successes)")
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.episodes)
    robot, disturbed = RobotDescription.load(arguments.robot), not arguments.undisturbed
    task = named_task(arguments.task, arguments.length)
    if arguments.measure:
        summary = measure(task, seeds, robot, disturbed)
    else:
        summary = demonstrate(task, seeds, arguments.folder, robot, workers=arguments.workers, disturbed=disturbed)
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
