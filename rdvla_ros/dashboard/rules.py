"""What the operator may do now, and why not. The gate decides in the end; this says beforehand what it will say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rdvla_ros.control.supervision.interventions import ASKS
from rdvla_ros.control.supervision.modes import Mode
from rdvla_ros.dashboard.freshness import State
from rdvla_ros.dashboard.model import Snapshot
from rdvla_ros.dashboard.sentences import known_mode

LONGEST_INSTRUCTION = 512


@dataclass(frozen=True)
class TakeoverStep:
    """What pressing an arm's takeover button asks for: the arms that are taken over then; none: give back, that is a hold.

    starts: arms that rest now may move then, so it is asked again.
    """

    arms: tuple[str, ...]
    starts: bool


def resume_obstacles(snapshot: Snapshot, who: str) -> list[str]:
    """All that stands in the way of a resume, one sentence each; empty: it may be asked for."""
    obstacles = _gate_obstacles(snapshot)
    if obstacles:
        return obstacles
    mode = known_mode(snapshot.gate)
    if mode is Mode.TAKEOVER:
        return ["The arms are taken over: give them back first (that is a hold), then resume that hold."]
    if mode not in (Mode.HOLD, Mode.PAUSE):
        return ["There is no hold to lift."]
    return [*snapshot.gate.causes, *_name_obstacles(who)]


def asked_by_the_robot(snapshot: Snapshot) -> int:
    """Number of the hold in force where it is a question of the robot to a person; 0: it is none."""
    gate = snapshot.gate
    asks = not _gate_obstacles(snapshot) and known_mode(gate) is Mode.HOLD and gate.reason.startswith(ASKS)
    return gate.hold_id if asks else 0


def takeover_obstacles(snapshot: Snapshot, who: str) -> list[str]:
    return _gate_obstacles(snapshot) or _name_obstacles(who)


def takeover_step(snapshot: Snapshot, arm: str, arms: Sequence[str]) -> TakeoverStep:
    """The arm is added to those taken over, or given back where it is one of them."""
    mode = known_mode(snapshot.gate)
    taken = (snapshot.gate.taken_over or tuple(arms)) if mode is Mode.TAKEOVER else ()
    wanted = tuple(a for a in arms if (a in taken) != (a == arm))
    return TakeoverStep(wanted, starts=bool(wanted) and mode is not Mode.AUTO)


def instruction_obstacles(snapshot: Snapshot, who: str, text: str) -> list[str]:
    obstacles = []
    if not text.strip():
        obstacles.append("Write an instruction first.")
    elif len(text) > LONGEST_INSTRUCTION or not text.isprintable():
        obstacles.append(f"Expected at most {LONGEST_INSTRUCTION} printable characters.")
    if snapshot.seen("policy").state in (State.DEAD, State.UNKNOWN):
        obstacles.append(f"The policy is {snapshot.seen('policy').state.value}.")
    return obstacles + _name_obstacles(who)


def _gate_obstacles(snapshot: Snapshot) -> list[str]:
    seen = snapshot.seen("gate")
    if not seen.live or snapshot.gate is None:
        return [f"The gate is {seen.text()}."]
    return [] if known_mode(snapshot.gate) is not None else [f"The gate's mode {snapshot.gate.mode} is not known here."]


def _name_obstacles(who: str) -> list[str]:
    return [] if who.strip() else ["Write your name first: every act carries it."]
