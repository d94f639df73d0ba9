"""`rdvla correct`: the policy runs, and every state it comes to is labelled by the expert (DAgger).

Demonstrations show the states an expert visits; a policy that errs comes to others, and there it has seen nothing. Training
goes on with both folders. Written as a LeRobotDataset like demonstrations.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rdvla_ros.learning.evaluation.conditions import Conditions
from rdvla_ros.learning.evaluation.evaluate import DEFAULT_CHECKPOINT, DEFAULT_ROBOT, EvaluationConfig, build_rollout
from rdvla_ros.learning.evaluation.rollout import RolloutConfig
from rdvla_ros.learning.recording.assemble import assemble, recording_folder
from rdvla_ros.learning.recording.demonstrate import STEP_S, Demonstrator
from rdvla_ros.learning.recording.episodes import Episode, episode_path, save_episode
from rdvla_ros.robot import RobotDescription
from rdvla_ros.sim.expert import Memory
from rdvla_ros.sim.tasks import TASKS, named_task

STAY_STEPS = 6  # recorded after success
FALLEN_M = -0.05  # an object this low lies beside the table: the expert cannot help any more


class Corrector:
    """A policy in a simulator, with the expert looking on."""

    def __init__(self, config: EvaluationConfig, every: int = 1):
        """every: action steps from one recorded observation to the next; neighbours differ little and cost as much."""
        self.rollout, self.every = build_rollout(config), every
        self.teacher = Demonstrator(config.task, self.rollout.robot)

    def record(self, seed: int) -> Episode | None:
        """One episode of the policy with the expert's labels; None where it ended before anything could be recorded."""
        rollout, rows, stayed, count = self.rollout, [], 0, 0
        sim = self.teacher.sim = rollout.sim  # one simulator, so that the expert sees what the policy has done

        def watch(reference: np.ndarray, velocity: np.ndarray, _) -> bool:
            nonlocal stayed, count
            count += 1
            if (count - 1) % self.every:
                return True
            view = self.teacher.expert.view(sim)
            if any(position[2] < FALLEN_M for position, _ in view.objects.values()):
                return False
            memory = Memory(reference, velocity)
            labels = self.teacher.relabel(sim, memory)
            phase = self.teacher.expert.step(sim, memory)[1]
            positions, readings = rollout.robot.to_policy(sim.positions), self.teacher.readings(sim)
            rows.append((self.teacher.pictures(sim), positions, readings, labels, reference, sim.stage(), phase))
            stayed = stayed + 1 if self.teacher.expert.strategy.finished(view) else 0
            return stayed * self.every < STAY_STEPS

        rollout.policy.reseed(seed)
        result = rollout.run(seed, watch)
        return self._episode(seed, rows, result.max_stage) if rows else None

    def _episode(self, seed: int, rows: list[tuple], max_stage: int) -> Episode:
        images, positions, readings, labels, executed, stage, phase = zip(*rows, strict=True)
        robot, sim = self.rollout.robot, self.rollout.sim
        return Episode(
            images=np.stack(images),
            positions=np.stack(positions).astype(np.float32),
            readings=np.stack(readings).astype(np.float32),
            sensor_names=np.array([sensor.name for sensor in robot.sensors], str),
            sensor_sizes=np.array([sensor.size for sensor in robot.sensors], np.int64),
            labels=np.stack(labels),
            executed=np.stack(executed).astype(np.float32),
            stage=np.array(stage, np.int8),
            phase=np.array(phase),
            camera_names=np.array(robot.camera_names),
            joint_names=np.array(robot.joint_names),
            task=sim.task.name,
            instruction=sim.instruction,
            seed=seed,
            step_s=STEP_S,
            max_stage=max_stage,
        )


_worker: Corrector | None = None


def _start_worker(config: EvaluationConfig, every: int) -> None:
    global _worker
    _worker = Corrector(config, every)


def _record_one(folder: Path, seed: int) -> tuple[int, int]:
    """Record and save one seed; (observations, highest stage)."""
    episode = _worker.record(seed)
    if episode is None:
        return 0, 0
    save_episode(folder, episode)
    return len(episode.positions), episode.max_stage


def correct(config: EvaluationConfig, seeds: Sequence[int], folder: Path, workers: int, every: int = 1) -> dict:
    """One episode per seed, then the LeRobotDataset `folder` of all of them; seeds that are there already are skipped."""
    parts = recording_folder(folder)
    left = [seed for seed in seeds if not episode_path(parts, seed).exists()]
    for name in ("OMP_NUM_THREADS", "LP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(config, every)) as pool:
        jobs = [pool.submit(_record_one, parts, seed) for seed in left]
        done = [job.result() for job in tqdm(jobs, desc=f"{config.task}, corrections", unit="episode")]
    assemble(folder, RobotDescription.load(config.robot).name)
    stages = [stage for _, stage in done]
    return {
        "recorded": len(done),
        "observations": sum(count for count, _ in done),
        "stages": [stages.count(s) for s in range(5)],
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="rdvla correct", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=DEFAULT_CHECKPOINT)
    parser.add_argument("--task", choices=sorted(TASKS), required=True)
    parser.add_argument("--length", type=int, help="follow_trail: hops of the trail, 0 to 8; without it 0 to 5 by the seed")
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--first-seed", type=int, default=20000, help="seeds 0..99 are held out for evaluation")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--robot", type=Path, default=DEFAULT_ROBOT)
    parser.add_argument("--time-limit", type=float, default=9.0, help="of an episode [s]")
    parser.add_argument("--every", type=int, default=2, help="action steps from one recorded observation to the next")
    parser.add_argument("--latency", type=float, default=0.0, help="from an observation to its trajectory [s]")
    parser.add_argument("--shift", type=float, default=0.0, help="of the top camera from its place, each way anew [m]")
    parser.add_argument("--turn", type=float, default=0.0, help="of the top camera [deg]")
    parser.add_argument("--execute", type=int, default=4, help="rows of each chunk to execute")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args(argv)
    config = EvaluationConfig(
        arguments.checkpoint,
        named_task(arguments.task, arguments.length),
        arguments.robot,
        horizon={"rule": "fixed", "length": arguments.execute},
        rollout=RolloutConfig(
            arguments.time_limit, arguments.latency, Conditions(shift_m=arguments.shift, turn_deg=arguments.turn)
        ),
    )
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.episodes)
    print(json.dumps(correct(config, seeds, arguments.folder, arguments.workers, arguments.every)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
