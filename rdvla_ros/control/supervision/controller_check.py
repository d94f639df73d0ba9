"""Does a controller do with a new trajectory what the robot description says? Judged by its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rdvla_ros.robot import ControllerRule

PARAMETERS = ("allow_trajectory_replacement", "interpolate_from_desired_state", "open_loop_control", "update_rate")
RATE_TOLERANCE = 0.02


def rule_of(values: Mapping[str, Any]) -> str:
    """The rule of a controller with these parameters, without those that it does not have; empty where they do not tell."""
    if values.get("allow_trajectory_replacement"):
        return "master"
    if "allow_trajectory_replacement" in values or "interpolate_from_desired_state" in values:
        return "jazzy"
    return "humble" if "open_loop_control" in values else ""


def problems(arm: str, expected: ControllerRule, values: Mapping[str, Any]) -> list[str]:
    """What stands in the way of moving this arm, one sentence each. Only what the description states is compared."""
    found, rule = [], rule_of(values)
    if rule == "master":
        found.append(
            f"The controller of arm '{arm}' has allow_trajectory_replacement: true: it follows its old path a period late after "
            "every message, and the arm makes a step. Expected false: set it in the controller's parameters, start it anew."
        )
    elif rule and "rule" in expected.stated and rule != expected.rule:
        found.append(
            f"The controller of arm '{arm}' is one of rule '{rule}' by its parameters, expected '{expected.rule}'. Set "
            f"controller: {{rule: {rule}}} in the robot description."
        )
    rate_hz = float(values.get("update_rate") or 0.0)
    if rate_hz and "update_rate_hz" in expected.stated and abs(rate_hz / expected.update_rate_hz - 1.0) > RATE_TOLERANCE:
        found.append(
            f"The controller of arm '{arm}' is updated at {rate_hz:g} Hz, expected {expected.update_rate_hz:g}. Set "
            f"controller: {{update_rate_hz: {rate_hz:g}}} in the robot description."
        )
    return found
