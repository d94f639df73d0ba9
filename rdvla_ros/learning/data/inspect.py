"""`rdvla inspect DATASET`: what a LeRobotDataset contains, and everything that a training would refuse in it."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rdvla_ros.learning.config import TrainConfig
from rdvla_ros.learning.data.contact_sheet import contact_sheet
from rdvla_ros.learning.data.joints import JointColumns, policy_units
from rdvla_ros.learning.data.lerobot import SENSORS
from rdvla_ros.learning.data.lerobot.problems import Problems
from rdvla_ros.learning.data.source import Source, Wanted
from rdvla_ros.robot import RobotDescription, shipped

DEFAULT_ROBOT = "config/aloha_sim.yaml"  # as of 'rdvla train'
MOST_TASKS = 20  # listed


def inspect_dataset(folder: Path, robot_file: Path | None, config_file: Path | None, sheet: Path | None) -> int:
    """Print it; 1 where something is wrong, with every problem on a line of its own on stderr."""
    robot = RobotDescription.load(robot_file or shipped(DEFAULT_ROBOT))
    config = TrainConfig.load(config_file)
    wanted = Wanted(config.data, config.model.cameras, robot, config.label_rows, config.held_out_every)
    print(f"Dataset {folder}, for robot '{robot.name}'")
    problems, source = examine(folder, wanted)
    if source is not None:
        for part in (_summary, _tasks, _cameras, _sensors, _ranges):
            with problems.caught():
                print("\n".join(part(source)))
        with problems.caught():
            print(f"\nContact sheet    {contact_sheet(source, sheet or Path(f'{folder.resolve().name}_cameras.png'))}")
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    print(f"\n{_count(problems)}: it cannot be trained on like this." if problems else "\nNo problems found.")
    return 1 if problems else 0


def _count(problems: Problems) -> str:
    return "1 problem" if len(problems) == 1 else f"{len(problems)} problems"


def examine(folder: Path, wanted: Wanted) -> tuple[Problems, Source | None]:
    """All checks of a training, decoding included; what is wrong, and the dataset as far as it could be read."""
    problems, source = Problems(collect=True), None
    with problems.caught():
        source = Source(folder, wanted, problems)
    if source is not None:
        with problems.caught():
            _decode_all(source, problems)
    return problems, source


def _decode_all(source: Source, problems: Problems) -> None:
    """Every picture that a training would read; of those that cannot be decoded, the first of each camera and episode."""
    data, wanted = source.data, source.wanted
    keys = [key for camera in wanted.cameras if (key := wanted.camera_key(camera.name)) in data.features]
    for episode in tqdm(data.episodes, desc="decoding", unit="episode", disable=None):
        for key in keys:
            with problems.caught():
                if data.has_pictures(key, episode):
                    for _ in data.pictures(key, episode, source.frames(episode) - episode.begin):
                        pass


def _summary(source: Source) -> Iterator[str]:
    data = source.data
    lengths = [len(episode) for episode in data.episodes]
    seconds = sum(lengths) / data.true_fps
    robot = data.info.get("robot_type") or "a robot without a name"
    yield f"  format           LeRobot {data.info['codebase_version']}, recorded with {robot}"
    yield f"  episodes         {len(lengths)}, of {min(lengths)} to {max(lengths)} frames (median {np.median(lengths):g})"
    yield f"  frames           {len(data)}, {seconds:.1f} s in all"
    yield f"  frames per s     {data.true_fps:.4g} by the time stamps, {data.fps:g} by info.json"


def _tasks(source: Source) -> Iterator[str]:
    data = source.data
    counts = Counter(data.rows.task_index.tolist())
    yield f"  tasks            {len(counts)}"
    for number, count in counts.most_common(MOST_TASKS):
        yield f"    {count:7d} frames  {json.dumps(data.tasks.get(number, f'task_index {number}'), ensure_ascii=False)}"
    if len(counts) > MOST_TASKS:
        yield f"    and {len(counts) - MOST_TASKS} more"


def _cameras(source: Source) -> Iterator[str]:
    data = source.data
    used = {source.wanted.camera_key(camera.name): camera.name for camera in source.wanted.cameras}
    yield f"  cameras          {len(data.cameras)}"
    for key in data.cameras:
        entry, use = data.features[key], f"camera {used[key]}" if key in used else "not used"
        yield f"    {key}  {entry.get('shape')} {entry.get('dtype')}, {use}"


def _sensors(source: Source) -> Iterator[str]:
    """Of those that the configuration names, the range of the readings: what lies far beyond it later is cut."""
    data, used = source.data, source.wanted.settings.sensors
    keys = [key for key in data.features if key.startswith(SENSORS) or key in used.values()]
    yield f"  sensors          {len(keys)}"
    ends = dict(zip(source.sensor_widths, np.cumsum([*source.sensor_widths.values()]), strict=True))
    for key in keys:
        uses = []
        for name in (name for name, feature in used.items() if feature == key):
            if name in ends:
                readings = source.readings[:, ends[name] - source.sensor_widths[name] : ends[name]]
                uses.append(f"sensor {name}, {readings.min():.4g} .. {readings.max():.4g}")
            else:
                uses.append(f"sensor {name}, which cannot be read")
        use = "; ".join(uses) or "not used (name it under data.sensors of the configuration)"
        yield f"    {key}  {data.features[key].get('shape')} {data.features[key].get('dtype')}, {use}"


def _ranges(source: Source) -> Iterator[str]:
    for columns in source.columns.values():
        yield from _table(columns, source)


def _table(columns: JointColumns, source: Source) -> Iterator[str]:
    """Every joint's least and greatest position beside the robot's limits, in the robot's units."""
    robot = source.wanted.robot
    values = robot.from_policy(policy_units(columns.raw, source.wanted.settings, robot))
    width = max(16, *(len(name) for name in robot.joint_names))
    yield ""
    yield f"{columns.title}: {len(values)} frames [rad or m]"
    yield f"  {'joint'.ljust(width)} {'least':>9} {'greatest':>9}   {'lower':>9} {'upper':>9}   {'stored':>20}"
    for i, joint in enumerate(robot.joints):
        low, high = values[:, i].min(), values[:, i].max()
        mark = "" if joint.lower <= low and high <= joint.upper else "  beyond its limits"
        stored = f"{columns.raw[:, i].min():.4g} .. {columns.raw[:, i].max():.4g}"
        yield (f"  {joint.name.ljust(width)} {low:9.4g} {high:9.4g}   {joint.lower:9.4g} {joint.upper:9.4g}   {stored:>20}{mark}")
