"""What the dashboard knows: written by the ROS callbacks, read by the window. No Qt, no ROS; times come in as arguments [s].

`now_s` is the steady clock at which a message came. One lock guards everything; `snapshot` gives a picture of one moment that
nobody changes any more. Messages are not believed: texts are cut and cleaned, numbers may be NaN, traces empty.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from rdvla_ros.dashboard.freshness import NEVER, Seen, Source
from rdvla_ros.types import StopReason

KEPT_DECISIONS = 150
KEPT_ACTS = 50
LONGEST_TRACE = 256  # iterations of one decision that are kept
LONGEST_TEXT = 300  # characters
MEASURED_S = 3.0  # how much of the measured motion is kept
MOST_SAMPLES = 120  # of one arm's measured motion
STALE_S = {  # source -> (stale after, dead after) [s]; the gate sends at 20 Hz, heartbeats are read at 5 Hz
    "gate": (0.5, 2.0),
    "policy": (1.0, 3.0),
    "monitor": (2.5, 6.0),
    "decisions": (2.0, 10.0),
    "joints": (0.6, 3.0),
    "camera": (1.6, 5.0),
}


def clean(text: str, longest: int = LONGEST_TEXT) -> str:
    """Text from outside as it may stand in a window: one line, printable, bounded."""
    shown = " ".join("".join(c if c.isprintable() else " " for c in str(text)[: 2 * longest]).split())
    return shown if len(shown) <= longest else shown[: longest - 3] + "..."


@dataclass(frozen=True)
class Gate:
    """GateStatus. for_s: how long the mode lasted when the message was sent; None where the stamps say nothing."""

    mode: int
    hold_id: int
    reason: str
    who: str
    since_ros_s: float
    for_s: float | None
    passed: int = 0
    refused: int = 0
    last_refusal: str = ""
    causes: tuple[str, ...] = ()
    taken_over: tuple[str, ...] = ()
    exceptions: int = 0


@dataclass(frozen=True)
class Decision:
    """Convergence. change[k - 1] belongs to iteration k; NaN where it was not evaluated."""

    at_s: float
    sequence: int
    iterations: int
    limit: int
    stop_reason: int
    converged: bool
    threshold: float
    change: tuple[float, ...]
    horizon: int
    chunk_length: int
    step_s: float
    published: bool
    note: str
    doubts: tuple[str, ...]
    instruction: str
    timings: Mapping[str, float]

    @property
    def stop_text(self) -> str:
        known = {reason.value: reason.name.lower().replace("_", " ") for reason in StopReason}
        return known.get(self.stop_reason, f"unknown stop reason {self.stop_reason}")

    @property
    def oddities(self) -> tuple[str, ...]:
        """What is wrong with the message itself, one sentence each."""
        found = []
        if not any(math.isfinite(c) for c in self.change):
            found.append("its trace of changes is empty")
        if any(math.isinf(c) for c in self.change):
            found.append("a change is infinite")
        if any(c < 0.0 for c in self.change):
            found.append("a change is negative")
        if self.stop_reason not in set(StopReason):
            found.append(f"its stop reason {self.stop_reason} is not known")
        if not 1 <= self.iterations <= max(self.limit, 1):
            found.append(f"it made {self.iterations} iterations of at most {self.limit}")
        if not all(math.isfinite(t) and t >= 0.0 for t in self.timings.values()):
            found.append("a time is not a number")
        return tuple(found)


@dataclass(frozen=True)
class Uncertainty:
    """Uncertainty. score and window_score may be infinite or NaN."""

    at_s: float
    sequence: int
    score: float
    window_score: float
    alarm_threshold: float
    alarm: bool
    calibrated: bool
    reason: str


@dataclass(frozen=True)
class Chunk:
    """What the policy wants one arm to do. times_s: (N,) ROS time; positions: (N, J) controller units."""

    times_s: np.ndarray
    positions: np.ndarray


@dataclass(frozen=True)
class ArmMotion:
    """times_s: (M,) ROS time; measured: (M, J). Empty before the first joint state. chunk: None before the first."""

    times_s: np.ndarray
    measured: np.ndarray
    chunk: Chunk | None


@dataclass(frozen=True)
class Act:
    """One act of the operator. outcome: empty while it is under way."""

    number: int
    at_wall_s: float
    who: str
    what: str
    outcome: str = ""
    good: bool = False


@dataclass(frozen=True)
class Snapshot:
    """All of it at now_s."""

    now_s: float
    sources: Mapping[str, Seen]
    gate: Gate | None
    policy_causes: tuple[str, ...]
    decisions: tuple[Decision, ...]
    uncertainties: tuple[Uncertainty, ...]
    arms: Mapping[str, ArmMotion]
    pictures: Mapping[str, tuple[int, bytes]]
    parts: Mapping[str, tuple[int, str]]
    acts: tuple[Act, ...]
    restarts: int

    def seen(self, name: str) -> Seen:
        return self.sources.get(name, NEVER)

    @property
    def under_way(self) -> tuple[Act, ...]:
        return tuple(act for act in self.acts if not act.outcome)


@dataclass
class _Arm:
    joints: int
    times_s: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_SAMPLES))
    positions: deque[np.ndarray] = field(default_factory=lambda: deque(maxlen=MOST_SAMPLES))
    chunk: Chunk | None = None


class Model:
    """arms: name -> number of joints. Sources: gate, policy, monitor, decisions, 'joints <arm>', 'camera <name>'."""

    def __init__(self, arms: Mapping[str, int], cameras: Sequence[str]):
        self._lock = threading.Lock()
        self._arms = {name: _Arm(joints) for name, joints in arms.items()}
        self._sources: dict[str, Source] = {}
        for name in ("gate", "policy", "monitor", "decisions"):
            self._add_source(name, name)
        for name in arms:
            self._add_source(f"joints {name}", "joints")
        for name in cameras:
            self._add_source(f"camera {name}", "camera")
        self._gate: Gate | None = None
        self._policy_causes: tuple[str, ...] = ()
        self._decisions: deque[Decision] = deque(maxlen=KEPT_DECISIONS)
        self._uncertainties: deque[Uncertainty] = deque(maxlen=KEPT_DECISIONS)
        self._pictures: dict[str, tuple[int, bytes]] = {}
        self._parts: dict[str, tuple[int, str]] = {}
        self._acts: deque[Act] = deque(maxlen=KEPT_ACTS)
        self._acts_count = self._restarts = 0

    def _add_source(self, name: str, kind: str) -> None:
        stale_s, dead_s = STALE_S[kind]
        self._sources[name] = Source(name, stale_s=stale_s, dead_s=dead_s)

    @property
    def arm_names(self) -> tuple[str, ...]:
        return tuple(self._arms)

    @property
    def source_names(self) -> tuple[str, ...]:
        return tuple(self._sources)

    # -- what comes

    def on_publishers(self, name: str, count: int) -> None:
        with self._lock:
            self._sources[name].publishers = count

    def on_gate(self, now_s: float, gate: Gate) -> None:
        with self._lock:
            self._sources["gate"].hear(now_s)
            self._gate = gate

    def on_policy_beat(self, now_s: float, causes: Sequence[str]) -> None:
        with self._lock:
            self._sources["policy"].hear(now_s)
            self._policy_causes = tuple(clean(cause) for cause in causes[:10])

    def on_decision(self, now_s: float, decision: Decision) -> None:
        """A number that goes back is a policy that was started anew: what it decided before is no part of its curve."""
        with self._lock:
            self._sources["decisions"].hear(now_s)
            if self._decisions and decision.sequence <= self._decisions[-1].sequence:
                self._restarts += 1
                self._decisions.clear()
            self._decisions.append(decision)

    def on_uncertainty(self, now_s: float, uncertainty: Uncertainty) -> None:
        with self._lock:
            if self._uncertainties and uncertainty.sequence <= self._uncertainties[-1].sequence:
                self._uncertainties.clear()
            self._uncertainties.append(uncertainty)

    def on_parts(self, now_s: float, parts: Mapping[str, tuple[int, str]]) -> None:
        """The monitor's diagnostics: part -> (level 0 ok, 1 warn, 2 error, 3 stale; sentence)."""
        with self._lock:
            self._sources["monitor"].hear(now_s)
            self._parts = dict(parts)

    def on_joints(self, now_s: float, arm: str, stamp_s: float, positions: np.ndarray) -> None:
        """positions: (J,) controller units. Of one sample that is no sample of this arm nothing is kept, but its age."""
        with self._lock:
            kept = self._arms[arm]
            if positions.shape != (kept.joints,) or not np.isfinite(positions).all() or not math.isfinite(stamp_s):
                return
            self._sources[f"joints {arm}"].hear(now_s)
            if (
                kept.times_s and not 0.0 <= stamp_s - kept.times_s[-1] < MEASURED_S
            ):  # a clock that was set, a simulation begun anew
                kept.times_s.clear()
                kept.positions.clear()
            kept.times_s.append(stamp_s)
            kept.positions.append(positions)

    def on_chunk(self, arm: str, chunk: Chunk) -> None:
        with self._lock:
            if chunk.positions.shape == (len(chunk.times_s), self._arms[arm].joints) and len(chunk.times_s):
                self._arms[arm].chunk = chunk

    def on_picture(self, now_s: float, camera: str, data: bytes) -> None:
        """data: a JPEG or PNG."""
        with self._lock:
            self._sources[f"camera {camera}"].hear(now_s)
            self._pictures[camera] = (self._pictures.get(camera, (0, b""))[0] + 1, data)

    # -- what is done

    def begin_act(self, wall_s: float, who: str, what: str) -> int:
        with self._lock:
            self._acts_count += 1
            self._acts.append(Act(self._acts_count, wall_s, clean(who, 80), clean(what)))
            return self._acts_count

    def end_act(self, number: int, outcome: str, good: bool) -> None:
        """The first outcome counts: an answer that comes after the time-out changes nothing."""
        with self._lock:
            for index, act in enumerate(self._acts):
                if act.number == number and not act.outcome:
                    self._acts[index] = replace(act, outcome=clean(outcome) or "done", good=good)

    # -- what is shown

    def snapshot(self, now_s: float) -> Snapshot:
        with self._lock:
            return Snapshot(
                now_s=now_s,
                sources={name: source.seen(now_s) for name, source in self._sources.items()},
                gate=self._gate,
                policy_causes=self._policy_causes,
                decisions=tuple(self._decisions),
                uncertainties=tuple(self._uncertainties),
                arms={name: _motion(arm) for name, arm in self._arms.items()},
                pictures=dict(self._pictures),
                parts=dict(self._parts),
                acts=tuple(self._acts),
                restarts=self._restarts,
            )


def _motion(arm: _Arm) -> ArmMotion:
    times_s = np.array(arm.times_s)
    measured = np.array(arm.positions).reshape(len(times_s), arm.joints)
    return ArmMotion(times_s, measured, arm.chunk)
