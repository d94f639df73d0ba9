"""The parameters of the policy node. 0 or an empty text in an override means: what the checkpoint or the robot says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rdvla_ros.control.motion.seam import METHODS
from rdvla_ros.nodes.common.conversions import instruction_problem
from rdvla_ros.nodes.common.parameters import Schema, parameter


@dataclass(frozen=True)
class PolicyParameters(Schema):
    # what runs
    robot: str = parameter("", "robot description, a YAML file", change="unconfigured")
    checkpoint: str = parameter("", "folder with manifest.json and model.safetensors", change="unconfigured")
    instruction: str = parameter(
        "", "what the robot is to do; empty: no decisions until ~/set_instruction is called", change="always"
    )
    gate: bool = parameter(True, "true: a gate runs, and trajectories are sent only while its mode is AUTO; false: no gate")
    autostart: bool = parameter(False, "configure and activate at the start of the node")

    # how it computes
    device: str = parameter("cpu", "torch device", change="unconfigured")
    threads: int = parameter(
        1,
        "torch threads of a decision; more than there are idle cores make it much slower",
        low=1,
        high=256,
        change="unconfigured",
    )
    seed: int = parameter(0, "seed of the initial scratchpad", low=0, high=2**31 - 1, change="unconfigured")
    halting_rule: str = parameter("", "halting rule by name; empty: the checkpoint's", change="unconfigured")
    halting_threshold: float = parameter(
        0.0, "threshold of the halting rule; 0: the checkpoint's", low=0.0, change="unconfigured"
    )
    max_iterations: int = parameter(0, "iterations allowed; 0: the checkpoint's", low=0, high=10000, change="unconfigured")
    horizon_rule: str = parameter("", "horizon rule by name; empty: the checkpoint's", change="unconfigured")
    deadline_s: float = parameter(
        0.0,
        "a decision that has not settled by then takes its newest chunk; 0: no deadline",
        unit="s",
        low=0.0,
        high=60.0,
        change="always",
    )

    # the process it computes in
    decision_timeout_s: float = parameter(
        2.0,
        "a decision that takes longer counts as hung: its process is killed, and the arms hold",
        unit="s",
        low=0.05,
        high=60.0,
    )
    load_timeout_s: float = parameter(300.0, "longest time for loading the policy", unit="s", low=1.0, high=3600.0)
    worker_memory_mib: int = parameter(
        0,
        "largest memory that the decision process may allocate; 0: no limit",
        unit="MiB",
        low=0,
        high=1 << 24,
        change="unconfigured",
    )

    # when it decides
    publish_unconverged: bool = parameter(
        True, "true: a chunk that did not settle within the limit is sent too (the horizon rule shortens it)", change="always"
    )
    while_held: str = parameter(
        "pause",
        "while the gate holds: pause makes no decisions, decide makes decisions without trajectories",
        choices=("pause", "decide"),
        change="always",
    )
    held_period_s: float = parameter(
        1.0, "while_held decide: time between decisions", unit="s", low=0.1, high=60.0, change="always"
    )
    gate_timeout_s: float = parameter(
        1.0, "no trajectories after the gate's status is silent for this duration", unit="s", low=0.2, high=10.0
    )
    gate_heartbeat_s: float = parameter(
        0.07, "no trajectories after the gate's heartbeat is silent for this duration", unit="s", low=0.04, high=10.0
    )
    gate_alive_s: float = parameter(
        0.25,
        "the same while the gate's process, on this host, is known to be neither dead nor stopped; no longer than "
        "gate_heartbeat_s: never",
        unit="s",
        low=0.0,
        high=10.0,
    )
    first_latency_s: float = parameter(
        0.3,
        "assumed time from an observation to its trajectory, before the first one is measured",
        unit="s",
        low=0.01,
        high=10.0,
        change="unconfigured",
    )

    # what it accepts
    max_observation_age_s: float = parameter(
        0.0,
        "no decision from older observations; 0: the robot description's value",
        unit="s",
        low=0.0,
        high=10.0,
        change="unconfigured",
    )
    slop_s: float = parameter(
        0.0,
        "largest time between the images of one observation; 0: wide enough for cameras without a common trigger",
        unit="s",
        low=0.0,
        high=1.0,
        change="unconfigured",
    )
    joint_gap_s: float = parameter(
        0.05,
        "largest time between the joint states and the images of one observation",
        unit="s",
        low=0.001,
        high=1.0,
        change="unconfigured",
    )
    future_s: float = parameter(
        0.05, "largest time by which a stamp may be ahead of the clock", unit="s", low=0.0, high=1.0, change="unconfigured"
    )
    zero_stamps: str = parameter(
        "reject",
        "messages without a stamp: reject, or receive to use the time of receipt",
        choices=("reject", "receive"),
        change="unconfigured",
    )

    frozen_frames: int = parameter(
        10,
        "a camera counts as frozen after this number of consecutive identical images; 0: never (scenes without noise)",
        low=0,
        high=100000,
        change="unconfigured",
    )
    corrupt_images: int = parameter(
        3,
        "of the last ten images of a camera, this many that their decoder calls corrupt pause; 0: only a doubt of each decision",
        low=0,
        high=10,
        change="unconfigured",
    )
    joint_jump_factor: float = parameter(
        2.0,
        "a joint state is refused where a joint moved faster than this multiple of its largest speed; 0: never",
        low=0.0,
        high=100.0,
        change="unconfigured",
    )
    joint_merge_s: float = parameter(
        0.1,
        "joints of one arm that come in messages of their own (a gripper's driver) lie at most this far apart",
        unit="s",
        low=0.001,
        high=1.0,
        change="unconfigured",
    )
    skew_warn_s: float = parameter(
        0.1, "warn where the stamps of one stream lag further behind those of another", unit="s", low=0.001, high=10.0
    )
    skew_limit_s: float = parameter(
        0.2,
        "do not start to move where the stamps of one stream lag further behind those of another",
        unit="s",
        low=0.001,
        high=10.0,
    )

    # when it stops
    pause_after_s: float = parameter(
        0.0,
        "pause when the newest observation is older; 0: 0.1 s above max_observation_age_s",
        unit="s",
        low=0.0,
        high=10.0,
        change="unconfigured",
    )
    healthy_s: float = parameter(1.0, "a pause ends after its causes were gone for this duration", unit="s", low=0.1, high=60.0)
    longest_pause_s: float = parameter(2.0, "a pause that lasts longer becomes a hold", unit="s", low=0.1, high=600.0)
    unsettled_to_pause: int = parameter(
        10, "pause after this number of consecutive decisions that did not settle within the limit; 0: never", low=0, high=1000
    )
    constant_decisions: int = parameter(
        5,
        "the network counts as unresponsive after this number of consecutive identical decisions on different images; 0: never",
        low=0,
        high=1000,
    )
    on_alarm: str = parameter(
        "warn",
        "during the monitor's alarm: warn changes nothing, shorten_horizon executes 4 rows of a chunk at most, think_longer "
        "allows 4 times the iterations",
        choices=("warn", "shorten_horizon", "think_longer"),
        change="unconfigured",
    )
    alarm_after: int = parameter(
        2, "decisions in a row with an alarm until on_alarm is done", low=1, high=100, change="unconfigured"
    )
    stall_s: float = parameter(
        0.3, "decisions begun before the callbacks stood still for this duration are dropped", unit="s", low=0.05, high=10.0
    )

    # what it sends
    seam_method: str = parameter(
        "cut_and_blend",
        "how a chunk joins the running motion; replace is for comparison only, the gate refuses it",
        choices=tuple(METHODS),
        change="unconfigured",
    )
    lead_s: float = parameter(
        0.06,
        "from when a motion is planned until it leaves the running one; the gate's delivery_delay_s is added to it",
        unit="s",
        low=0.02,
        high=0.2,
        change="unconfigured",
    )
    stop_s: float = parameter(
        0.5, "duration of the stop that ends every trajectory", unit="s", low=0.05, high=0.5, change="unconfigured"
    )

    def problems(self) -> Iterable[str]:
        if self.instruction and (problem := instruction_problem(self.instruction)):
            yield f"instruction: {problem}."
        if 0.0 < self.max_observation_age_s < self.slop_s:
            yield f"max_observation_age_s: expected at least slop_s ({self.slop_s:g} s), got {self.max_observation_age_s:g}."
        if self.skew_limit_s < self.skew_warn_s:
            yield f"skew_limit_s: expected at least skew_warn_s ({self.skew_warn_s:g} s), got {self.skew_limit_s:g}."
        if 0.0 < self.pause_after_s < self.max_observation_age_s:
            yield (
                f"pause_after_s: expected 0 or at least max_observation_age_s ({self.max_observation_age_s:g} s), "
                f"got {self.pause_after_s:g}."
            )
        if self.decision_timeout_s <= self.deadline_s:
            yield f"decision_timeout_s: expected above deadline_s ({self.deadline_s:g} s), got {self.decision_timeout_s:g}."
        if self.gate_timeout_s < self.gate_heartbeat_s:
            yield f"gate_heartbeat_s: expected at most gate_timeout_s ({self.gate_timeout_s:g} s), got {self.gate_heartbeat_s:g}."
        if 0.0 < self.joint_jump_factor < 1.0:
            yield f"joint_jump_factor: expected 0 or at least 1, got {self.joint_jump_factor:g}."
        if 1 in (self.frozen_frames, self.constant_decisions):
            yield "frozen_frames, constant_decisions: expected 0 or at least 2, since one says nothing; got 1."
        if 0.0 < self.deadline_s < 0.005:
            yield f"deadline_s: expected 0 or at least 0.005 s, got {self.deadline_s:g}."
