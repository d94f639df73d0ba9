"""`rdvla train`: a compact policy from demonstrations, on a few processor cores; stops and resumes anywhere."""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from rdvla_ros.learning.config import COMPACT, TrainConfig, TrainingError
from rdvla_ros.learning.data.augment import BatchMaker
from rdvla_ros.learning.data.dataset import Frames, Wanted, build_cache, open_cache
from rdvla_ros.learning.training.build import backbone_name, make_tokenizer, resizing
from rdvla_ros.learning.training.parallel import Team, free_port, run_processes
from rdvla_ros.learning.training.trainer import Trainer, load_state, save_state
from rdvla_ros.model.checkpoint import Checkpoint, Contract, load_checkpoint, save_checkpoint
from rdvla_ros.model.normalization import ActionSpace, SensorSpace, fit_action_space, relative_columns
from rdvla_ros.model.tokenizer import WordTokenizer
from rdvla_ros.robot import RobotDescription, shipped

STATE, LOG, POLICY, CURVES = "state.pt", "log.jsonl", "policy", "curves.png"
VALIDATION_FRAMES = 512
DEFAULT_ROBOT = shipped("config/aloha_sim.yaml")


def train(
    config: TrainConfig,
    data: Sequence[Path],
    output: Path,
    robot: RobotDescription,
    *,
    resume: bool,
    team: Team,
    stop_at: float = float("inf"),
    begin_with: Path | None = None,
    device: str = "cpu",
) -> Path:
    """Run to config.steps, or until the wall clock passes stop_at [s]; returns the policy's folder.

    begin_with: checkpoint folder whose weights a new run begins with. device: of torch.
    """
    output.mkdir(parents=True, exist_ok=True)
    cameras = config.model.cameras
    wanted = Wanted(config.data, cameras, robot, config.label_rows, config.held_out_every, resizing(config))
    team.first(lambda: build_cache(data, output / "cache", wanted))
    frames = open_cache(output / "cache", cameras)
    saved = load_state(output / STATE) if resume else None
    if saved is None and (output / STATE).exists():
        raise TrainingError(f"{output} holds a run already. Pass --resume to go on with it, or another --output.")
    usable = np.flatnonzero(~frames.held_out)
    space = _space(config, frames, usable, robot, saved)
    tokenizer = (
        WordTokenizer(tuple(saved["vocabulary"]), config.model.max_words)
        if saved and config.model.backbone == COMPACT
        else make_tokenizer(config, frames.instructions)
    )
    source = load_checkpoint(begin_with) if begin_with is not None and not saved else None
    trainer = Trainer(config, space, tokenizer, team, device, source)
    if saved:
        trainer.restore(saved["trainer"])
    run = _Run(trainer, frames, usable, robot, output, data)
    run.elapsed_s = saved["elapsed_s"] if saved else 0.0
    run.loop(stop_at)
    return output / POLICY


def _space(config: TrainConfig, frames: Frames, usable: np.ndarray, robot: RobotDescription, saved: dict | None) -> ActionSpace:
    relative = relative_columns(config.representation, robot.joint_names, robot.gripper_joints)
    if saved:  # the weights mean what the first data said; later data must not move the scale under them
        return ActionSpace.from_dict(saved["statistics"], relative)
    space = fit_action_space(relative, frames.positions[usable], frames.labels[usable, : config.model.chunk_length])
    if not frames.sensor_widths:
        return space
    return replace(space, sensors=SensorSpace.fit(frames.sensor_widths, frames.readings[usable]))


class _Run:
    """The loop around the trainer: log, validate, save."""

    def __init__(
        self,
        trainer: Trainer,
        frames: Frames,
        usable: np.ndarray,
        robot: RobotDescription,
        output: Path,
        data: Sequence[Path],
    ):
        config = trainer.config
        self.trainer, self.frames, self.usable, self.robot, self.output, self.data = (
            trainer,
            frames,
            usable,
            robot,
            output,
            data,
        )
        self.maker = BatchMaker(frames, trainer.space, trainer.tokenizer, config.augmentation, config.model.chunk_length)
        held_out = np.flatnonzero(frames.held_out)
        chosen = np.random.default_rng(0).permutation(held_out if len(held_out) else usable)
        self.validation = np.sort(chosen[:VALIDATION_FRAMES])
        self.elapsed_s = 0.0
        self.stopping = False
        self.last_error: dict[int, float] = {}

    def loop(self, stop_at: float) -> None:
        config, trainer, team = self.trainer.config, self.trainer, self.trainer.team
        previous = signal.signal(signal.SIGTERM, self._stop)
        started, saved_at, losses = time.monotonic() - self.elapsed_s, time.monotonic(), []
        progress = tqdm(total=config.steps, initial=trainer.step, unit="step", disable=not team.leads, mininterval=1.0)
        try:
            while trainer.step < config.steps:
                result = trainer.take_step(self.frames, self.usable, self.maker)
                losses.append(result)
                progress.update()
                self.elapsed_s = time.monotonic() - started
                if team.leads and trainer.step % config.log_every == 0:
                    self._log(losses)
                    progress.set_postfix_str(self._live(losses))
                    losses = []
                if not trainer.together:
                    continue
                if trainer.step % config.evaluate_every == 0:
                    self._validate()
                if team.agree(time.monotonic() - saved_at > config.save_every_s):
                    self.save()
                    saved_at = time.monotonic()
                if team.agree(self.stopping or time.time() > stop_at):
                    break
        finally:
            progress.close()
            signal.signal(signal.SIGTERM, previous)
        self._validate()
        self.save()
        if team.leads:
            self._draw()

    def _stop(self, *_) -> None:
        self.stopping = True

    def _log(self, results: list) -> None:
        by_depth: dict[int, list[float]] = {}
        for result in results:
            by_depth.setdefault(result.depth, []).append(result.loss)
        self._write(
            loss=float(np.mean([r.loss for r in results])),
            auxiliary=float(np.mean([r.auxiliary for r in results])),
            gradient_norm=float(np.mean([r.gradient_norm for r in results])),
            learning_rate=results[-1].learning_rate,
            by_depth={str(depth): float(np.mean(values)) for depth, values in sorted(by_depth.items())},
        )

    def _live(self, results: list) -> str:
        """Losses of shallow and deep batches, and the last errors on held-out episodes, for the progress bar."""
        split = self.trainer.config.depth.shallow_limit
        parts = {
            f"r<={split}": [r.loss for r in results if r.depth <= split],
            "deeper": [r.loss for r in results if r.depth > split],
        }
        text = ", ".join(f"loss {name} {np.mean(values):.4f}" for name, values in parts.items() if values)
        held_out = "/".join(f"{error:.4f}" for error in self.last_error.values())
        return f"{text}, held out {held_out}" if held_out else text

    def _draw(self) -> None:
        from rdvla_ros.learning.training.plots import plot_run, read_log  # matplotlib takes a second to load

        entries = read_log(self.output / LOG)
        if any("loss" in entry for entry in entries):
            tqdm.write(f"curves: {plot_run(entries, self.output / CURVES)}")

    def _validate(self) -> None:
        if not self.trainer.team.leads and self.trainer.shards is None:
            return  # with shards every process has a part of the weights
        self.last_error = self.trainer.validate(self.maker, self.validation)
        if self.trainer.team.leads:
            self._write(validation={str(depth): error for depth, error in self.last_error.items()})

    def _write(self, **values) -> None:
        entry = {"step": self.trainer.step, "elapsed_s": round(self.elapsed_s, 1), **values}
        with (self.output / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")

    def save(self) -> None:
        """The state to resume from, and the averaged weights as a policy folder."""
        trainer = self.trainer
        if not trainer.team.leads and trainer.shards is None:
            return
        state, model = trainer.state(), trainer.policy_model()
        if not trainer.team.leads:
            return
        space = trainer.space
        save_state(
            self.output / STATE,
            {
                "trainer": state,
                "elapsed_s": self.elapsed_s,
                "vocabulary": list(trainer.tokenizer.vocabulary),
                "statistics": space.to_dict(),
            },
        )
        robot, config = self.robot, trainer.config
        contract = Contract(
            robot.joint_names,
            robot.gripper_joints,
            tuple(c.name for c in config.model.cameras),
            config.representation,
            self.frames.step_s,
            config.model.chunk_length,
        )
        notes = {
            "robot": robot.name,
            "step": trainer.step,
            "minutes": round(self.elapsed_s / 60, 1),
            "observations": len(self.usable),
            "data": [folder.name for folder in self.data],
            "instructions": list(self.frames.instructions),
            "validation_error_by_depth": {str(depth): round(error, 5) for depth, error in self.last_error.items()},
            "config": config.to_dict(),
        }
        name = backbone_name(config)
        checkpoint = Checkpoint(model, contract, space, trainer.tokenizer, training=notes, backbone_name=name)
        save_checkpoint(self.output / POLICY, checkpoint)


def _process(rank: int, size: int, port: int, threads: int, arguments: tuple) -> None:
    torch.set_num_threads(threads)
    team = Team.join(rank, size, port)
    *positional, options = arguments
    try:
        train(*positional, team=team, **options)
    finally:
        team.leave()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="rdvla train", description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="LeRobotDatasets (v3.0); named twice, counts twice")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--config", type=Path, help="YAML file; default: the compact policy of this package")
    parser.add_argument("--robot", type=Path, default=DEFAULT_ROBOT)
    parser.add_argument("--initialise", type=Path, help="checkpoint folder whose weights a new run begins with")
    parser.add_argument("--steps", type=int, help="optimiser steps in all")
    parser.add_argument("--decay-steps", type=int, help="the last of them, in which the learning rate falls to zero")
    parser.add_argument("--learning-rate", type=float, help="the highest")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--average-every", type=int, help="steps that each process goes on its own (1: none)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="save and stop after this time")
    parser.add_argument("--processes", type=int, default=None, help="default: 2, on a GPU 1")
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; with torchrun, each process takes the device of its rank")
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args(argv)
    names = ("steps", "decay_steps", "learning_rate", "batch_size", "average_every")
    overrides = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    config = TrainConfig.load(arguments.config, overrides)
    stop_at = time.time() + 60 * arguments.minutes
    robot = RobotDescription.load(arguments.robot)
    processes = arguments.processes or (min(2, os.cpu_count() or 1) if arguments.device == "cpu" else 1)
    if not 1 <= processes <= config.batch_size:
        raise TrainingError(
            f"--processes: expected 1 .. batch_size ({config.batch_size}), since each takes a share of a batch, got {processes}."
        )
    options = {
        "resume": arguments.resume,
        "stop_at": stop_at,
        "begin_with": arguments.initialise,
        "device": arguments.device,
    }
    job = (config, arguments.data, arguments.output, robot, options)
    team = Team.from_torchrun()
    if team is not None:
        torch.set_num_threads(arguments.threads)
        if arguments.device == "cuda":
            options["device"] = f"cuda:{os.environ['LOCAL_RANK']}"
        train(*job[:4], team=team, **options)
        team.leave()
    elif processes == 1:
        _process(0, 1, 0, arguments.threads, job)
    else:
        os.environ.setdefault("OMP_NUM_THREADS", str(arguments.threads))
        run_processes(_process, processes, (processes, free_port(), arguments.threads, job))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
