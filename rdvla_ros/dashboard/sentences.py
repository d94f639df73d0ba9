"""What the window says, in whole sentences. No Qt, no ROS."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from rdvla_ros.control.supervision.modes import Mode
from rdvla_ros.dashboard.freshness import Seen, State, span
from rdvla_ros.dashboard.model import Decision, Gate, Snapshot, Uncertainty

DAY_S = 86400.0
NEWS = 10  # decisions for which a new start of the policy is worth saying
SYMBOLS = {Mode.AUTO: "▶", Mode.HOLD: "■", Mode.TAKEOVER: "◆", Mode.PAUSE: "❚❚"}
MEANING = {
    Mode.AUTO: "the policy moves the arms",
    Mode.HOLD: "nothing moves until a resume",
    Mode.PAUSE: "nothing moves; it ends by itself or becomes a hold",
}


def known_mode(gate: Gate | None) -> Mode | None:
    return Mode(gate.mode) if gate is not None and gate.mode in set(Mode) else None


def mode_words(gate: Gate | None, seen: Seen) -> str:
    """The badge: a sign and the word of the mode. What is not live is never shown as the mode in force."""
    if gate is None or seen.state is State.UNKNOWN:
        return "? UNKNOWN"
    mode = known_mode(gate)
    if mode is None:
        return f"? MODE {gate.mode}"
    if not seen.live:
        return f"{seen.state.symbol} GATE {seen.state.value.upper()}"
    number = f" {gate.hold_id}" if mode in (Mode.HOLD, Mode.PAUSE) else ""
    return f"{SYMBOLS[mode]} {mode.name}{number}"


def mode_sentence(gate: Gate | None, seen: Seen, arms: Sequence[str], now_wall_s: float) -> str:
    """Mode, what it means, why, who, since when, in one sentence."""
    if gate is None or seen.state is State.UNKNOWN:
        return "Nothing has been heard of the gate yet: what moves the arms is not known."
    said = _mode_said(gate, seen, arms, now_wall_s)
    if seen.state is State.STALE:
        return f"The gate has been silent for {span(seen.age_s)}. Last known: {said}"
    if seen.state is State.DEAD:
        return f"The gate is dead ({span(seen.age_s)} without a word): what moves the arms is not known. Last known: {said}"
    return said


def _mode_said(gate: Gate, seen: Seen, arms: Sequence[str], now_wall_s: float) -> str:
    mode = known_mode(gate)
    if mode is None:
        return f"the gate is in mode {gate.mode}, which this dashboard does not know; update it. Reason: {gate.reason or 'none'}."
    if mode is Mode.TAKEOVER:
        taken = gate.taken_over or tuple(arms)
        rest = [arm for arm in arms if arm not in taken]
        meaning = f"teleoperation moves {_and(taken)}" + (f", {_and(rest)} rests" if rest else "")
    else:
        meaning = MEANING[mode]
    number = f" {gate.hold_id}" if mode in (Mode.HOLD, Mode.PAUSE) else ""
    since, who, reason = _since(gate, seen, now_wall_s), gate.who or "nobody named", gate.reason or "no reason given"
    return f"{mode.name}{number}: {meaning}, {since}, by {who}: {reason}."


def _since(gate: Gate, seen: Seen, now_wall_s: float) -> str:
    """The time of day only where the robot's clock is the wall's: simulated time has none."""
    if gate.for_s is None:
        return "since an unknown time"
    lasted = f"for {span(gate.for_s + (seen.age_s if math.isfinite(seen.age_s) else 0.0))}"
    if abs(now_wall_s - gate.since_ros_s) < DAY_S:
        return f"since {time.strftime('%H:%M:%S', time.localtime(gate.since_ros_s))} ({lasted.removeprefix('for ')})"
    return lasted


def _and(names: Sequence[str]) -> str:
    return " and ".join(names) or "no arm"


def decision_words(decision: Decision | None) -> str:
    """'9 of 16, converged'."""
    if decision is None:
        return "none yet"
    return f"{decision.iterations} of {decision.limit}, {decision.stop_text}"


def change_words(decision: Decision | None) -> str:
    if decision is None:
        return "none yet"
    finite = [c for c in decision.change if math.isfinite(c)]
    limit = f", threshold {decision.threshold:.1e}" if math.isfinite(decision.threshold) else ", no threshold"
    return f"{finite[-1]:.1e}{limit}" if finite else "no change evaluated"


def horizon_words(decision: Decision | None) -> str:
    if decision is None:
        return "none yet"
    if not decision.published:
        return f"0 of {decision.chunk_length}: not sent"
    seconds = f" ({decision.horizon * decision.step_s:.1f} s)" if math.isfinite(decision.step_s) else ""
    return f"{decision.horizon} of {decision.chunk_length} steps{seconds}"


def uncertainty_words(uncertainty: Uncertainty | None) -> str:
    if uncertainty is None:
        return "none yet"
    score = f"{uncertainty.window_score:.2f}" if math.isfinite(uncertainty.window_score) else "not finite"
    if uncertainty.alarm:
        return f"{score}, ⚠ ALARM"
    return f"{score}, no alarm" if math.isfinite(uncertainty.alarm_threshold) else f"{score}, no alarm line set"


def calibration_words(uncertainty: Uncertainty | None) -> str:
    if uncertainty is None:
        return "nothing known yet"
    if uncertainty.calibrated:
        return "calibrated"
    return "NOT CALIBRATED for this instruction" if "calibrated for this" in uncertainty.reason else "UNCALIBRATED"


def timing_words(decision: Decision | None) -> str:
    if decision is None:
        return "none yet"
    total_s = decision.timings.get("total", math.nan)
    return f"{total_s * 1e3:.0f} ms" if math.isfinite(total_s) else "not known"


def decisions_remark(snapshot: Snapshot) -> str:
    """What a viewer must know beside the curves: that nothing new comes, or that the newest message is odd. Empty: nothing."""
    seen, newest = snapshot.seen("decisions"), snapshot.decisions[-1] if snapshot.decisions else None
    if newest is None:
        return "No decision has come yet."
    if not seen.live:
        mode = known_mode(snapshot.gate)
        why = f" while the gate is in {mode.name}" if mode not in (None, Mode.AUTO) and snapshot.seen("gate").live else ""
        return f"No decision for {span(seen.age_s)}{why}: the curves are old."
    if newest.oddities:
        return f"Decision {newest.sequence}: {'; '.join(newest.oddities)}."
    if snapshot.restarts and len(snapshot.decisions) <= NEWS:
        return f"The numbers of the decisions went back to {snapshot.decisions[0].sequence}: the policy was started anew."
    if newest.doubts:
        return f"Decision {newest.sequence}: {newest.doubts[0]}"
    if not newest.published and newest.note:
        return f"Decision {newest.sequence} was not sent: {newest.note}"
    return ""


def parts_remarks(snapshot: Snapshot) -> list[str]:
    """What the monitor says is not well, the worst first."""
    words = {1: "warning", 2: "error", 3: "stale"}
    worst = sorted(((level, name, text) for name, (level, text) in snapshot.parts.items() if level in words), reverse=True)
    return [f"{name} ({words[level]}): {text}" for level, name, text in worst]
