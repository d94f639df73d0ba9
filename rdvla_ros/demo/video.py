"""An mp4 of an episode, with what the policy thinks written into the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from rdvla_ros.video import FILM, VideoFile

WHITE, GREY, GREEN, AMBER, RED = (255, 255, 255), (170, 170, 170), (110, 220, 120), (255, 190, 60), (255, 90, 80)  # RGB
FONT = cv2.FONT_HERSHEY_SIMPLEX
BAR_WIDTH, BAR_GAP, BARS_HEIGHT = 4, 2, 48  # [px] at 480 px picture height


@dataclass(frozen=True)
class Overlay:
    """What stands in one picture. iterations: those of all decisions so far, the last one newest."""

    iterations: Sequence[int] = ()
    limit: int = 0
    change: float = math.nan
    horizon: int = 0
    chunk_length: int = 0
    stage: int = 0
    stage_name: str = ""
    uncertainty: float = math.nan
    alarm: bool = False
    gate_mode: str = ""
    gate_reason: str = ""
    elapsed_s: float = 0.0


class EpisodeVideo:
    """Pictures by their time into a file of constant rate: late ones are repeated, so that the film runs in real time."""

    def __init__(self, path: Path, width: int, height: int, rate_hz: float):
        # even sides, as the codec wants them
        self.path, self.size, self._rate_hz = Path(path), (width - width % 2, height - height % 2), rate_hz
        self._start_s: float | None = None
        self._file = VideoFile(self.path, round(rate_hz), *self.size, FILM)

    def add(self, picture: np.ndarray, stamp_s: float) -> None:
        """picture: (height, width, 3) uint8 RGB at stamp_s; it stays in the film until the next one."""
        self._start_s = stamp_s if self._start_s is None else self._start_s
        due = round((stamp_s - self._start_s) * self._rate_hz) + 1
        frame = np.ascontiguousarray(picture[: self.size[1], : self.size[0]])
        count = min(due - self._file.frames, round(10 * self._rate_hz))  # a clock that jumps makes no endless film
        self._file.append([frame] * count)

    def close(self) -> None:
        self._file.close()


def draw(picture: np.ndarray, overlay: Overlay) -> np.ndarray:
    """A copy of the (height, width, 3) RGB picture with the overlay in its upper band and the iterations below."""
    out = np.array(picture, dtype=np.uint8)
    scale = out.shape[0] / 480
    band = round(62 * scale)
    out[:band] = (out[:band] * 0.35).astype(np.uint8)
    left, right = 8, round(out.shape[1] * 0.56)
    last = overlay.iterations[-1] if overlay.iterations else None
    _text(out, f"iterations {_or_dash(last)} of {overlay.limit or '-'}", (left, 24), scale, WHITE)
    horizon = f"horizon {overlay.horizon} of {overlay.chunk_length or '-'}"
    _text(out, f"change {_number(overlay.change, '.1e')}  {horizon}", (left, 50), scale, WHITE)
    _text(out, f"stage {overlay.stage} of 4 {overlay.stage_name}", (right, 24), scale, GREEN if overlay.stage else WHITE)
    _text(out, f"uncertainty {_number(overlay.uncertainty, '.2f')}", (right, 50), scale, RED if overlay.alarm else WHITE)
    foot = out.shape[0] / scale - 10
    held = overlay.gate_mode not in ("", "AUTO")
    gate = f"gate {overlay.gate_mode or '-'}" + (f": {overlay.gate_reason}" if held else "")
    _text(out, gate[:70], (left, foot), scale, AMBER if held else WHITE)
    _text(out, f"{overlay.elapsed_s:5.1f} s", (out.shape[1] / scale - 80, foot), scale, WHITE)
    _bars(out, overlay.iterations, overlay.limit, foot - 24, scale)
    return out


def _bars(out: np.ndarray, iterations: Sequence[int], limit: int, base: float, scale: float) -> None:
    """One bar per decision, newest on the right: how long the policy thought."""
    step = round((BAR_WIDTH + BAR_GAP) * scale)
    shown = list(iterations)[-((out.shape[1] - 16) // max(step, 1)) :]
    for i, count in enumerate(shown):
        height = max(1, round(BARS_HEIGHT * scale * min(1.0, count / max(limit, 1))))
        x, y = 8 + i * step, round(base * scale)
        colour = AMBER if limit and count >= limit else GREEN
        cv2.rectangle(out, (x, y - height), (x + round(BAR_WIDTH * scale) - 1, y), colour, thickness=-1)


def _text(out: np.ndarray, text: str, at: tuple[float, float], scale: float, colour: tuple[int, int, int]) -> None:
    """at: column in px, row at 480 px height. Written twice, dark and wide first, so that it reads on any ground."""
    at = (round(at[0] if at[0] > 8 else 8), round(at[1] * scale))
    text = text.encode("ascii", "replace").decode()  # the font has no other characters
    cv2.putText(out, text, at, FONT, 0.55 * scale, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(out, text, at, FONT, 0.55 * scale, colour, 1, cv2.LINE_AA)


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)
