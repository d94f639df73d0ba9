"""The parameters of gate_node. All are read at start only: limits of a moving robot are not relaxed by a service call."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rdvla_ros.control.motion.trajectory import LONGEST_MOTION_S
from rdvla_ros.control.supervision.modes import PauseRule
from rdvla_ros.control.supervision.tracking import TrackingOptions
from rdvla_ros.nodes.common import names
from rdvla_ros.nodes.common.parameters import Schema, parameter


@dataclass(frozen=True)
class GateParameters(Schema):
    robot: str = parameter("", "robot description, a YAML file", unit="path")
    start_mode: str = parameter(
        "hold",
        "hold: nothing passes until ~/resume is called; auto: the start-up hold ends by itself once nothing stands in the way",
        choices=("hold", "auto"),
    )
    policy_prefix: str = parameter(names.POLICY, "the policy publishes on <prefix>/<arm>/joint_trajectory")
    takeover_prefix: str = parameter(names.TELEOP, "a teleoperation source publishes on <prefix>/<arm>/joint_trajectory")

    # what passes
    pair_timeout_s: float = parameter(
        0.1, "how long one arm's part of a decision waits for the other arm's", unit="s", low=0.005, high=1.0
    )
    longest_age_s: float = parameter(0.2, "largest age, by its stamp, of a motion that passes", unit="s", low=0.02, high=2.0)
    longest_motion_s: float = parameter(LONGEST_MOTION_S, "longest motion that passes", unit="s", low=0.2, high=10.0)
    refusals_to_hold: int = parameter(
        3, "hold after this number of consecutive motions that begin where the arms are not", low=1, high=100
    )
    hold_lead_s: float = parameter(
        0.02, "time from sending a stop until it leaves the running motion", unit="s", low=0.002, high=0.2
    )

    # the robot
    joint_timeout_s: float = parameter(0.25, "hold after joint states are silent for this duration", unit="s", low=0.02, high=5.0)
    bad_joint_s: float = parameter(
        0.05, "hold after only unusable joint states came for this duration", unit="s", low=0.0, high=5.0
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
        1.0, "largest difference between the stamps of other nodes and this node's clock", unit="s", low=0.05, high=60.0
    )
    controller_timeout_s: float = parameter(
        0.25,
        "hold after a controller's state is silent for this duration; only where the robot description names its topic",
        unit="s",
        low=0.02,
        high=5.0,
    )
    obey_s: float = parameter(
        0.2,
        "hold after a controller's reference deviates from the motion that was sent for this duration",
        unit="s",
        low=0.05,
        high=2.0,
    )
    other_publishers: str = parameter(
        "hold",
        "what another publisher on a controller's topic causes: a hold, or only a warning (for tools that publish now and then)",
        choices=("hold", "warn"),
    )
    skew_s: float = parameter(
        0.05, "largest time by which one arm may lag behind the other on the same motion", unit="s", low=0.004, high=1.0
    )

    # the policy and this process
    policy_heartbeat: bool = parameter(True, "whether AUTO needs the policy's heartbeat; false: for a policy that sends none")
    heartbeat_period_s: float = parameter(0.01, "period of the gate's heartbeat", unit="s", low=0.005, high=1.0)
    heartbeat_timeout_s: float = parameter(
        0.07, "hold after the policy's heartbeat is silent for this duration", unit="s", low=0.04, high=5.0
    )
    alive_timeout_s: float = parameter(
        0.25,
        "the same while the policy's process, on this host, is known to be neither dead nor stopped; no longer than "
        "heartbeat_timeout_s: never",
        unit="s",
        low=0.0,
        high=5.0,
    )
    starved_s: float = parameter(
        0.25,
        "hold after this process did not run for this duration, or its callbacks for twice this duration",
        unit="s",
        low=0.05,
        high=5.0,
    )

    realtime_priority: int = parameter(
        40, "real-time priority (SCHED_FIFO) of the gate's process, where the system allows it; 0: none", low=0, high=99
    )

    # the operator
    auto_resume: bool = parameter(False, "true: a pause ends by itself once its causes are gone; false: a pause becomes a hold")
    healthy_s: float = parameter(
        1.0, "auto_resume: a pause ends after nothing stood in the way for this duration", unit="s", low=1.0, high=60.0
    )
    longest_pause_s: float = parameter(2.0, "a pause that lasts longer becomes a hold", unit="s", low=0.1, high=60.0)
    operator: str = parameter(
        "off",
        "operator presence that moving needs: off, a heartbeat (rdvla_ros/Heartbeat), or a pressed button (joy, sensor_msgs/Joy)",
        choices=("off", "heartbeat", "joy"),
    )
    operator_topic: str = parameter(names.OPERATOR_HEARTBEAT, "topic of the operator's heartbeat or joystick")
    operator_timeout_s: float = parameter(
        0.5, "hold after the operator's heartbeat or joystick is silent for this duration", unit="s", low=0.05, high=5.0
    )
    operator_button: int = parameter(0, "operator joy: index of the button that the operator keeps pressed", low=0, high=99)
    operator_longest_press_s: float = parameter(
        600.0, "operator joy: a button that is pressed for longer counts as stuck", unit="s", low=1.0, high=36000.0
    )

    # the node
    status_hz: float = parameter(20.0, "rate of ~/status", unit="Hz", low=10.0, high=200.0)
    discovery_s: float = parameter(
        0.5, "at start: how long to look for another publisher to the controllers", unit="s", low=0.0, high=10.0
    )
    predecessor_s: float = parameter(
        25.0,
        "at start: how long to wait for another gate to end; discovery lists a killed one for 20 s",
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
    def obey(self) -> TrackingOptions:
        return TrackingOptions(follow_s=self.obey_s, silence_s=self.controller_timeout_s, skew_s=self.skew_s)

    @property
    def pauses(self) -> PauseRule:
        return PauseRule(self.auto_resume, self.healthy_s, self.longest_pause_s)
