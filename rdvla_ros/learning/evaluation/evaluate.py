"""`rdvla evaluate`: a checkpoint in closed loop in the simulator, over many seeds; rates with 95 % Wilson intervals.

An output folder holds `episodes.jsonl` (one line per episode as soon as it is over: the same command goes on where it stopped),
`report.json`, `report.png` and, when asked for, `seed_<n>.mp4`. With --suite: LIBERO instead (rdvla evaluate --suite --help).
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
import yaml
from tqdm import tqdm

from rdvla_ros.control.motion.horizon import make_horizon
from rdvla_ros.learning.evaluation.conditions import Conditions
from rdvla_ros.learning.evaluation.rates import plain, summary, summary_line
from rdvla_ros.learning.evaluation.rollout import Rollout, RolloutConfig
from rdvla_ros.model.policy import Policy
from rdvla_ros.robot import RobotDescription, shipped, shipped_policy
from rdvla_ros.sim.scene import AlohaSim
from rdvla_ros.sim.tasks import TASKS, named_task
from rdvla_ros.types import RdvlaError
from rdvla_ros.video import VideoFile

DEFAULT_ROBOT = shipped("config/aloha_sim.yaml")
DEFAULT_CHECKPOINT = shipped("checkpoints/compact_aloha")
JOURNAL, REPORT, PLOT = "episodes.jsonl", "report.json", "report.png"
FILM_CAMERA, FILM_WIDTH, FILM_HEIGHT = "angle", 480, 360


class EvaluationError(RdvlaError):
    """An evaluation that cannot start or go on."""


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """halting, horizon: settings by name, None for the checkpoint's own. start: of the scratchpad, None for the checkpoint's.
    seed_offset: of the scratchpads that are drawn."""

    checkpoint: Path
    task: str
    robot: Path = DEFAULT_ROBOT
    halting: Mapping[str, Any] | None = None
    horizon: Mapping[str, Any] | None = None
    start: Mapping[str, Any] | None = None
    rollout: RolloutConfig = RolloutConfig()
    seed_offset: int = 0

    def described(self) -> dict[str, Any]:
        """What the episodes' outcome depends on, as plain values."""
        weights = Path(self.checkpoint) / "manifest.json"
        return {
            "task": self.task,
            "checkpoint": Path(self.checkpoint).name,
            "manifest_sha256": hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None,
            "halting": dict(self.halting) if self.halting else "the checkpoint's",
            "horizon": dict(self.horizon) if self.horizon else "the checkpoint's",
            "start": dict(self.start) if self.start else "the checkpoint's",
            "time_limit_s": self.rollout.time_limit_s,
            "latency_s": self.rollout.latency_s,
            "conditions": dataclasses.asdict(self.rollout.conditions),
            "instruction": self.rollout.instruction or "the task's",
            "seed_offset": self.seed_offset,
        }


_worker: Rollout | None = None  # one per process: the scene, the GL context and the weights take seconds to load


def build_rollout(config: EvaluationConfig, policy_class: type[Policy] = Policy) -> Rollout:
    torch.set_num_threads(1)
    robot = RobotDescription.load(config.robot)
    policy = policy_class.load(config.checkpoint, halting=config.halting, start=config.start, seed=config.seed_offset)
    names = (robot.joint_names, robot.camera_names, robot.representation, robot.gripper_joints)
    policy.require_robot(*names, robot.sensor_sizes)
    horizon = make_horizon(config.horizon or policy.horizon_config)
    return Rollout(policy, AlohaSim(config.task), robot, horizon, config.rollout)


def _start_worker(config: EvaluationConfig) -> None:
    global _worker
    _worker = build_rollout(config)


def _run_one(seed: int, film: Path | None) -> dict[str, Any]:
    _worker.policy.reseed(seed)
    if film is None:
        return plain(_worker.run(seed))
    film.parent.mkdir(parents=True, exist_ok=True)
    video = VideoFile(film, round(1.0 / _worker.policy.contract.step_s), FILM_WIDTH, FILM_HEIGHT)
    _worker.film = lambda sim: video.append(sim.render(FILM_CAMERA, FILM_WIDTH, FILM_HEIGHT)[None])
    try:
        return plain(_worker.run(seed))
    finally:
        _worker.film = None
        video.close()


def evaluate(
    config: EvaluationConfig, seeds: Sequence[int], workers: int = 1, folder: Path | None = None, videos: int = 0
) -> dict[str, Any]:
    """One episode per seed, in parallel processes; the report as plain values.

    folder: episodes that lie there already are not run again, and everything is written there. videos: episodes to film.
    """
    done = _journal(config, folder) if folder is not None else {}
    left = [seed for seed in seeds if seed not in done]
    films = {seed: Path(folder) / f"seed_{seed}.mp4" for seed in list(seeds)[:videos]} if folder is not None else {}
    progress = tqdm(_episodes(config, left, workers, films), total=len(left), desc=config.task, unit="episode", disable=not left)
    succeeded = sum(done[seed]["success"] for seed in seeds if seed in done)
    for episode in progress:
        done[episode["seed"]] = episode
        succeeded += episode["success"]
        progress.set_postfix_str(f"{succeeded} succeeded")
        if folder is not None:
            with (Path(folder) / JOURNAL).open("a", encoding="utf-8") as journal:
                journal.write(json.dumps(episode) + "\n")
    episodes = [done[seed] for seed in seeds]
    data = {**config.described(), **summary(episodes), "episodes": episodes}
    if folder is not None:
        (Path(folder) / REPORT).write_text(json.dumps(data) + "\n", encoding="utf-8")
    return data


def _episodes(
    config: EvaluationConfig, seeds: Sequence[int], workers: int, films: Mapping[int, Path]
) -> Iterator[dict[str, Any]]:
    """As they end."""
    if not seeds:
        return
    if workers == 1:
        _start_worker(config)
        yield from (_run_one(seed, films.get(seed)) for seed in seeds)
        return
    for name in ("OMP_NUM_THREADS", "LP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(seeds)), context, initializer=_start_worker, initargs=(config,)) as pool:
        for job in as_completed([pool.submit(_run_one, seed, films.get(seed)) for seed in seeds]):
            yield job.result()


def _journal(config: EvaluationConfig, folder: Path) -> dict[int, dict[str, Any]]:
    """seed -> episode, of the episodes in `folder`, which must have been run with this very configuration."""
    described, path = config.described(), Path(folder) / JOURNAL
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(described) + "\n", encoding="utf-8")
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        found, episodes = json.loads(lines[0]), [json.loads(line) for line in lines[1:]]
    except (ValueError, IndexError) as error:
        raise EvaluationError(f"{path}: expected one JSON object per line, got: {error}. Choose another --output.") from error
    for key, value in described.items():
        if found.get(key) != value:
            raise EvaluationError(
                f"{path} holds episodes with {key} {found.get(key)!r}, this evaluation has {value!r}. Choose another --output."
            )
    return {episode["seed"]: episode for episode in episodes}


def named_settings(text: str | None, key: str = "rule") -> dict[str, Any] | None:
    """'action_kl:threshold=1e-3,max_iterations=16' -> {"rule": "action_kl", "threshold": 0.001, "max_iterations": 16}"""
    if text is None:
        return None
    rule, _, rest = text.partition(":")
    settings: dict[str, Any] = {key: rule}
    for part in filter(None, rest.split(",")):
        name, equals, value = part.partition("=")
        if not equals:
            raise EvaluationError(f"'{text}': expected rule:name=value,name=value, got '{part}'.")
        try:
            settings[name] = float(value) if "e" in value.lower() else yaml.safe_load(value)
        except ValueError:
            settings[name] = value
    return settings


def add_options(parser: argparse.ArgumentParser) -> None:
    """What every closed-loop command has."""
    parser.add_argument("--checkpoint", type=Path, help="folder; without it the shipped one of the task")
    parser.add_argument("--robot", type=Path, default=DEFAULT_ROBOT)
    parser.add_argument("--first-seed", type=int, default=0, help="seeds 0..99 are held out: no training data comes from them")
    parser.add_argument("--time-limit", type=float, default=15.0, help="of an episode [s]")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)


def main(argv: list[str] | None = None) -> int:
    if any(word.partition("=")[0] == "--suite" for word in (sys.argv[1:] if argv is None else argv)):
        from rdvla_ros.learning.evaluation.libero.main import main as libero

        return libero(argv)
    parser = argparse.ArgumentParser(prog="rdvla evaluate", description=__doc__)
    add_options(parser)
    parser.add_argument("--task", choices=sorted(TASKS), default="transfer_cube")
    parser.add_argument("--length", type=int, help="follow_trail: hops of the trail, 0 to 8; without it 0 to 5 by the seed")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--halting", help="rule:name=value,... instead of the checkpoint's, e.g. action_kl:threshold=1e-4")
    parser.add_argument("--horizon", help="rule:name=value,... instead of the checkpoint's, e.g. fixed:length=4")
    parser.add_argument("--start", help="name:key=value,... instead of the checkpoint's, e.g. warm")
    parser.add_argument("--iterations", type=int, help="the same as --halting fixed:iterations=N")
    parser.add_argument("--execute", type=int, help="the same as --horizon fixed:length=N")
    parser.add_argument("--latency", type=float, default=0.0, help="from an observation to its trajectory [s]")
    parser.add_argument("--noise", type=float, default=0.0, help="standard deviation on each pixel [0..255]")
    parser.add_argument("--dropped", type=float, default=0.0, help="share of camera frames that do not come [0..1]")
    parser.add_argument("--shift", type=float, default=0.0, help="how far the top camera stands from its place [m]")
    parser.add_argument("--turn", type=float, default=0.0, help="how far the top camera is turned [deg]")
    parser.add_argument("--videos", type=int, default=0, help="episodes to film, from the first on (with --output)")
    parser.add_argument("--output", type=Path, help="folder for report, plot, films; episodes there are not run again")
    arguments = parser.parse_args(argv)
    halting, horizon = named_settings(arguments.halting), named_settings(arguments.horizon)
    if arguments.iterations is not None:
        halting = {"rule": "fixed", "iterations": arguments.iterations}
    if arguments.execute is not None:
        horizon = {"rule": "fixed", "length": arguments.execute}
    conditions = Conditions(arguments.noise, arguments.dropped, arguments.shift, arguments.turn)
    config = EvaluationConfig(
        arguments.checkpoint or shipped_policy(arguments.task),
        named_task(arguments.task, arguments.length),
        arguments.robot,
        halting,
        horizon,
        named_settings(arguments.start, "start"),
        RolloutConfig(arguments.time_limit, arguments.latency, conditions),
    )
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.episodes)
    data = evaluate(config, seeds, arguments.workers, arguments.output, arguments.videos)
    print(summary_line(arguments.task, data))
    if arguments.output is not None:
        from rdvla_ros.learning.evaluation.plots import plot_report  # matplotlib takes a second to load

        print(plot_report(data, arguments.output / PLOT))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
