"""The parameters of gate_node. All are read at start only: limits of a moving robot are not relaxed by a service call."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rdvla_ros.control.motion.trajectory import LONGEST_MOTION_S
from rdvla_ros.control.supervision.modes import PauseRule
from rdvla_ros.control.supervision.tracking import ObeyOptions
from rdvla_ros.nodes.common.parameters import Schema, parameter


@dataclass(frozen=True)
class GateParameters(Schema):
    robot: str = parameter("", "robot description, a YAML file", unit="path")
    start_mode: str = parameter(
        "hold", "hold: nothing passes until ~/resume; auto: nothing passes until the robot is there", choices=("hold", "auto")
    )
    policy_prefix: str = parameter("/policy", "the policy publishes on <prefix>/<arm>/joint_trajectory")
    takeover_prefix: str = parameter("/teleop", "a teleoperation source publishes on <prefix>/<arm>/joint_trajectory")

    # what passes
    pair_timeout_s: float = parameter(0.1, "wait for the other arm's part of a decision", unit="s", low=0.005, high=1.0)
    longest_age_s: float = parameter(0.2, "age by its stamp up to which a motion passes", unit="s", low=0.02, high=2.0)
    longest_motion_s: float = parameter(
        LONGEST_MOTION_S, "longest motion that may go on the wire at once", unit="s", low=0.2, high=10.0
    )
    refusals_to_hold: int = parameter(3, "successive motions that begin in the wrong place until the hold", low=1, high=100)
    hold_lead_s: float = parameter(0.02, "the hold begins this long after it is sent", unit="s", low=0.002, high=0.2)

    # the robot
    joint_timeout_s: float = parameter(
        0.25, "silence of joint states after which the arms are held", unit="s", low=0.02, high=5.0
    )
    bad_joint_s: float = parameter(
        0.05, "time without a good joint state, while bad ones come, until the hold", unit="s", low=0.0, high=5.0
    )
    joint_jump_factor: float = parameter(
        2.0,
        "times its largest speed that a joint may move from one sample to the next; 0: as far as it likes",
        low=0.0,
        high=100.0,
    )
    joint_merge_s: float = parameter(
        0.1,
        "joints of one arm that come in messages of their own (a gripper's driver) lie at most this far apart",
        unit="s",
        low=0.001,
        high=1.0,
    )
    clock_tolerance_s: float = parameter(
        1.0, "largest distance of others' stamps from this node's clock", unit="s", low=0.05, high=60.0
    )
    controller_timeout_s: float = parameter(
        0.25, "silence of a controller's state, where the robot has one, until the hold", unit="s", low=0.02, high=5.0
    )
    obey_s: float = parameter(0.2, "a controller's reference may be off what was sent for so long", unit="s", low=0.05, high=2.0)
    other_publishers: str = parameter(
        "hold",
        "another publisher on a controller's topic: hold, or only warn (a controller's own tools that publish now and then)",
        choices=("hold", "warn"),
    )
    skew_s: float = parameter(0.05, "how far apart in time the arms may be on one motion", unit="s", low=0.004, high=1.0)

    # the policy and this process
    policy_heartbeat: bool = parameter(True, "the policy's heartbeat is needed in AUTO; false: for a policy that has none")
    heartbeat_period_s: float = parameter(0.02, "time between two beats of the gate", unit="s", low=0.005, high=1.0)
    heartbeat_timeout_s: float = parameter(
        0.06, "silence of the policy's heartbeat after which the arms are held", unit="s", low=0.04, high=5.0
    )
    starved_s: float = parameter(
        0.25,
        "this process may be kept from running for so long, and its callbacks twice as long, until the hold",
        unit="s",
        low=0.05,
        high=5.0,
    )

    realtime_priority: int = parameter(
        40, "scheduling priority (SCHED_FIFO) of the gate's process, where it is allowed; 0: as any other", low=0, high=99
    )

    # the operator
    auto_resume: bool = parameter(False, "a pause may end by itself; false: it becomes a hold, which an operator lifts")
    healthy_s: float = parameter(1.0, "auto_resume: time in which all must have been well", unit="s", low=1.0, high=60.0)
    longest_pause_s: float = parameter(2.0, "a longer pause becomes a hold", unit="s", low=0.1, high=60.0)
    operator: str = parameter(
        "off",
        "a sign of the operator that is needed to move: none, a heartbeat (rdvla_ros/Heartbeat), or a pressed button "
        "(sensor_msgs/Joy)",
        choices=("off", "heartbeat", "joy"),
    )
    operator_topic: str = parameter("/operator/heartbeat", "where the operator's sign comes")
    operator_timeout_s: float = parameter(
        0.5, "silence of the operator's sign after which the arms are held", unit="s", low=0.05, high=5.0
    )
    operator_button: int = parameter(0, "operator joy: index of the button that is kept pressed", low=0, high=99)
    operator_longest_press_s: float = parameter(
        600.0, "operator joy: a button that is pressed for longer is taken for stuck", unit="s", low=1.0, high=36000.0
    )

    # the node
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

    def problems(self) -> Iterable[str]:
        if self.heartbeat_timeout_s < 2.0 * self.heartbeat_period_s:
            yield (
                f"heartbeat_timeout_s: expected at least two beats of {self.heartbeat_period_s:g} s, "
                f"got {self.heartbeat_timeout_s:g}: every second beat that is late would hold the arms."
            )
        if self.policy_prefix == self.takeover_prefix:
            yield f"takeover_prefix: expected another one than policy_prefix, got '{self.takeover_prefix}' for both."
        if 0.0 < self.joint_jump_factor < 1.0:
            yield f"joint_jump_factor: expected 0 or at least 1, got {self.joint_jump_factor:g}."
        if self.bad_joint_s > self.joint_timeout_s:
            yield f"bad_joint_s: expected at most joint_timeout_s ({self.joint_timeout_s:g} s), got {self.bad_joint_s:g}."

    @property
    def obey(self) -> ObeyOptions:
        return ObeyOptions(follow_s=self.obey_s, silence_s=self.controller_timeout_s, skew_s=self.skew_s)

    @property
    def pauses(self) -> PauseRule:
        return PauseRule(self.auto_resume, self.healthy_s, self.longest_pause_s)
