"""`rdvla runs-to-dataset`: what the nodes did, as demonstrations: recorded runs and rosbag2 bags -> one LeRobotDataset.

An episode is a stretch in which the arms were moved (AUTO or TAKEOVER) for one instruction, with all joints and cameras there.
The action of a frame is what the controllers commanded one frame later. `takeover` says which arms a person moved.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rdvla_ros.learning.data.lerobot import ACTION, SENSORS, STATE, TASK_STAGE, DatasetError
from rdvla_ros.learning.data.lerobot.writer import RecordedEpisode, write_dataset
from rdvla_ros.robot import RobotDescription, Sensor
from rdvla_ros.runs import INFO, RunError, signals
from rdvla_ros.runs.reader import Run

TAKEOVER = "takeover"
PICTURE_AGE_S = 0.35  # of the newest picture of a camera at a frame
KEEP = ("all", "takeovers", "successes")
MAX_STAGE = 4


@dataclass(frozen=True)
class Settings:
    """fps: frames per second. shortest_s, longest_s: of an episode; a longer stretch is divided. keep: 'all', 'takeovers' (only
    the frames of a takeover), 'successes' (only episodes of a simulated robot that came to the last stage). instruction: where
    the recording has none."""

    fps: int = 10
    shortest_s: float = 1.0
    longest_s: float = 60.0
    keep: str = "all"
    instruction: str = ""


@dataclass(frozen=True)
class Moments:
    """T moments of a run. state, action (T, A) policy units, NaN where not known; pictures: camera -> (T,) number of the picture,
    -1: none; sensors: name -> (T, w) readings, NaN where not known; mode (T,) text; takeover (T, arms) 0 or 1; instruction (T,)
    text; task: rows of the table, -1: none; episode (T,) of the simulated robot, -1: none."""

    times_s: np.ndarray
    state: np.ndarray
    action: np.ndarray
    pictures: dict[str, np.ndarray]
    sensors: dict[str, np.ndarray]
    mode: np.ndarray
    takeover: np.ndarray
    instruction: np.ndarray
    task: np.ndarray
    episode: np.ndarray


def moments(run: Run, settings: Settings, sensors: Collection[str] = ()) -> Moments:
    """sensors: names of those whose readings the dataset has."""
    robot, (begin_s, end_s) = run.robot, run.span_s
    times_s = np.arange(begin_s, end_s, 1.0 / settings.fps)
    state = np.concatenate([signals.at(signals.measured(run, arm), times_s) for arm in robot.arms], axis=1)
    ahead_s = times_s + 1.0 / settings.fps
    action = np.concatenate([signals.at(signals.commanded(run, arm), ahead_s) for arm in robot.arms], axis=1)
    gate, decisions, task = run.table("gate"), run.table("decisions"), run.table("task")
    mode = signals.values_in_force(gate, "mode", times_s, lambda: -1 if len(gate) else 0)  # without a gate the policy moves
    taken = signals.values_in_force(gate, "taken_over", times_s, list)
    first = decisions["instruction"].iloc[0] if len(decisions) else settings.instruction
    rows = signals.in_force(task, times_s)
    numbers = task["episode"].to_numpy()
    return Moments(
        times_s,
        robot.to_policy(state),
        robot.to_policy(action),
        {camera: _newest(run.frame_stamps(camera), times_s) for camera in robot.camera_names},
        {sensor.name: signals.at(signals.readings(run, sensor), times_s) for sensor in robot.sensors if sensor.name in sensors},
        np.array([signals.MODES.get(m, "") for m in mode]),
        np.array([[arm.name in list(t) for arm in robot.arms] for t in taken], dtype=np.int64),
        np.array([str(text) for text in signals.values_in_force(decisions, "instruction", times_s, lambda: first)], dtype=object),
        rows,
        np.array([int(numbers[row]) if row >= 0 else -1 for row in rows]),
    )


def _newest(stamps_s: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    if not len(stamps_s):
        return np.full(len(times_s), -1)
    ordered = np.maximum.accumulate(stamps_s)
    newest = np.searchsorted(ordered, times_s + 1e-6, side="right") - 1
    old = (newest < 0) | (times_s - ordered[np.maximum(newest, 0)] > PICTURE_AGE_S)
    return np.where(old, -1, newest)


def stretches(found: Moments, settings: Settings) -> tuple[list[slice], Counter[str]]:
    """Episodes as slices of the moments, and how many moments were left out for what."""
    usable, why = np.ones(len(found.times_s), dtype=bool), Counter()

    def leave_out(bad: np.ndarray, reason: str) -> None:
        why[reason] += int((usable & bad).sum())
        usable[bad] = False

    leave_out(~np.isin(found.mode, ("AUTO", "TAKEOVER")), "the gate let nothing pass")
    leave_out(np.isnan(found.state).any(axis=1), "a joint's position is missing")
    leave_out(np.isnan(found.action).any(axis=1), "what the controllers commanded is not known")
    for camera, newest in found.pictures.items():
        leave_out(newest < 0, f"no picture of camera '{camera}'")
    for sensor, values in found.sensors.items():
        leave_out(np.isnan(values).any(axis=1), f"no reading of sensor '{sensor}'")
    leave_out(np.array([not text for text in found.instruction], dtype=bool), "no instruction (give one with --instruction)")
    if settings.keep == "takeovers":
        leave_out(~found.takeover.any(axis=1), "no takeover")
    keys = list(zip(found.instruction, found.episode, strict=True))
    longest, slices, begin = round(settings.longest_s * settings.fps), [], 0
    for i in range(1, len(usable) + 1):
        if i == len(usable) or keys[i] != keys[begin] or not usable[i] or not usable[begin] or i - begin >= longest:
            if usable[begin]:
                slices.append(slice(begin, i))
            begin = i
    shortest = round(settings.shortest_s * settings.fps)
    why["in a stretch that is too short"] += sum(s.stop - s.start for s in slices if s.stop - s.start < shortest)
    return [s for s in slices if s.stop - s.start >= shortest], why


class _Pictures:
    """A camera's pictures by their number, which only grows."""

    def __init__(self, run: Run, camera: str):
        self._stream, self._number, self._picture = run.pictures(camera), -1, None

    def take(self, numbers: np.ndarray) -> np.ndarray | None:
        """(T, height, width, 3) uint8; None where the film ends before."""
        taken = []
        for number in numbers:
            while self._number < number:
                self._picture = next(self._stream, None)
                if self._picture is None:
                    return None
                self._number += 1
            taken.append(self._picture)
        return np.stack(taken)


def episodes(run: Run, settings: Settings, left_out: Counter[str], sensors: Collection[str] = ()) -> Iterator[RecordedEpisode]:
    """The episodes of one run."""
    found, task = moments(run, settings, sensors), run.table("task")
    slices, why = stretches(found, settings)
    left_out.update(why)
    films = {camera: _Pictures(run, camera) for camera in run.robot.camera_names}
    for part in slices:
        notes = _notes(run, found, task, part)
        if settings.keep == "successes" and notes["best_stage"] < MAX_STAGE:
            left_out["the task did not succeed"] += part.stop - part.start
            continue
        pictures = {camera: film.take(found.pictures[camera][part]) for camera, film in films.items()}
        if cut := [camera for camera, taken in pictures.items() if taken is None]:
            left_out[f"the film of camera '{cut[0]}' is cut"] += part.stop - part.start
            continue
        stage = task["stage"].to_numpy()
        columns = {
            STATE: found.state[part].astype(np.float32),
            ACTION: found.action[part].astype(np.float32),
            TAKEOVER: found.takeover[part],
            TASK_STAGE: np.array([int(stage[row]) if row >= 0 else 0 for row in found.task[part]], dtype=np.int64),
            **{SENSORS + name: values[part].astype(np.float32) for name, values in found.sensors.items()},
        }
        yield RecordedEpisode(str(found.instruction[part.start]), columns, pictures, notes)


def _notes(run: Run, found: Moments, task: Any, part: slice) -> dict[str, Any]:
    rows = found.task[part][found.task[part] >= 0]
    best = int(task["best_stage"].iloc[rows].max()) if len(rows) else -1
    seed = int(task["seed"].iloc[rows[-1]]) if len(rows) else -1
    share = float(found.takeover[part].any(axis=1).mean())
    return {
        "run": run.folder.name,
        "begin_s": float(found.times_s[part.start]),
        "seed": seed,
        "best_stage": best,
        "takeover_share": share,
    }


def recorded_sensors(runs: Sequence[Run]) -> tuple[dict[str, int], list[str]]:
    """Name -> how many numbers, of the sensors that every run describes alike and has readings of; a sentence for each other."""
    sizes, remarks = {}, []
    for name in dict.fromkeys(sensor.name for run in runs for sensor in run.robot.sensors):
        found = {run: next((sensor for sensor in run.robot.sensors if sensor.name == name), None) for run in runs}
        first = found[runs[0]]
        for run, sensor in found.items():
            if sensor is None:
                remarks.append(f"{run.folder}: its robot has no sensor '{name}': the dataset is without it.")
            elif first is not None and _told(sensor) != _told(first):
                remarks.append(
                    f"{run.folder}: sensor '{name}' is another one than in {runs[0].folder}: the dataset is without it."
                )
            elif len(signals.readings(run, sensor)[0]) < 2:
                remarks.append(f"{run.folder}: no readings of sensor '{name}' that can be used: the dataset is without it.")
            else:
                continue
            break
        else:
            sizes[name] = first.size
    return sizes, remarks


def _told(sensor: Sensor) -> tuple:
    return sensor.message, sensor.size, sensor.arm, sensor.frame_id


def convert(runs: Sequence[Run], output: Path, settings: Settings) -> tuple[int, Counter[str]]:
    """Write the dataset; the number of episodes, and how many moments were left out for what."""
    if settings.keep not in KEEP:
        raise DatasetError(f"keep: expected one of {', '.join(KEEP)}, got '{settings.keep}'.")
    robot, left_out, count = runs[0].robot, Counter(), 0
    for run in runs[1:]:
        if (run.robot.joint_names, run.robot.camera_names) != (robot.joint_names, robot.camera_names):
            raise DatasetError(
                f"{run.folder} was recorded with robot '{run.robot.name}', {runs[0].folder} with '{robot.name}': their joints or "
                "cameras differ. Make a dataset of each."
            )

    sensors, remarks = recorded_sensors(runs)
    print("\n".join(f"[WARN] {remark}" for remark in remarks), end="\n" if remarks else "")

    def every() -> Iterator[RecordedEpisode]:
        nonlocal count
        for run in runs:
            for episode in episodes(run, settings, left_out, sensors):
                count += 1
                yield episode
        if not count:
            reasons = "; ".join(f"{reason}: {n}" for reason, n in left_out.most_common() if n)
            raise DatasetError(
                f"{', '.join(str(run.folder) for run in runs)}: nothing can be made an episode. Moments left out: {reasons}."
            )

    write_dataset(output, every(), settings.fps, robot.name, _features(robot, sensors))
    return count, left_out


def _features(robot: RobotDescription, sensors: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    joints = {"dtype": "float32", "shape": [len(robot.joints)], "names": list(robot.joint_names)}
    arms = [arm.name for arm in robot.arms]
    return {
        STATE: joints,
        ACTION: joints,
        TAKEOVER: {"dtype": "int64", "shape": [len(arms)], "names": arms},
        TASK_STAGE: {"dtype": "int64", "shape": [1], "names": None},
        **{SENSORS + name: {"dtype": "float32", "shape": [size], "names": None} for name, size in sensors.items()},
    }


def open_source(path: Path, robot: Path | None, namespace: str, scratch: Path) -> tuple[Run, list[str]]:
    """A run, or a bag as a run below `scratch`; with what was missing in it."""
    if (path / INFO).is_file():
        return Run(path), []
    try:
        from rdvla_ros.runs.bags import bag_to_run, is_bag
    except ImportError as error:
        raise RunError(
            f"{path}: expected a recorded run ({INFO}). To read a bag the package '{error.name}' is needed: "
            "pip install mcap mcap-ros2-support."
        ) from error
    if not is_bag(path):
        return Run(path), []  # which says what is there instead
    if robot is None:
        raise RunError(f"{path} is a bag: expected --robot <file>, the description of the robot whose topics are in it.")
    folder = scratch / path.stem
    remarks = bag_to_run(path, robot, folder, namespace)
    return Run(folder), remarks


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="rdvla runs-to-dataset", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, rosbag2 folders or .mcap files")
    parser.add_argument("--output", type=Path, required=True, help="LeRobotDataset to write; one that is there is replaced")
    parser.add_argument("--robot", type=Path, help="robot description, for bags")
    parser.add_argument("--namespace", default="", help="for bags with several robots: the namespace of the wanted one")
    parser.add_argument("--fps", type=int, default=Settings.fps)
    parser.add_argument("--keep", choices=KEEP, default=Settings.keep, help="which frames or episodes")
    parser.add_argument("--instruction", default="", help="where the recording has no decisions")
    parser.add_argument("--longest", type=float, default=Settings.longest_s, help="seconds; a longer episode is divided")
    given = parser.parse_args(argv)
    if not 1 <= given.fps <= 100:
        parser.error(f"--fps: expected 1 .. 100, got {given.fps}")
    settings = Settings(fps=given.fps, keep=given.keep, instruction=given.instruction, longest_s=given.longest)
    with tempfile.TemporaryDirectory(prefix="rdvla-bags-") as scratch:
        runs = []
        for number, path in enumerate(given.runs):
            run, remarks = open_source(path, given.robot, given.namespace, Path(scratch) / str(number))
            print("\n".join(f"[WARN] {remark}" for remark in remarks), end="\n" if remarks else "")
            if run.ended != "complete":
                print(f"[WARN] {path}: {run.ended}")
            runs.append(run)
        count, left_out = convert(runs, given.output, settings)
    print(f"{given.output}: {count} episodes. Train with: rdvla train --data {given.output} ...")
    for reason, moments_ in left_out.most_common():
        if moments_:
            print(f"  left out: {moments_ / settings.fps:.1f} s, {reason}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
