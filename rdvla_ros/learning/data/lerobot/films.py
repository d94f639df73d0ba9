"""Which picture of which video belongs to each row: by time, never by counting.

Frame i of an episode is the picture nearest to from_timestamp + timestamp_i, refused beyond half a frame. A video that was
written with pictures missing or added in between shifts everything after it, which its own times do not show: then the
episode's from_timestamp .. to_timestamp is not as long as its rows, or the video ends before or after its episodes do.
As many missing as surplus pictures in an even video do not show in any time, and are not found.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from rdvla_ros.learning.data.lerobot import DatasetError
from rdvla_ros.learning.data.lerobot.metadata import EpisodeEntry, number_of, path_of, place
from rdvla_ros.learning.data.lerobot.problems import Problems
from rdvla_ros.learning.data.lerobot.rows import DRIFT, Rows
from rdvla_ros.learning.data.lerobot.video import Film

HALF_FRAME = 0.501  # and rounding of stored times
MISALIGNED = "Pictures and rows do not belong together: write the video again, or remove the episode."


class CameraFilms:
    """One camera's videos, matched to the rows of every episode."""

    def __init__(self, key: str, rows: Rows, fps: float, resample: bool, problems: Problems):
        self.key, self.rows, self.fps, self.resample = key, rows, fps, resample
        self.frame_s = 1.0 / fps
        self._chosen: dict[int, tuple[Film, np.ndarray]] = {}
        by_file: dict[Path, list[EpisodeEntry]] = defaultdict(list)
        for episode in rows.episodes:
            with problems.caught():
                by_file[self._path(episode)].append(episode)
        for path, episodes in by_file.items():
            with problems.caught():
                self._match_file(Film.open(path), episodes, problems)

    def has(self, episode: EpisodeEntry) -> bool:
        return episode.index in self._chosen

    def chosen(self, episode: EpisodeEntry) -> tuple[Film, np.ndarray]:
        """The film of an episode and (T,) the number of each frame's picture in it."""
        if not self.has(episode):
            raise DatasetError(
                f"{self.key}: expected the pictures of episode {episode.index}, found that they do not fit its rows."
            )
        return self._chosen[episode.index]

    def _path(self, episode: EpisodeEntry) -> Path:
        chunk, file = (place(episode, f"videos/{self.key}/{part}_index") for part in ("chunk", "file"))
        return path_of(self.rows.folder, self.rows.info, "video_path", video_key=self.key, chunk_index=chunk, file_index=file)

    def _span(self, episode: EpisodeEntry) -> tuple[float, float]:
        begin, end = (number_of(episode, f"videos/{self.key}/{part}_timestamp") for part in ("from", "to"))
        return begin, end

    def _match_file(self, film: Film, episodes: list[EpisodeEntry], problems: Problems) -> None:
        matched: list[tuple[float, EpisodeEntry, np.ndarray]] = []
        for episode in episodes:
            with problems.caught():
                chosen = self._match(film, episode)
                self._chosen[episode.index] = (film, chosen)
                matched.append((self._span(episode)[0], episode, chosen))
        matched.sort(key=lambda item: item[0])
        for (_, before, first), (_, after, second) in zip(matched, matched[1:], strict=False):
            with problems.caught():
                if second[0] <= first[-1]:
                    raise DatasetError(
                        f"{film.path}: episode {after.index}: expected its first picture after the last one of "
                        f"episode {before.index}, found pictures {second[0]} and {first[-1]} of the file: their times overlap. "
                        f"{MISALIGNED}"
                    )
        if matched:
            with problems.caught():
                self._check_end(film, matched[-1][1], min(len(episode) for episode in episodes))

    def _match(self, film: Film, episode: EpisodeEntry) -> np.ndarray:
        """(T,) the picture of each frame."""
        begin_s, end_s = self._span(episode)
        stamps = self.rows.timestamp[episode.begin : episode.end]
        self._check_span(film, episode, end_s - begin_s, stamps)
        moments = begin_s + stamps
        chosen = film.nearest(moments)
        gap_s = np.abs(film.times[chosen] - moments)
        far = np.flatnonzero(gap_s > HALF_FRAME * self.frame_s)
        twice = np.flatnonzero(np.diff(chosen) < 1)
        lasts_s = stamps[-1] - stamps[0] + self.frame_s
        if self.resample and (len(far) or len(twice) or abs(end_s - begin_s - lasts_s) > HALF_FRAME * self.frame_s):
            return self._in_order(film, episode, begin_s, end_s)
        if len(far):
            frame = int(far[0])
            raise DatasetError(
                f"{film.path}: frame {frame} of episode {episode.index}: expected a picture at {moments[frame]:.4f} s "
                f"(from_timestamp + timestamp), found the "
                f"nearest one at {film.times[chosen[frame]]:.4f} s ({len(far)} such frames). {MISALIGNED}"
            )
        if len(twice):
            frame = int(twice[0]) + 1
            raise DatasetError(
                f"{film.path}: frame {frame} of episode {episode.index}: expected a picture of its own at "
                f"{moments[frame]:.4f} s, found only that of frame {frame - 1} at {film.times[chosen[frame]]:.4f} s. {MISALIGNED}"
            )
        return chosen

    def _in_order(self, film: Film, episode: EpisodeEntry, begin_s: float, end_s: float) -> np.ndarray:
        """Rows whose time stamps are not the film's: an even film with just as many pictures as rows, one after the other."""
        inside = np.flatnonzero((film.times > begin_s - 0.5 * self.frame_s) & (film.times < end_s - 0.5 * self.frame_s))
        if len(inside) != len(episode):
            raise DatasetError(
                f"{film.path}: episode {episode.index}: expected {len(episode)} pictures from {begin_s:.4f} to {end_s:.4f} s, "
                f"one for each row, found {len(inside)}. {MISALIGNED}"
            )
        return inside

    def _check_span(self, film: Film, episode: EpisodeEntry, span_s: float, stamps: np.ndarray) -> None:
        """to_timestamp - from_timestamp is as long as the rows last."""
        lengths = [len(stamps) * self.frame_s]
        if self.resample:
            lengths.append(stamps[-1] - stamps[0] + self.frame_s)
        drift_s = min(abs(stamps[-1] - stamps[0] + self.frame_s - lengths[0]), DRIFT * lengths[0])
        slack_s = HALF_FRAME * self.frame_s + (0.0 if self.resample else drift_s)
        if min(abs(span_s - length) for length in lengths) > slack_s:
            raise DatasetError(
                f"{episode.file}: 'videos/{self.key}/to_timestamp' of episode {episode.index}: expected {lengths[0]:.4f} s after "
                f"from_timestamp for {len(stamps)} frames, found {span_s:.4f} s: {film.path.name} has missing or surplus "
                f"pictures. {MISALIGNED}"
            )

    def _check_end(self, film: Film, last: EpisodeEntry, shortest: int) -> None:
        """A few pictures after the last episode are surplus ones of an episode before it; as many as an episode has are one
        that was left out of the tables."""
        end_s = self._span(last)[1]
        after = film.times[self._chosen[last.index][1][-1] + 1 :]
        surplus = int((after > end_s - 0.25 * self.frame_s).sum())
        if 0 < surplus < max(shortest, self.fps):
            raise DatasetError(
                f"{film.path}: expected its last picture before {end_s:.4f} s, where episode {last.index} ends, found {surplus} "
                f"more: surplus pictures shift those after them. {MISALIGNED}"
            )
