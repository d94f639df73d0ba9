"""One PNG that shows what every camera of a dataset saw: a row per camera, a few moments of several episodes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from rdvla_ros.learning.config import TrainingError
from rdvla_ros.learning.data.lerobot.metadata import EpisodeEntry
from rdvla_ros.learning.data.lerobot.problems import Problems
from rdvla_ros.learning.data.source import Source
from rdvla_ros.types import RdvlaError

EPISODES, MOMENTS = 3, 3  # of each episode: its first, its middle and its last picture
HEIGHT, WIDTH, TITLE = 150, 200, 18  # [px] of a picture; TITLE above it
FONT, SIZE, INK = cv2.FONT_HERSHEY_SIMPLEX, 0.38, (20, 20, 20)


def contact_sheet(source: Source, path: Path) -> Path:
    """Write it; a picture that cannot be read is a grey field that says so."""
    data = source.data
    chosen = np.unique(np.linspace(0, len(data.episodes) - 1, EPISODES).round().astype(int))
    rows = []
    for key in data.cameras:
        cells = []
        for episode in (data.episodes[i] for i in chosen):
            for frame in np.unique(np.linspace(0, len(episode) - 1, MOMENTS).round().astype(int)).tolist():
                cells.append(_cell(source, key, episode, frame))
        rows.append(np.concatenate(cells, axis=1))
    if not rows:
        raise TrainingError(f"{data.folder}: expected cameras for a contact sheet, found none.")
    width = max(row.shape[1] for row in rows)
    sheet = np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        written = cv2.imwrite(str(path), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    except cv2.error as error:
        raise TrainingError(f"{path}: expected a name of a PNG file that can be written ({error.err}).") from error
    if not written:
        raise TrainingError(f"{path}: expected a folder that can be written to. Choose another --contact-sheet.")
    return path


def _cell(source: Source, key: str, episode: EpisodeEntry, frame: int) -> np.ndarray:
    """(TITLE + HEIGHT, WIDTH, 3) uint8: the picture, with camera, episode and frame above it."""
    cell = np.full((TITLE + HEIGHT, WIDTH, 3), 255, np.uint8)
    try:
        source.data.check_camera(key, Problems(collect=True))  # a camera that is not used may be anything
        picture = next(iter(source.data.pictures(key, episode, [frame])))
        scale = min(HEIGHT / picture.shape[0], (WIDTH - 4) / picture.shape[1])
        size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        cell[TITLE : TITLE + size[1], 2 : 2 + size[0]] = picture
    except RdvlaError:
        cell[TITLE:, 2 : WIDTH - 2] = 160
        cv2.putText(cell, "cannot be read", (10, TITLE + HEIGHT // 2), FONT, SIZE, INK, 1, cv2.LINE_AA)
    name = key.removeprefix("observation.images.")
    cv2.putText(cell, f"{name[:18]} ep {episode.index} fr {frame}", (2, 12), FONT, SIZE, INK, 1, cv2.LINE_AA)
    return cell
