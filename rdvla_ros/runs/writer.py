"""Writes the folder of a run. One thread uses it; its methods raise OSError where the disk does not take it."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rdvla_ros import __version__
from rdvla_ros.robot import RobotDescription
from rdvla_ros.runs import CAMERAS, FORMAT, FORMAT_VERSION, INFO, ROBOT, TABLES, RunError
from rdvla_ros.runs.films import CameraFilm
from rdvla_ros.runs.pictures import film_size
from rdvla_ros.runs.schemas import SCHEMAS
from rdvla_ros.runs.tables import TableWriter

PACKAGES = ("rdvla_ros", "ros-jazzy-rclpy", "torch", "numpy", "safetensors", "opencv-python-headless", "av", "pyarrow", "mujoco")


class RunWriter:
    """A run below `folder`, which must not hold one. robot_file: the description that the nodes read."""

    def __init__(
        self,
        folder: Path,
        robot_file: Path,
        *,
        camera_hz: float = 10.0,
        picture_width: int = 320,
        about: Mapping[str, Any] | None = None,
    ):
        self.folder = check_new(folder)
        robot = RobotDescription.load(robot_file)
        self.sizes = {camera.name: film_size(camera, picture_width) for camera in robot.cameras}
        self.about: dict[str, Any] = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "robot": robot.name,
            "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "versions": versions(),
            "checkpoint": None,
            "parameters": {},
            "camera_hz": camera_hz,
            **(about or {}),
            "ended": None,
        }
        self._tables = {name: TableWriter(self.folder / TABLES / name, name) for name in SCHEMAS}
        fps = max(1, round(camera_hz))
        self._films = {name: CameraFilm(self.folder / CAMERAS, name, size, fps) for name, size in self.sizes.items()}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(robot_file, self.folder / ROBOT)
            self.write_about()
        except OSError as error:
            raise RunError(
                f"record: the run could not be begun in {self.folder}: {error}. Make room, or name another folder."
            ) from error

    def row(self, table: str, row: Mapping[str, Any]) -> None:
        self._tables[table].add(row)

    def picture(self, camera: str, picture: np.ndarray, stamp_s: float, received_s: float) -> None:
        """picture: (height, width, 3) uint8 RGB of the size `sizes` says."""
        frame, film = self._films[camera].append(picture)
        self.row("frames", {"stamp_s": stamp_s, "received_s": received_s, "camera": camera, "frame": frame, "film": film})

    def flush(self) -> None:
        for table in self._tables.values():
            table.flush()

    def write_about(self) -> None:
        """run.json anew, whole or not at all."""
        part = self.folder / f".{INFO}.part"
        part.write_text(json.dumps(self.about, indent=1, default=str) + "\n", encoding="utf-8")
        part.replace(self.folder / INFO)

    def close(self, why: str = "complete") -> None:
        """why: 'complete', or what ended it."""
        self.flush()
        for film in self._films.values():
            film.close()
        rows = {name: table.count for name, table in self._tables.items()}
        self.about["ended"] = {"why": why, "at": time.strftime("%Y-%m-%d %H:%M:%S %z"), "rows": rows}
        self.write_about()


def check_new(folder: str | Path) -> Path:
    """The folder in full; RunError where a run, or anything else, is there already."""
    path = Path(folder).resolve()
    if path.exists() and not path.is_dir():
        raise RunError(f"record: expected a folder for the run at {path}, found a file. Name another one.")
    if path.is_dir() and any(path.iterdir()):
        raise RunError(f"record: expected a new or empty folder for the run, {path} has files in it. Name another one.")
    return path


def versions() -> dict[str, str]:
    found = {"rdvla_ros": __version__, "python": sys.version.split()[0], "system": platform.platform()}
    for name in PACKAGES:
        try:
            found.setdefault(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def checkpoint_about(folder: str | Path) -> dict[str, Any]:
    """The folder of a checkpoint and the digest of its weights, as its manifest says; why not, where there is none."""
    path = Path(folder)
    try:
        weights = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["weights"]
        return {"folder": str(path), "sha256": weights["sha256"], "bytes": weights.get("bytes")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return {"folder": str(path), "sha256": None, "problem": f"its manifest cannot be read ({type(error).__name__})"}
