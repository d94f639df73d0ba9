"""The parameters of gate_node. All are read at start only: limits of a moving robot are not relaxed by a service call."""

from __future__ import annotations

from dataclasses import dataclass

from rdvla_ros.control.trajectory import LONGEST_MOTION_S
from rdvla_ros.nodes.parameters import Schema, parameter


@dataclass(frozen=True)
class GateParameters(Schema):
    robot: str = parameter("", "robot description, a YAML file", unit="path")
    start_mode: str = parameter(
        "hold", "hold: nothing passes until ~/resume; auto: nothing passes until the robot is there", choices=("hold", "auto")
    )
    policy_prefix: str = parameter("/policy", "the policy publishes on <prefix>/<arm>/joint_trajectory")
    takeover_prefix: str = parameter("/teleop", "a teleoperation source publishes on <prefix>/<arm>/joint_trajectory")
    pair_timeout_s: float = parameter(0.1, "wait for the other arm's part of a decision", unit="s", low=0.005, high=1.0)
    longest_age_s: float = parameter(0.2, "age by its stamp up to which a motion passes", unit="s", low=0.02, high=2.0)
    longest_motion_s: float = parameter(
        LONGEST_MOTION_S, "longest motion that may go on the wire at once", unit="s", low=0.2, high=10.0
    )
    joint_timeout_s: float = parameter(
        0.25, "silence of joint states after which the arms are held", unit="s", low=0.02, high=5.0
    )
    bad_joint_s: float = parameter(
        0.05, "time without a good joint state, while bad ones come, until the hold", unit="s", low=0.0, high=5.0
    )
    clock_tolerance_s: float = parameter(
        1.0, "largest distance of joint states' stamps from this node's clock", unit="s", low=0.05, high=60.0
    )
    hold_lead_s: float = parameter(0.02, "the hold begins this long after it is sent", unit="s", low=0.002, high=0.2)
    refusals_to_hold: int = parameter(3, "successive motions that begin in the wrong place until the hold", low=1, high=100)
    status_hz: float = parameter(20.0, "rate of ~/status", unit="Hz", low=10.0, high=200.0)
    discovery_s: float = parameter(
        0.5, "at start, look so long for another publisher to the controllers", unit="s", low=0.0, high=10.0
    )
    predecessor_s: float = parameter(
        25.0,
        "at start, wait so long for another gate to go: one that was killed is listed for 20 s",
        unit="s",
        low=0.0,
        high=120.0,
    )
