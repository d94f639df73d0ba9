"""What a synchroniser keeps of each of its streams, and which stamps it believes. Times come in as arguments [s]."""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time

from rdvla_ros.control.supervision.freshness import Delay
from rdvla_ros.nodes.common.moment import Moment
from rdvla_ros.types import ObservationError

NANOSECONDS = 1_000_000_000
LATE_IN_A_ROW = 3  # so many messages that are older than their predecessor are a jump of the stamps, however small


@dataclass(frozen=True)
class Options:
    """slop_s: images of one set lie at most this far apart. joint_gap_s: a joint sample must lie this near to the images.
    future_s: a stamp may be this far ahead of the clock. jump_s: a stamp this much older than its predecessor is a jump.
    image_depth, joint_depth: messages kept per stream. zero_stamps: 'reject', or 'receive' to use the time of receipt."""

    slop_s: float = 0.05
    joint_gap_s: float = 0.05
    future_s: float = 0.05
    jump_s: float = 0.5
    image_depth: int = 8
    joint_depth: int = 512
    zero_stamps: str = "reject"


class StampJump(Exception):
    """The stamps of a stream went back for good. by_s: how far [s]."""

    def __init__(self, topic: str, by_s: float):
        super().__init__(f"{topic}: stamps jumped back by {by_s:.3f} s. All waiting inputs are dropped.")


@dataclass
class Stream:
    """One topic. samples: (stamp_ns, time of receipt on the steady clock [s], value), oldest first, at most `depth`."""

    name: str
    topic: str
    prepare: Callable[[Any], Any]  # message -> what is kept of it; raises ObservationError
    depth: int
    samples: deque = field(init=False)
    delay: Delay = field(default_factory=Delay)
    newest_ns: int | None = None
    late: int = 0  # messages in a row that were older than their predecessor
    last_good_s: float = 0.0
    reason: str = ""

    def __post_init__(self) -> None:
        self.samples = deque(maxlen=self.depth)

    def flush(self) -> None:
        self.samples.clear()
        self.delay.forget()
        self.newest_ns, self.late = None, 0

    def take(self, stamp_ns: int, value: Any, now: Moment) -> None:
        """A sample whose stamp was checked."""
        self.samples.append((stamp_ns, now.steady_s, value))
        self.delay.add(now.ros_s - stamp_ns / NANOSECONDS)
        self.newest_ns, self.late, self.last_good_s, self.reason = stamp_ns, 0, now.steady_s, ""

    def checked_stamp_ns(self, stamp: Time, now: Moment, options: Options) -> int:
        """ObservationError: the message may not be used. StampJump: nor may any that came before it."""
        stamp_ns, now_ns = stamp.sec * NANOSECONDS + stamp.nanosec, round(now.ros_s * NANOSECONDS)
        if stamp_ns == 0:
            if options.zero_stamps == "reject":
                raise ObservationError(
                    f"{self.topic}: expected a stamp, got 0. Parameter zero_stamps: receive takes the time of receipt."
                )
            stamp_ns = now_ns
        ahead_s = (stamp_ns - now_ns) / NANOSECONDS
        if ahead_s > options.future_s:
            hint = " The ROS clock stands at 0: use_sim_time is on, but nothing publishes /clock." if now_ns == 0 else ""
            raise ObservationError(
                f"{self.topic}: the stamp lies {ahead_s:.3f} s in the future, expected at most {options.future_s:g} s.{hint}"
            )
        if self.newest_ns is not None and stamp_ns <= self.newest_ns:
            self._older_than_before((self.newest_ns - stamp_ns) / NANOSECONDS, options)
        return stamp_ns

    def _older_than_before(self, back_s: float, options: Options) -> None:
        """A single late message is refused; a jump, or a third late message in a row, begins everything anew with it."""
        if back_s == 0.0:
            raise ObservationError(f"{self.topic}: expected a new stamp, got the one of the message before.")
        self.late += 1
        if back_s >= options.jump_s or self.late >= LATE_IN_A_ROW:
            raise StampJump(self.topic, back_s)
        raise ObservationError(
            f"{self.topic}: expected stamps that advance, got one {back_s:.3f} s older than the message before."
        )

    def nearest(self, stamp_ns: int) -> tuple[int, float, Any] | None:
        return min(self.samples, key=lambda sample: abs(sample[0] - stamp_ns), default=None)

    def interpolated(self, stamp_ns: int, gap_ns: float) -> tuple[float, np.ndarray] | None:
        """(steady time of receipt, value) at the stamp, between two samples around it; None while there are none."""
        after = bisect.bisect_left(self.samples, stamp_ns, key=lambda sample: sample[0])
        if after == len(self.samples):
            return None
        end_ns, end_received_s, end = self.samples[after]
        if end_ns == stamp_ns:
            return end_received_s, end
        if after == 0:
            return None
        begin_ns, _, begin = self.samples[after - 1]
        if min(stamp_ns - begin_ns, end_ns - stamp_ns) > gap_ns:
            return None
        share = (stamp_ns - begin_ns) / (end_ns - begin_ns)
        return end_received_s, begin + share * (end - begin)
