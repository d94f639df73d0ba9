"""Every topic and service name that nodes share, once. All are relative: a node resolves them in its own namespace, so that
several robots fit one ROS graph (`namespace:=cell_1`). Names of robot parts come from the robot description.

A node's own names begin with its own name; `~/status` in the gate is GATE_STATUS for the others.
"""

from __future__ import annotations

GATE, POLICY, MONITOR, SIM_ROBOT, RECORDER = "gate", "policy", "monitor", "sim_robot", "recorder"  # node names

GATE_STATUS = f"{GATE}/status"
GATE_HEARTBEAT = f"{GATE}/heartbeat"
GATE_HOLD = f"{GATE}/hold"
GATE_RESUME = f"{GATE}/resume"
GATE_SET_MODE = f"{GATE}/set_mode"

POLICY_CONVERGENCE = f"{POLICY}/convergence"
POLICY_HEARTBEAT = f"{POLICY}/heartbeat"
POLICY_SET_INSTRUCTION = f"{POLICY}/set_instruction"
POLICY_GET_STATE = f"{POLICY}/get_state"

MONITOR_UNCERTAINTY = f"{MONITOR}/uncertainty"
PLAIN_NUMBERS = {  # the numbers of each decision as std_msgs/Float32
    name: f"{MONITOR}/plain/{name}" for name in ("iterations", "final_change", "horizon", "latency_s", "uncertainty")
}
DIAGNOSTICS = "diagnostics"

TELEOP = "teleop"  # prefix of a teleoperation source's motions
OPERATOR_HEARTBEAT = "operator/heartbeat"

SIM_TASK_STAGE = f"{SIM_ROBOT}/task_stage"
SIM_RESET = f"{SIM_ROBOT}/reset"
SIM_VIEW = f"{SIM_ROBOT}/view/image_raw"

CLOCK = "/clock"  # absolute in ROS 2 itself; bringup remaps it where there is a namespace


def motions(prefix: str, arm: str) -> str:
    """Where the policy (prefix POLICY) or a teleoperation source publishes the trajectories of one arm."""
    return f"{prefix}/{arm}/joint_trajectory"


def chunk(arm: str) -> str:
    """Where the policy publishes what it predicted for an arm, whether or not it moves: first the measured joints (at 0 s)."""
    return f"{POLICY}/{arm}/chunk"


def thumbnail(camera: str) -> str:
    """Where the monitor publishes the small pictures of a camera."""
    return f"{MONITOR}/thumbnail/{camera}"


def heartbeat(prefix: str) -> str:
    """Where a node, or a policy of another name, publishes its heartbeat."""
    return f"{prefix}/heartbeat"


def camera_info(topic: str) -> str:
    """The camera_info topic beside an image topic, as image_transport names it; a compressed one is one level further down."""
    return topic.removesuffix("/compressed").rpartition("/")[0] + "/camera_info"
