"""`rdvla evaluate --suite`: LIBERO, by the protocol of the published results; rates with 95 % Wilson intervals.

Seed 7, 50 rollouts of each task from its stored states, 10 steps of waiting, at most 220, 280, 300 or 520 steps (Spatial, Object,
Goal, Long), pictures of 256 pixels, 5 of the 8 actions of a chunk executed. An output folder holds `episodes.jsonl` (one line per
rollout as soon as it is over: the same command goes on where it stopped), `report.json` and, when asked for, films.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from rdvla_ros.learning.evaluation.libero.client import EndedError, LiberoError, Seen, Simulator, libero_python
from rdvla_ros.learning.evaluation.libero.policies import LiberoPolicy, PublishedPolicy, RandomPolicy, ScriptedPolicy
from rdvla_ros.learning.evaluation.rates import rate
from rdvla_ros.model.checkpoint import sha256_of
from rdvla_ros.video import VideoFile

LIMITS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520}  # steps of a rollout
NAMES = {"libero_long": "libero_10"}
WAIT, SIZE, SEED, FPS = 10, 256, 7, 20
JOURNAL, REPORT = "episodes.jsonl", "report.json"
RUNNERS = ("random", "scripted")


@dataclass(frozen=True)
class LiberoConfig:
    """policy: 'random', 'scripted' or a published folder. limit: steps of a rollout; 0: the protocol's."""

    suite: str
    policy: str
    dataset: str | None = None
    execute: int = 5
    iterations: int = 12
    limit: int = 0

    @property
    def steps(self) -> int:
        return self.limit or LIMITS.get(self.suite, max(LIMITS.values()))

    def described(self) -> dict[str, Any]:
        """What the rollouts' outcome depends on, as plain values; of a published folder the bytes, not only the name."""
        return asdict(self) if self.policy in RUNNERS else {**asdict(self), "policy_sha256": digest(Path(self.policy))}


def digest(folder: Path) -> str:
    """SHA-256 of the names and bytes of its files, seconds for some GiB. Hidden ones are a download's own notes."""
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    files = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    if not files:
        raise LiberoError(f"{folder}: expected a published checkpoint, found no files.")
    whole = hashlib.sha256()
    for name in tqdm(files, desc="digest of the checkpoint", unit="file", disable=None, delay=2.0):
        whole.update(f"{name.as_posix()} {sha256_of(folder / name)}\n".encode())
    return whole.hexdigest()


def make_policy(config: LiberoConfig) -> LiberoPolicy:
    if config.policy in RUNNERS:
        return RandomPolicy() if config.policy == "random" else ScriptedPolicy()
    halting = {"rule": "fixed", "iterations": config.iterations}
    return PublishedPolicy(Path(config.policy), config.dataset, config.execute, halting)


class Runner:
    """A policy and a simulator; one per process, since both take long to make. simulate: starts a simulator."""

    def __init__(self, config: LiberoConfig, simulate: Callable[[], Simulator] | None = None):
        torch.set_num_threads(1)
        self.config, self.policy = config, make_policy(config)
        self._simulate = simulate or Simulator
        self.simulator = self._simulate()
        self.tasks = self.simulator.suite(config.suite)
        self._open: tuple[int, int] | None = None  # task, its initial states

    def run(self, task: int, rollout: int, film: Path | None = None) -> dict[str, Any]:
        """One rollout, from the initial state of its number. Where the simulator's process ends (out of memory, say) a new one
        runs it from its beginning, once; the result is then 'restarted'."""
        try:
            return self._run(task, rollout, film)
        except EndedError as error:
            tqdm.write(f"Task {task}, rollout {rollout}: {error} It is run again by a new process.", file=sys.stderr)
        self.simulator.close()
        self.simulator, self._open = self._simulate(), None
        self.simulator.suite(self.config.suite)
        return {**self._run(task, rollout, film), "restarted": True}

    def _run(self, task: int, rollout: int, film: Path | None) -> dict[str, Any]:
        if self._open is None or self._open[0] != task:
            self._open = task, self.simulator.open(task, SIZE)
        self.policy.begin(self.tasks[task]["instruction"], SEED + rollout)
        seen, steps, pictures = self.simulator.reset(rollout % self._open[1], WAIT), 0, []
        while not seen.done and steps < self.config.steps:
            actions = self.policy.act(seen)[: self.config.steps - steps]
            seen = self.simulator.step(actions)
            steps += len(actions)
            if film is not None:
                pictures.append(_both(seen))
        if film is not None:
            film.parent.mkdir(parents=True, exist_ok=True)
            video = VideoFile(film, max(1, round(FPS * len(pictures) / max(1, steps))), 2 * SIZE, SIZE)
            video.append(np.stack(pictures))
            video.close()
        return {"task": task, "rollout": rollout, "success": seen.done, "steps": steps, "name": self.tasks[task]["name"]}

    def close(self) -> None:
        self.simulator.close()


def _both(seen: Seen) -> np.ndarray:
    return np.concatenate([seen.images["agentview"], seen.images["wrist"]], 1)


_runner: Runner | None = None


def _start(config: LiberoConfig) -> None:
    global _runner
    _runner = Runner(config)


def _run(task: int, rollout: int, film: Path | None) -> dict[str, Any]:
    return _runner.run(task, rollout, film)


def evaluate(
    config: LiberoConfig, jobs: Sequence[tuple[int, int]], workers: int, folder: Path, videos: int = 0, ray: str | None = None
) -> dict[str, Any]:
    """jobs: (task, rollout). ray: address of a cluster whose machines take the rollouts, 'local' for one that is started here."""
    described = config.described()
    done = _journal(described, folder)
    left = [job for job in jobs if job not in done]
    films = {job: folder / f"task{job[0]}_rollout{job[1]}.mp4" for job in jobs[:videos]}
    runs = _over_ray(config, left, films, workers, ray) if ray else _here(config, left, films, workers)
    progress = tqdm(runs, total=len(left), desc=config.suite, unit="rollout", disable=not left)
    for episode in progress:
        done[episode["task"], episode["rollout"]] = episode
        progress.set_postfix_str(f"{sum(e['success'] for e in done.values())} succeeded")
        with (folder / JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(episode) + "\n")
    episodes = [done[job] for job in jobs]
    tasks = sorted({episode["task"] for episode in episodes})
    by_task = {
        next(e["name"] for e in episodes if e["task"] == task): rate([e["success"] for e in episodes if e["task"] == task])
        for task in tasks
    }
    data = {**described, "success": rate([e["success"] for e in episodes]), "tasks": by_task, "episodes": episodes}
    (folder / REPORT).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return data


def _here(config: LiberoConfig, jobs: Sequence[tuple[int, int]], films: dict, workers: int) -> Iterator[dict[str, Any]]:
    """As they end."""
    if not jobs:
        return
    if workers == 1:
        runner = Runner(config)
        try:
            yield from (runner.run(*job, films.get(job)) for job in jobs)
        finally:
            runner.close()
        return
    for name in ("OMP_NUM_THREADS", "LP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=_start, initargs=(config,)) as pool:
        try:
            for job in as_completed([pool.submit(_run, *job, films.get(job)) for job in jobs]):
                yield job.result()
        except BrokenProcessPool as error:
            raise LiberoError(
                "A process of the rollouts ended. With --workers 1 its reason is shown; what was run is kept."
            ) from error
        finally:  # after an error nothing more is begun, for it would not be kept
            pool.shutdown(cancel_futures=True)


def _over_ray(
    config: LiberoConfig, jobs: Sequence[tuple[int, int]], films: dict, workers: int, address: str
) -> Iterator[dict[str, Any]]:
    """One actor per worker, wherever the cluster has room; each takes a rollout after the other. Films stay on its machine."""
    try:
        import ray
    except ImportError as error:
        raise LiberoError("--ray needs the package ray in this environment: pip install ray.") from error
    ray.init(address=None if address == "local" else address, num_cpus=workers if address == "local" else None)
    try:
        actor = ray.remote(num_cpus=1)(Runner)
        pool = ray.util.ActorPool([actor.remote(config) for _ in range(min(workers, len(jobs)))])
        yield from pool.map_unordered(lambda runner, job: runner.run.remote(*job, films.get(job)), list(jobs))
    finally:
        ray.shutdown()


def _journal(described: Mapping[str, Any], folder: Path) -> dict[tuple[int, int], dict[str, Any]]:
    """(task, rollout) -> episode, of those in `folder`, which must have been run with this very configuration."""
    path = folder / JOURNAL
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(described) + "\n", encoding="utf-8")
        return {}
    try:
        found, *episodes = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    except ValueError as error:
        raise LiberoError(f"{path}: expected one JSON object per line, got: {error}. Choose another --output.") from error
    for key, value in described.items():
        if found.get(key) != value:
            raise LiberoError(f"{path} holds rollouts with {key} {found.get(key)!r}, this is {value!r}. Choose another --output.")
    return {(episode["task"], episode["rollout"]): episode for episode in episodes}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="rdvla evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", required=True, help=f"{', '.join([*LIMITS, *NAMES])}, or another one of LIBERO-PRO")
    parser.add_argument("--checkpoint", required=True, help="a published folder; or random, or scripted")
    parser.add_argument("--dataset", help="which statistics of the folder scale state and actions, where it has several")
    parser.add_argument("--tasks", type=int, nargs="+", help="numbers of tasks, from 0; without it all")
    parser.add_argument("--rollouts", type=int, default=50, help="of each task")
    parser.add_argument("--execute", type=int, default=5, help="actions of each chunk to execute")
    parser.add_argument("--iterations", type=int, default=12, help="of the recurrent core")
    parser.add_argument("--steps", type=int, default=0, help="of a rollout at most; 0: the protocol's")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="of a Ray cluster that shares the rollouts; 'local': one of this machine"
    )
    parser.add_argument("--videos", type=int, default=0, help="rollouts to film, from the first on")
    parser.add_argument("--output", type=Path, required=True, help="folder; rollouts there are not run again")
    arguments = parser.parse_args(argv)
    for name, least in {"rollouts": 1, "execute": 1, "iterations": 1, "steps": 0, "workers": 1, "videos": 0}.items():
        if (value := getattr(arguments, name)) < least:
            parser.error(f"--{name}: expected at least {least}, got {value}")
    suite = NAMES.get(arguments.suite, arguments.suite)
    config = LiberoConfig(
        suite, arguments.checkpoint, arguments.dataset, arguments.execute, arguments.iterations, arguments.steps
    )
    tasks = arguments.tasks if arguments.tasks is not None else range(_count(suite))
    jobs = [(task, rollout) for task in tasks for rollout in range(arguments.rollouts)]
    data = evaluate(config, jobs, arguments.workers, arguments.output, arguments.videos, arguments.ray)
    for name, part in {**data["tasks"], suite: data["success"]}.items():
        low, high = (100 * bound for bound in part["wilson95"])
        print(f"{name}: {part['count']}/{part['of']} ({low:.0f}..{high:.0f} %)")
    return 0


def _count(suite: str) -> int:
    """Tasks of the suite."""
    libero_python()  # says what to do where there is none
    simulator = Simulator()
    try:
        return len(simulator.suite(suite))
    finally:
        simulator.close()


if __name__ == "__main__":
    raise SystemExit(main())
