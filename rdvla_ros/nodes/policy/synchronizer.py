"""Images of all cameras and the joint positions at their time, put together as soon as they are there.

A filter in the manner of message_filters: its inputs are filters, its output (a `Matched`) goes to registered callbacks.
On clean streams it passes the sets of images that ApproximateTimeSynchronizer passes. It differs where streams are not
clean: joint states are interpolated from a ring buffer instead of queued, stamps that jump back flush everything, stamps
in the future are refused, a callback that raises is reported and blocks nothing, and nothing is ever filled in for a
stream that is silent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from std_msgs.msg import Header

from rdvla_ros.compat import message_filters
from rdvla_ros.nodes.common import conversions
from rdvla_ros.nodes.common.moment import Moment
from rdvla_ros.nodes.policy.stamped_stream import NANOSECONDS, Options, StampJump, Stream
from rdvla_ros.types import ObservationError

REPORT_PERIOD_S = 5.0  # the same complaint about the same stream is made at most this often


def free_running_slop_s(cameras: int, camera_hz: float) -> float:
    """A slop that fits cameras which no common trigger drives.

    Whatever their phases, N cameras of one rate have images within (N-1)/N of a period of each other. A whole period must
    not fit: cameras that do run together would match with the image before, for ever, when one of them begins an image late.
    This lies in the middle between the two.
    """
    return (1.0 - 0.5 / cameras) / camera_hz


@dataclass(frozen=True)
class Matched:
    """One set of inputs. images: camera -> message; positions: arm -> (J,); stamp_s: oldest stamp (ROS clock);
    received_s: when its oldest part came (steady clock). readings: sensor -> (w,)."""

    images: Mapping[str, Any]
    positions: Mapping[str, np.ndarray]
    stamp_s: float
    received_s: float
    readings: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def header(self) -> Header:
        """So that filters which read stamps can stand behind this one."""
        return Header(stamp=conversions.stamp(self.stamp_s))

    def age_s(self, now: Moment) -> float:
        """Age by receipt or by stamp, whichever is worse."""
        return max(now.steady_s - self.received_s, now.ros_s - self.stamp_s)


@dataclass(frozen=True)
class Silence:
    """A stream without usable messages. reason: why its last message was refused, empty when none came at all."""

    stream: str
    topic: str
    for_s: float
    reason: str


DEFAULTS = Options()


class Synchronizer(message_filters.SimpleFilter):
    """cameras: name -> (topic, filter, prepare); joints: arm -> (topic, filter, prepare), where prepare(message) returns what
    is kept (for joints a (J,) array) or raises ObservationError (OtherJoints: a message that is not for this arm is no fault).
    sensors: name -> the same, treated as joints are; a message without a header counts from when it came.
    clock() -> Moment. log(severity, text): 'warning' or 'error'. on_refused(error): for every message that is not taken."""

    def __init__(
        self,
        cameras: Mapping[str, tuple[str, Any, Callable]],
        joints: Mapping[str, tuple[str, Any, Callable]],
        clock: Callable[[], Moment],
        log: Callable[[str, str], None],
        options: Options = DEFAULTS,
        on_refused: Callable[[Exception], None] = lambda error: None,
        sensors: Mapping[str, tuple[str, Any, Callable]] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self._on_refused = on_refused
        self._clock, self._log, self._options = clock, log, options
        self._lock = threading.Lock()
        self._pending: tuple[int, dict[str, tuple]] | None = None  # images that wait for the joints of their time
        self._latest: Matched | None = None
        self._reported: dict[tuple[str, str], float] = {}
        self._cameras = {n: Stream(n, topic, prepare, options.image_depth) for n, (topic, _, prepare) in cameras.items()}
        self._joints = {n: Stream(n, topic, prepare, options.joint_depth) for n, (topic, _, prepare) in joints.items()}
        self._sensors = {n: Stream(n, topic, prepare, options.joint_depth) for n, (topic, _, prepare) in sensors.items()}
        self._matched_s = now_s = clock().steady_s
        for stream in self._streams():
            stream.last_good_s = now_s
        for name, (_, source, _) in cameras.items():
            source.registerCallback(self._receive, self._cameras[name])
        for name, (_, source, _) in joints.items():
            source.registerCallback(self._receive, self._joints[name])
        for name, (_, source, _) in sensors.items():
            source.registerCallback(self._receive, self._sensors[name])

    def latest(self) -> Matched | None:
        """The newest complete set; None before the first and after a jump of the stamps."""
        return self._latest

    def newest_joints(self) -> dict[str, np.ndarray]:
        """Arm -> newest (J,) sample, of the arms that brought one."""
        with self._lock:
            return {arm: stream.samples[-1][2] for arm, stream in self._joints.items() if stream.samples}

    def joints_age_s(self, arm: str) -> float:
        """Since the arm's newest sample, by receipt or by stamp, whichever is worse; infinite where there is none."""
        with self._lock:
            if not self._joints[arm].samples:
                return np.inf
            stamp_ns, received_s, _ = self._joints[arm].samples[-1]
        now = self._clock()
        return max(now.steady_s - received_s, now.ros_s - stamp_ns / NANOSECONDS)

    def delays_s(self) -> dict[str, float | None]:
        """Topic (or topic and arm) -> how far its stamps lie behind the clock, see Delay; None while it is not known."""
        topics = [s.topic for s in self._streams()]
        with self._lock:
            return {s.topic if topics.count(s.topic) == 1 else f"{s.topic} ({s.name})": s.delay.least_s for s in self._streams()}

    def unmatched(self, after_s: float) -> str:
        """Why streams that are all alive made no set for longer than after_s; empty when they did."""
        waiting_s = self._clock().steady_s - self._matched_s
        newest = sorted((s.newest_ns, s.topic) for s in self._streams() if s.newest_ns is not None)
        if waiting_s <= after_s or not newest:
            return ""
        apart_s = (newest[-1][0] - newest[0][0]) / NANOSECONDS
        around = "joint states and readings" if self._sensors else "joint states"
        return (
            f"no inputs of one moment in {waiting_s:.1f} s: the newest stamp of {newest[0][1]} lies {apart_s:.3f} s before that "
            f"of {newest[-1][1]}; expected images within {self._options.slop_s:g} s (parameter slop_s) of each other "
            f"and {around} around them within {self._options.joint_gap_s:g} s (joint_gap_s). Are the clocks of "
            "their hosts synchronised?"
        )

    def silent(self, after_s: float) -> list[Silence]:
        """Streams that brought nothing usable for longer than after_s."""
        now_s = self._clock().steady_s
        quiet = [s for s in self._streams() if now_s - s.last_good_s > after_s]
        return [Silence(s.name, s.topic, now_s - s.last_good_s, s.reason) for s in quiet]

    def flush(self) -> None:
        """Forget every message; what arrives from now on counts."""
        with self._lock:
            self._matched_s = self._clock().steady_s
            self._flush()

    def signalMessage(self, *msg: Any) -> None:
        """Call every callback; one that raises is reported and keeps no other from its call."""
        for callback, args in list(self.callbacks.values()):
            try:
                callback(*msg, *args)
            except Exception as error:
                name = getattr(callback, "__name__", "callback")
                self._report(name, "callback", "error", f"{name} failed on synchronised inputs: {type(error).__name__}: {error}")

    def _streams(self) -> list[Stream]:
        return [*self._cameras.values(), *self._joints.values(), *self._sensors.values()]

    def _flush(self) -> None:
        for stream in self._streams():
            stream.flush()
        self._pending, self._latest = None, None

    def _receive(self, message: Any, stream: Stream) -> None:
        now = self._clock()
        try:
            value = stream.prepare(message)
            with self._lock:
                matched = self._take(message, value, stream, now)
        except conversions.OtherJoints as error:
            stream.reason = stream.reason or str(error)  # told only when nothing better comes
            return
        except Exception as error:  # ObservationError on purpose; nothing else may end the spin loop either
            stream.reason = (
                str(error) if isinstance(error, ObservationError) else f"{stream.topic}: {type(error).__name__}: {error}"
            )
            self._report(f"{stream.topic} {stream.name}", "refused", "warning", f"Message refused: {stream.reason}")
            self._on_refused(error)
            return
        if matched is not None:
            self.signalMessage(matched)

    def _take(self, message: Any, value: Any, stream: Stream, now: Moment) -> Matched | None:
        stamp = message.header.stamp if hasattr(message, "header") else conversions.stamp(now.ros_s)
        try:
            stamp_ns = stream.checked_stamp_ns(stamp, now, self._options)
        except StampJump as jump:
            self._flush()
            self._report("", "jump", "error", str(jump))
            stamp_ns = stream.checked_stamp_ns(stamp, now, self._options)
        stream.take(stamp_ns, value, now)
        if stream is self._cameras.get(stream.name):
            self._pending = self._images_around(stamp_ns) or self._pending
        return self._completed()

    def _images_around(self, stamp_ns: int) -> tuple[int, dict[str, tuple]] | None:
        """One image of each camera, nearest to the stamp, if all lie within the slop; they and older ones leave the queues."""
        chosen = {name: stream.nearest(stamp_ns) for name, stream in self._cameras.items()}
        if any(sample is None for sample in chosen.values()):
            return None
        stamps = [sample[0] for sample in chosen.values()]
        if max(stamps) - min(stamps) >= self._options.slop_s * NANOSECONDS:
            return None
        for name, sample in chosen.items():
            samples = self._cameras[name].samples
            while samples and samples[0][0] <= sample[0]:
                samples.popleft()
        return sum(stamps) // len(stamps), chosen

    def _completed(self) -> Matched | None:
        """The waiting images with the joints and the readings at their mean time, once these are known there."""
        if self._pending is None:
            return None
        stamp_ns, chosen = self._pending
        gap_ns = self._options.joint_gap_s * NANOSECONDS
        joints = {n: s.interpolated(stamp_ns, gap_ns) for n, s in self._joints.items()}
        sensors = {n: s.interpolated(stamp_ns, gap_ns) for n, s in self._sensors.items()}
        if any(value is None for value in (*joints.values(), *sensors.values())):
            return None
        self._pending, self._matched_s = None, self._clock().steady_s
        self._latest = Matched(
            images={name: value for name, (_, _, value) in chosen.items()},
            positions={arm: value for arm, (_, value) in joints.items()},
            stamp_s=min(sample_ns for sample_ns, _, _ in chosen.values()) / NANOSECONDS,
            received_s=min(s for s, *_ in (*joints.values(), *sensors.values(), *(part[1:] for part in chosen.values()))),
            readings={name: value for name, (_, value) in sensors.items()},
        )
        return self._latest

    def _report(self, stream: str, kind: str, severity: str, text: str) -> None:
        now_s = self._clock().steady_s
        if now_s - self._reported.get((stream, kind), -REPORT_PERIOD_S) >= REPORT_PERIOD_S:
            self._reported[stream, kind] = now_s
            self._log(severity, text)
