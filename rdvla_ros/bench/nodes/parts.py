"""The measurements: each takes a running System and a number of repetitions or seconds, and returns plain numbers [s]."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from rdvla_ros.bench.nodes.listener import Command, Listener
from rdvla_ros.bench.nodes.stand_in import BEGUN, HANG, INFER, swing_velocity
from rdvla_ros.bench.nodes.system import System
from rdvla_ros.bench.nodes.usage import Usage, sample
from rdvla_ros.bringup.processes import BringupError
from rdvla_ros.control.motion.handover import HISTORY_S
from rdvla_ros.control.motion.trajectory import LONGEST_STOP_S
from rdvla_ros.nodes.policy.parameters import PolicyParameters
from rdvla_ros.robot import RobotDescription

CALLS_HZ = 100.0
LISTEN_S = 0.35  # for the hold's messages; nothing else passes after it
LONGEST_ANSWER_S = 5.0
JOINED_S = 3.0  # after a start, until the arms are on the motion that the decisions want
AGAIN_S = 30.0  # for a policy that was killed to move the arms again
SAMPLE_S = 1.0
REST = 1e-6  # commanded speed of an arm at rest
KEPT = 2001  # quantiles that stand for more values than this: an hour has 360,000 heartbeats

Progress = Callable[[], None]


class Repeat:
    """Counts what was measured. Iterating ends after `count` of it, after longest_s."""

    def __init__(self, count: int, tick: Progress, longest_s: float):
        self._left, self._tick, self._until_s = count, tick, time.monotonic() + longest_s

    def __iter__(self) -> Iterator[None]:
        while self.left:
            yield

    @property
    def left(self) -> bool:
        return self._left > 0 and time.monotonic() < self._until_s

    def counted(self) -> None:
        self._left -= 1
        self._tick()


def holds(system: System, repeat: Repeat, random: np.random.Generator, *, loaded: bool) -> dict[str, Any]:
    """From the call of the hold service to the moment at which both controllers have the hold, while the arms move.

    loaded: a hundred further calls per second that the gate must answer, all the time.
    """
    ears, heard_s, answered_s = system.ears, [], []
    with _calls(ears) if loaded else _nothing():
        for _ in repeat:
            ears.run_until_moving()
            time.sleep(random.uniform(0.05, 0.6))
            _, asked_s, came_s = ears.hold()
            time.sleep(LISTEN_S)
            commands = ears.last_commands(asked_s)
            if len(commands) == len(ears.arms):  # otherwise something else had held the arms a moment before
                heard_s.append(max(command.at_s for command in commands.values()) - asked_s)
                answered_s.append(came_s - asked_s)
                repeat.counted()
    return {"heard_s": heard_s, "answered_s": answered_s}


def burst(system: System, seconds: float) -> dict[str, Any]:
    """Hold calls at 100 Hz while a hold is in force: how long each waits for its answer."""
    ears, asked, answered = system.ears, [], []
    ears.hold()
    end_s = time.monotonic() + seconds
    while (asked_s := time.monotonic()) < end_s:
        asked.append(asked_s)
        ears.hold_later(lambda asked_s=asked_s: answered.append(time.monotonic() - asked_s))
        time.sleep(max(0.0, asked_s + 1.0 / CALLS_HZ - time.monotonic()))
    waited_s = time.monotonic() + LONGEST_ANSWER_S
    while len(answered) < len(asked) and time.monotonic() < waited_s:
        time.sleep(0.05)
    return {"answered_s": answered, "calls": len(asked), "unanswered": len(asked) - len(answered)}


@contextmanager
def _calls(ears: Listener) -> Iterator[None]:
    stop = threading.Event()

    def run() -> None:
        due_s = time.monotonic()
        while not stop.is_set():
            ears.wrong_resume()
            due_s = max(due_s + 1.0 / CALLS_HZ, time.monotonic() - 0.1)
            time.sleep(max(0.0, due_s - time.monotonic()))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(5.0)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def killed(system: System, repeat: Repeat, random: np.random.Generator) -> dict[str, Any]:
    """kill -9 of the policy at random moments of a motion, to the hold at both controllers."""
    heard_s, anew = [], 0
    for _ in repeat:
        at_s = _at_a_random_moment(system, random, lambda: system.kill("policy"))
        _note(system, at_s, heard_s, repeat)
        system.start("policy")
        try:
            system.ears.run_until_moving(AGAIN_S)
        except BringupError:  # shared memory that killed ones left behind may keep the new one from hearing the robot
            system.restart()
            anew += 1
    return {"heard_s": heard_s, "reason_and_stamp_s": system.said, "all_started_anew": anew}


def stopped(system: System, repeat: Repeat, random: np.random.Generator) -> dict[str, Any]:
    """SIGSTOP of the policy at random moments of a motion, to the hold at both controllers; SIGCONT a little later."""
    heard_s = []
    for _ in repeat:
        at_s = _at_a_random_moment(system, random, lambda: system.kill("policy", number=signal.SIGSTOP))
        _note(system, at_s, heard_s, repeat)
        system.kill("policy", number=signal.SIGCONT)
    return {"heard_s": heard_s, "reason_and_stamp_s": system.said}


def gate_killed(system: System, repeat: Repeat, random: np.random.Generator) -> dict[str, Any]:
    """kill -9 of the gate at random moments of a motion, to the policy's word that it does not move the arms any more."""
    ears, heard_s = system.ears, []
    for _ in repeat:
        ears.run_until_moving()
        time.sleep(random.uniform(0.1, 1.5))
        before, at_s = len(ears.stands_back_s), system.kill("gate")
        if ears.gate.mode != ears.gate.AUTO or not ears.moving():  # something else had held the arms a moment before
            system.start("gate")
            continue
        ears.wait(lambda before=before: len(ears.stands_back_s) > before, 10.0, "the policy's word.")
        heard_s.append(ears.stands_back_s[before] - at_s)
        repeat.counted()
        ears.gate = None
        system.start("gate")
        ears.wait(lambda: ears.gate is not None, AGAIN_S, "the gate.")
    return {"heard_s": heard_s}


def watchdog(system: System, repeat: Repeat, timeout_s: float) -> dict[str, Any]:
    """A decision that never ends: from its deadline (begun + decision_timeout_s) to the hold at both controllers."""
    ears, heard_s, note = system.ears, [], system.folder / BEGUN
    for _ in repeat:
        ears.instruct("go")
        ears.run_until_moving()
        note.unlink(missing_ok=True)
        ears.instruct(HANG)
        while not (note.exists() and note.read_text()):
            ears.resume()  # where something else held the arms meanwhile
            time.sleep(0.005)
        deadline_s = float(note.read_text()) + timeout_s
        ears.wait(lambda deadline_s=deadline_s: time.monotonic() > deadline_s, 10.0, "its deadline.")
        _note(system, deadline_s - 0.005, heard_s, repeat, offset_s=0.005)
        ears.instruct("go")
    return {"heard_s": heard_s, "reason_and_stamp_s": system.said}


def _at_a_random_moment(system: System, random: np.random.Generator, act: Callable[[], float]) -> float:
    system.ears.run_until_moving()
    time.sleep(random.uniform(0.1, 1.5))
    return act()


def _note(system: System, at_s: float, heard_s: list[float], repeat: Repeat, offset_s: float = 0.0) -> None:
    """Wait for the hold that follows what was done at at_s, unless one was in force already."""
    ears = system.ears
    before = ears.gate.hold_id
    moved = ears.gate.mode == ears.gate.AUTO
    time.sleep(LISTEN_S)
    ears.wait(lambda: ears.gate.hold_id != before or ears.gate.mode == ears.gate.HOLD, 10.0, "the hold.")
    commands = ears.last_commands(at_s)
    if moved and len(commands) == len(ears.arms):
        heard_s.append(max(command.at_s for command in commands.values()) - at_s - offset_s)
        stamped_s = max(command.stamp_s for command in commands.values()) - (time.time() - time.monotonic() + at_s + offset_s)
        system.said.append((ears.gate.reason, stamped_s))  # the stamp lies up to 14 ms after the sending
        repeat.counted()


def all_killed(system: System, random: np.random.Generator) -> dict[str, float]:
    """kill -9 of the policy, its decision process, the gate and the monitor at once, to the arms' rest, by their controllers'
    stamps (a report every 20 ms). after_last_row_s counts from LONGEST_STOP_S before the end of what was on the wire."""
    ears = system.ears
    at_s = _at_a_random_moment(system, random, lambda: system.kill("policy", "gate", "monitor"))
    killed_s = time.time() - (time.monotonic() - at_s)
    time.sleep(4.5)
    last = {arm: [c for c in ears.commands if c.arm == arm][-1] for arm in ears.arms}
    rest_s = max(_at_rest_s(ears, arm) for arm in ears.arms)
    wire_s = max(command.last_s for command in last.values())
    return {
        "rest_s": max(0.0, rest_s - killed_s),
        "end_of_wire_s": wire_s - killed_s,
        "after_last_row_s": rest_s - (wire_s - LONGEST_STOP_S),
    }


def _at_rest_s(ears: Listener, arm: str) -> float:
    """Stamp of the first report of an arm that is commanded to stand, and goes on to."""
    moving = [np.abs(velocity).max() > REST for _, velocity in ears.commanded[arm]]
    since = len(moving) - moving[::-1].index(True) if True in moving else 0
    if since == len(moving):
        raise BringupError(f"Arm '{arm}' was expected to come to rest and still moves.")
    return ears.commanded[arm][since][0]


def boundaries(system: System, repeat: Repeat, robot: RobotDescription, inference_s: float) -> dict[str, Any]:
    """Chunk after chunk while every decision takes inference_s: what the controllers are commanded, report by report (20 ms),
    against the motion that all decisions agree on.

    speed_share: per report, the arm's commanded speed over the agreed one's. backwards: reports that go against it.
    """
    ears, reasons, spans, passed = system.ears, [], [], set[float]()
    ears.instruct(f"{INFER}{inference_s:g}")
    for _ in repeat:
        ears.run_until_moving()
        time.sleep(JOINED_S)
        heard, begun_s = len(ears.commands), time.time()
        while ears.gate.mode == ears.gate.AUTO and repeat.left:
            time.sleep(0.01)
            for command in ears.commands[heard:]:
                heard += 1
                if command.stamp_s not in passed:
                    passed.add(command.stamp_s)
                    repeat.counted()
        reasons += [ears.gate.reason] if ears.gate.mode != ears.gate.AUTO else []
        spans.append((begun_s, time.time() - LISTEN_S))
    shares, backwards = [], 0
    for arm, columns in robot.arm_slices.items():
        moves = ~np.isin(robot.joint_names[columns], robot.gripper_joints)
        for at_s, velocity in list(ears.commanded[arm]):
            if any(begin_s < at_s < end_s for begin_s, end_s in spans):
                agreed = swing_velocity(np.array([at_s]), len(robot.joint_names))[0, columns][moves]
                shares.append(float(np.linalg.norm(velocity[moves]) / np.linalg.norm(agreed)))
                backwards += bool(velocity[moves] @ agreed < 0.0)
    return {"inference_s": inference_s, "boundaries": len(passed), "speed_share": few(shares), "backwards": backwards,
            "reports": len(shares), "holds": reasons}  # fmt: skip


def soak(system: System, seconds: float, tick: Progress) -> dict[str, Any]:
    """The arms under the policy, undisturbed: memory, processor, decisions, and how punctual everything is."""
    ears, usages = system.ears, {}
    ears.run_until_moving()
    begun_s = time.monotonic()
    holds_before = ears.gate.hold_id
    reasons: list[str] = []
    while (now_s := time.monotonic()) < begun_s + seconds:
        sample(now_s, system.pids(), usages)
        if ears.gate.mode == ears.gate.HOLD:
            reasons.append(ears.gate.reason)
            ears.resume()
        tick()
        time.sleep(max(0.0, now_s + SAMPLE_S - time.monotonic()))
    commands = [command for command in ears.commands if command.at_s > begun_s]
    # a message begins HISTORY_S before its motion is planned, and leaves the running one at least lead_s after that
    ahead_s = HISTORY_S + PolicyParameters.lead_s
    to_spare_s, skew_s = [command.stamp_s + ahead_s - command.ros_s for command in commands], _skews(commands)
    beat_s = {name: np.diff([t for t in beats if t > begun_s]).tolist() for name, beats in ears.beats.items()}
    return {
        "seconds": time.monotonic() - begun_s,
        "processes": {name: usage.summary(seconds / 6.0) for name, usage in usages.items()},
        "memory": {name: _thinned(usage, begun_s) for name, usage in usages.items()},
        "holds": ears.gate.hold_id - holds_before,
        "hold_reasons": reasons,
        "decisions": _decisions(ears, begun_s),
        "to_spare_s": few(to_spare_s),
        "arm_skew_s": few(skew_s),
        "beat_s": {name: few(periods) for name, periods in beat_s.items()},
        "counts": {"to_spare_s": len(to_spare_s), "arm_skew_s": len(skew_s), **{name: len(b) for name, b in beat_s.items()}},
    }


def few(values: list[float]) -> list[float]:
    """The values, or evenly spaced quantiles (0 to 1) of them where they are more than KEPT."""
    return values if len(values) <= KEPT else np.quantile(values, np.linspace(0.0, 1.0, KEPT)).tolist()


def _thinned(usage: Usage, begun_s: float) -> list[tuple[float, float]]:
    step = max(1, len(usage.at_s) // 300)
    return [(round(t - begun_s, 1), round(m, 2)) for t, m in zip(usage.at_s[::step], usage.memory_mib[::step], strict=True)]


def _decisions(ears: Listener, begun_s: float) -> dict[str, Any]:
    heard = [message for at_s, message in ears.decisions if at_s > begun_s]
    notes: dict[str, int] = {}
    for message in heard:
        if not message.published:
            notes[message.note[:60]] = notes.get(message.note[:60], 0) + 1
    inference = [message.timings_s[-1] for message in heard if message.timings_s]
    return {
        "count": len(heard),
        "published": sum(m.published for m in heard),
        "not_published": notes,
        "inference_s": few(inference),
    }


def _skews(commands: list[Command]) -> list[float]:
    """Between the arrivals of the arms' parts of one motion."""
    by_stamp: dict[float, list[float]] = {}
    for command in commands:
        by_stamp.setdefault(command.stamp_s, []).append(command.at_s)
    return [max(times) - min(times) for times in by_stamp.values() if len(times) > 1]
