"""Reads the folder of a run, also of one that was cut short."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rdvla_ros.robot import RobotDescription
from rdvla_ros.runs import CAMERAS, FORMAT, FORMAT_VERSION, INFO, ROBOT, TABLES, RunError
from rdvla_ros.runs.films import NAME, read_film
from rdvla_ros.runs.schemas import SCHEMAS
from rdvla_ros.runs.tables import read_table
from rdvla_ros.types import nearest_names

CUT = "cut: the recorder was ended before it could close the run"


class Run:
    """A run below `folder`; RunError says what is not as it should be."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.about: dict[str, Any] = self._about()
        self.robot = RobotDescription.load(self.folder / ROBOT)
        self._tables: dict[str, pd.DataFrame] = {}

    @property
    def ended(self) -> str:
        """'complete', or what ended the recording."""
        ended = self.about.get("ended")
        return str(ended.get("why")) if isinstance(ended, dict) else CUT

    def table(self, name: str) -> pd.DataFrame:
        """By stamp; rows without a stamp (0) have the time at which they came. Lists are numpy arrays."""
        if name not in SCHEMAS:
            raise RunError(f"{self.folder}: no table '{name}'. {nearest_names(name, SCHEMAS)}")
        if name not in self._tables:
            frame = read_table(self.folder / TABLES / name, name).to_pandas()
            frame["stamp_s"] = frame["stamp_s"].where(frame["stamp_s"] > 0.0, frame["received_s"])
            self._tables[name] = frame.sort_values("stamp_s", kind="stable", ignore_index=True)
        return self._tables[name]

    @cached_property
    def span_s(self) -> tuple[float, float]:
        """First and last time in the tables; RunError where nothing was recorded."""
        stamps = [self.table(name)["received_s"].to_numpy() for name in SCHEMAS]
        whole = np.concatenate(stamps)
        if not whole.size:
            raise RunError(f"{self.folder}: nothing was recorded ({self.ended}). Did the nodes run, in the recorder's namespace?")
        return float(whole.min()), float(whole.max())

    def frame_stamps(self, camera: str) -> np.ndarray:
        """(N,) stamps of a camera's pictures, in the order of `pictures`."""
        return self._frames(camera)["stamp_s"].to_numpy()

    def pictures(self, camera: str) -> Iterator[np.ndarray]:
        """(height, width, 3) uint8 RGB, one for each of `frame_stamps`; fewer where the film was cut."""
        for film, frames in self._frames(camera).groupby("film", sort=True):
            path = self.folder / CAMERAS / NAME.format(camera=camera, film=int(film))
            for _, picture in zip(range(len(frames)), read_film(path), strict=False):
                yield picture

    def _frames(self, camera: str) -> pd.DataFrame:
        frames = self.table("frames")
        return frames[frames["camera"] == camera].sort_values("frame", kind="stable")

    def _about(self) -> dict[str, Any]:
        path = self.folder / INFO
        if not path.is_file():
            found = sorted(item.name for item in self.folder.iterdir())[:8] if self.folder.is_dir() else ["no such folder"]
            raise RunError(
                f"{self.folder}: expected a recorded run ({INFO}), found {', '.join(found) or 'an empty folder'}. "
                "'rdvla demo' and the launch argument record:=<folder> make one."
            )
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            kind, version = about["format"], about["format_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path}: expected JSON with 'format', got {type(error).__name__}: {error}.") from error
        if kind != FORMAT or version != FORMAT_VERSION:
            raise RunError(f"{path}: expected '{FORMAT}' version {FORMAT_VERSION}, got {kind!r} version {version!r}.")
        return about
