"""What an input can be wrong about although its message is well formed. Pure: times and stamps come in as arguments [s].

H, W = pixels of an image, J = joints of one arm.
"""

from __future__ import annotations

import zlib
from collections import deque
from dataclasses import dataclass

import numpy as np

BLOCKS, BLOCK_BYTES = 64, 2048  # of a large message, evenly spread, that its digest is made from
DARK, BRIGHT = 8, 247  # a pixel with all channels at or below, at or above
BLACK_SHARE, SATURATED_SHARE, TORN_SHARE = 0.98, 0.9, 0.1
BLOCK_ROWS, LOOK_ROWS, SAME_SHARE = 16, 8, 0.2  # see ImageFlaws


def digest(data: bytes | memoryview) -> int:
    """A number that differs where the data differ: of all of a small message, of evenly spread blocks of a large one.

    The noise of a real sensor is in every block. The length counts as well.
    """
    view = memoryview(data).cast("B")
    if len(view) <= BLOCKS * BLOCK_BYTES:
        return zlib.crc32(view, len(view))
    value = len(view)
    for start in np.linspace(0, len(view) - BLOCK_BYTES, BLOCKS, dtype=np.int64).tolist():
        value = zlib.crc32(view[start : start + BLOCK_BYTES], value)
    return value


class FrozenFrames:
    """The same picture again and again under new stamps: a driver that repeats what it saw last. limit 0: never frozen."""

    def __init__(self, limit: int):
        self._limit, self._last, self.repeats = limit, None, 0

    def see(self, value: int) -> None:
        """The digest of the next frame."""
        self.repeats = self.repeats + 1 if value == self._last else 0
        self._last = value

    @property
    def frozen(self) -> bool:
        return self._limit > 0 and self.repeats + 1 >= self._limit

    def forget(self) -> None:
        self._last, self.repeats = None, 0


class ImageFlaws:
    """What looks wrong about the images of one camera.

    Torn: the lower end of the image is one colour without any noise, at least a tenth of its height more than it was in the
    camera's first image, and the picture above ends abruptly: a transfer that broke off. LOOK_ROWS rows of the picture are looked
    at, BLOCK_ROWS above the end, since a JPEG may break off within a row of its blocks; where SAME_SHARE of their pixels have
    the colour below as well, a floor or a table reaches into the picture, and nothing is torn. A tear between two real pictures
    is not seen.
    """

    def __init__(self) -> None:
        self._usual: float | None = None  # share of rows at the lower end that hold nothing

    def see(self, image: np.ndarray) -> str:
        """The next image (H, W, 3) uint8: its flaw in words, empty where it has none."""
        sample = image[::4, ::4]
        if (sample <= DARK).all(axis=2).mean() >= BLACK_SHARE:
            return "black"
        if (sample >= BRIGHT).all(axis=2).mean() >= SATURATED_SHARE:
            return "saturated"
        columns = image[:, ::8]
        same = (columns == columns[-1:, :1]).all(axis=2)  # (H, W/8) pixels of the colour of the last row's first one
        above = np.flatnonzero(~same.all(axis=1))
        picture = above[-1] + 1 if len(above) else len(same)  # rows of it; an image of one colour has no end
        filled = len(same) - picture
        if self._usual is None:
            self._usual = filled / len(same)
        end = max(1, picture - BLOCK_ROWS)
        abrupt = same[max(0, end - LOOK_ROWS) : end].mean() < SAME_SHARE
        if abrupt and filled / len(same) >= self._usual + TORN_SHARE:
            return f"torn (the lower {filled} of {len(same)} rows hold nothing)"
        return ""


class CorruptImages:
    """Images of one camera that their decoder calls corrupt. `limit` of the last `window` are too many; limit 0: never."""

    def __init__(self, limit: int, window: int = 10):
        self._limit, self._recent = limit, deque([""] * window, maxlen=window)

    def see(self, flaw: str) -> None:
        """What is wrong about the next image, empty where nothing is."""
        self._recent.append(flaw)

    @property
    def count(self) -> int:
        return sum(map(bool, self._recent))

    @property
    def window(self) -> int:
        return len(self._recent)

    @property
    def last(self) -> str:
        """The newest flaw; empty where none of the last images had one."""
        return next((flaw for flaw in reversed(self._recent) if flaw), "")

    @property
    def repeated(self) -> bool:
        return 0 < self._limit <= self.count


@dataclass(frozen=True)
class Jump:
    """joint: its index. by, allowed: distance from the sample before, and what the time between allows [rad or m].
    repeated: so many of the last samples jumped that the joints or their encoders are in doubt, not one sample."""

    joint: int
    by: float
    allowed: float
    repeated: bool


class JointJumps:
    """Samples of one arm's joints that lie further from the one before than the joints can have moved.

    velocity: (J,) largest speeds. A sample may be off by factor * velocity * (time since the one before + slack_s). `limit`
    such samples within `window` are `repeated`; what is measured then is where the next sample is compared with.
    """

    def __init__(self, velocity: np.ndarray, *, factor: float, slack_s: float = 0.02, limit: int = 3, window: int = 10):
        self._speed, self._slack_s, self._limit = factor * np.asarray(velocity, dtype=np.float64), slack_s, limit
        self._recent: deque[bool] = deque(maxlen=window)
        self._last: tuple[float, np.ndarray] | None = None

    def check(self, positions: np.ndarray, stamp_s: float) -> Jump | None:
        """The next sample (J,); None: it is believed. Stamps that do not advance are someone else's business."""
        if self._last is None or stamp_s <= self._last[0]:
            if self._last is None or stamp_s < self._last[0] - 1.0:  # the clock jumped: nothing to compare with
                self._last = (stamp_s, positions)
            return None
        allowed = self._speed * (stamp_s - self._last[0] + self._slack_s)
        over = np.abs(positions - self._last[1]) - allowed
        jumped = bool((over > 0.0).any())
        self._recent.append(jumped)
        if not jumped:
            self._last = (stamp_s, positions)
            return None
        joint = int(np.argmax(over))
        repeated = sum(self._recent) >= self._limit
        jump = Jump(joint, float(abs(positions[joint] - self._last[1][joint])), float(allowed[joint]), repeated)
        if repeated:
            self._recent.clear()
            self._last = (stamp_s, positions)
        return jump

    def forget(self) -> None:
        self._recent.clear()
        self._last = None


class SameStamp:
    """Samples of one arm's joints that carry one stamp and are in different places: one source measures once at one time.

    velocity: (J,) largest speeds. The clock of a simulation may stand between two samples of one source; so what the joints can
    have moved between the receipts, with slack_s more, is no difference.
    """

    def __init__(self, velocity: np.ndarray, *, slack_s: float = 0.01, noise: float = 1e-4, depth: int = 64):
        self._speed, self._slack_s, self._noise, self._depth = np.asarray(velocity, dtype=np.float64), slack_s, noise, depth
        self._seen: dict[int, tuple[np.ndarray, float]] = {}

    def check(self, positions: np.ndarray, stamp_ns: int, received_s: float) -> np.ndarray | None:
        """The next sample (J,); returns the one (J,) of the same stamp that it contradicts. Times of receipt [s]."""
        before = self._seen.get(stamp_ns)
        if before is None:
            self._seen[stamp_ns] = positions, received_s
            if len(self._seen) > self._depth:
                del self._seen[next(iter(self._seen))]
            return None
        allowed = self._noise + self._speed * (abs(received_s - before[1]) + self._slack_s)
        return before[0] if (np.abs(positions - before[0]) > allowed).any() else None
