"""Good messages, and ways to spoil them. A `Spoil` says where and with what; each function finds a place for it."""

import dataclasses
import math

import numpy as np
from builtin_interfaces.msg import Duration
from hypothesis import strategies as st
from sensor_msgs.msg import JointState, Joy
from trajectory_msgs.msg import JointTrajectoryPoint

from rdvla_ros.msg import ControllerState, Heartbeat
from rdvla_ros.nodes.common import conversions
from rdvla_ros.types import StopReason

NUMBERS = st.one_of(
    st.floats(),
    st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e308, -1e308, 5e-324, 1e9, -1.0, 57.3, 180.0]),
    st.floats(-4.0, 4.0),
)
NASTY = [
    "",
    " ",
    "\n\x1b[31m%s{}",
    "left_waist",
    "right_gripper",
    "x" * 5000,
    "\u202e",
    "/",
    "a\rb",
    "\t",
    "%n",
    "\U0001f916" * 30,
]
TEXTS = st.one_of(
    *[st.sampled_from(NASTY)] * 3,  # made-up text costs more to make than a gate takes to refuse it
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
)


@dataclasses.dataclass(frozen=True)
class Spoil:
    """how: which of the ways; a, b: where; number, text: with what."""

    how: int
    a: int
    b: int
    number: float
    text: str


SPOILS = st.builds(Spoil, st.integers(0, 15), st.integers(0, 1 << 31), st.integers(0, 1 << 31), NUMBERS, TEXTS)


def whole(number, low, high):
    """A whole number that the message can hold."""
    return int(min(max(number, low), high)) if math.isfinite(number) else low


def spoil_stamp(message, spoil):
    if spoil.how % 2:
        message.header.stamp.sec = whole(message.header.stamp.sec + spoil.number, -(1 << 31), (1 << 31) - 1)
    else:
        message.header.stamp.sec, message.header.stamp.nanosec = (
            whole(spoil.number, -(1 << 31), (1 << 31) - 1),
            spoil.a % (1 << 32),
        )


def spoil_names(names, spoil):
    """A list of names with one replaced, repeated, left out or exchanged."""
    names = list(names)
    if not names:
        return [spoil.text]
    i, j = spoil.a % len(names), spoil.b % len(names)
    way = spoil.how % 5
    if way == 0:
        names[i] = spoil.text
    elif way == 1:
        names[i] = names[j]
    elif way == 2:
        del names[i]
    elif way == 3:
        names[i], names[j] = names[j], names[i]
    else:
        names += [spoil.text] * (1 + spoil.b % 50)
    return names


def spoil_numbers(numbers, spoil):
    numbers = list(numbers)
    if not numbers or spoil.how % 4 == 3:
        return [spoil.number] * (spoil.a % 20)
    i = spoil.a % len(numbers)
    if spoil.how % 4 == 0:
        numbers[i] = spoil.number
    elif spoil.how % 4 == 1:
        numbers[i] += spoil.number if abs(spoil.number) < 10 else 0.1
    else:
        del numbers[i]
    return numbers


def spoil_motion(message, spoil):
    """A JointTrajectory, in place."""
    points = message.points
    if spoil.how < 4 and points:
        point = points[spoil.b % len(points)]
        field = ("positions", "velocities", "accelerations", "effort")[spoil.how]
        setattr(point, field, spoil_numbers(getattr(point, field), Spoil(spoil.a, spoil.a, spoil.b, spoil.number, "")))
    elif spoil.how < 6:
        message.joint_names = spoil_names(message.joint_names, spoil)
    elif spoil.how < 8:
        spoil_stamp(message, spoil)
    elif spoil.how < 10 and points:
        time = Duration(sec=whole(spoil.number, -(1 << 31), (1 << 31) - 1), nanosec=spoil.b % (1 << 32))
        points[spoil.a % len(points)].time_from_start = time
    elif spoil.how == 10:
        message.points = points * (spoil.a % 40)
    elif spoil.how == 11:
        message.points = list(points)[: spoil.a % (len(points) + 1)]
    elif spoil.how == 12:
        message.points = list(reversed(points))
    elif spoil.how == 13:
        for point in points:
            point.positions = [p * (spoil.number if abs(spoil.number) < 1e6 else 2.0) for p in point.positions]
    elif spoil.how == 14:
        for point in points:
            point.velocities = [v * (spoil.number if abs(spoil.number) < 1e6 else 2.0) for v in point.velocities]
    else:
        message.header.frame_id = spoil.text


def spoil_joints(message, spoil):
    if spoil.how < 6:
        message.position = spoil_numbers(message.position, spoil)
    elif spoil.how < 11:
        message.name = spoil_names(message.name, spoil)
    elif spoil.how < 13:
        message.velocity = [spoil.number] * (spoil.a % 10)
    else:
        spoil_stamp(message, spoil)


def spoil_controller(message, spoil):
    if spoil.how < 5:
        message.reference.positions = spoil_numbers(message.reference.positions, spoil)
    elif spoil.how < 9:
        message.reference.velocities = spoil_numbers(message.reference.velocities, spoil)
    elif spoil.how < 12:
        message.joint_names = spoil_names(message.joint_names, spoil)
    elif spoil.how == 12:
        message.accepted = spoil.a
    else:
        spoil_stamp(message, spoil)


def spoil_beat(message, spoil):
    way = spoil.how % 4
    if way == 0:
        message.count = whole(spoil.number, 0, (1 << 64) - 1)
    elif way == 1:
        message.causes = [spoil.text] * (spoil.a % 30)
    elif way == 2:
        message.hold = spoil.text
    else:
        spoil_stamp(message, spoil)


def spoil_image(message, spoil):
    size = whole(spoil.number, 0, (1 << 32) - 1)
    if spoil.how < 3:
        setattr(message, ("height", "width", "step")[spoil.how], size)
    elif spoil.how == 3:
        message.height = message.width = message.step = 0
    elif spoil.how < 6:
        message.data = message.data[: spoil.a % 1000]
    elif spoil.how < 8:
        message.encoding = ["bgr8", "16UC1", "mono8", "rgba8", "yuv422", "32FC1", spoil.text][spoil.a % 7]
    elif spoil.how == 8:
        message.is_bigendian = spoil.a % 256
    elif spoil.how < 11:
        message.header.frame_id = spoil.text
    else:
        spoil_stamp(message, spoil)


def spoiled_decision(decision, spoil):
    """What a network in doubt may decide."""
    chunk = decision.chunk
    positions = np.array(chunk.positions)
    if spoil.how < 4:
        positions[spoil.a % len(positions), spoil.b % positions.shape[1]] = spoil.number
    elif spoil.how < 6:
        positions = positions + np.random.default_rng(spoil.a).normal(0.0, [0.05, 0.3, 3.0][spoil.b % 3], positions.shape)
    elif spoil.how == 6:
        positions = positions[: spoil.a % (len(positions) + 1), : 1 + spoil.b % positions.shape[1]]
    elif spoil.how == 7:
        positions = positions * (spoil.number if abs(spoil.number) < 100 else 2.0)
    changes = {"chunk": dataclasses.replace(chunk, positions=positions)}
    if spoil.how == 8:
        changes["chunk"] = dataclasses.replace(chunk, stamp_s=chunk.stamp_s + spoil.number)
    elif spoil.how == 9:
        changes["chunk"] = dataclasses.replace(chunk, step_s=spoil.number)
    elif spoil.how == 10:
        changes["stop_reason"] = list(StopReason)[spoil.a % len(StopReason)]
    elif spoil.how == 11:
        changes |= {"iterations": 1 + spoil.a % 64, "change": np.full(1 + spoil.b % 64, spoil.number)}
    elif spoil.how == 12:
        changes["step_change"] = np.full(spoil.a % 12, spoil.number)
    elif spoil.how == 13:
        changes["notes"] = (spoil.text,)
    elif spoil.how == 14:
        changes |= {"threshold": spoil.number, "spread": spoil.number}
    return dataclasses.replace(decision, **changes)


def spoil_joy(message, spoil):
    if spoil.how % 3 == 0:
        message.buttons = [whole(spoil.number, -(1 << 31), (1 << 31) - 1)] * (spoil.a % 12)
    elif spoil.how % 3 == 1:
        message.buttons = []
    else:
        spoil_stamp(message, spoil)


# -- good ones


def joints(arm, positions, ros_s):
    message = JointState(name=list(arm.joint_names), position=np.asarray(positions, dtype=float).tolist())
    message.header.stamp = conversions.stamp(ros_s)
    return message


def controller_state(arm, desired, ros_s, accepted):
    message = ControllerState(joint_names=list(arm.joint_names), accepted=accepted)
    message.header.stamp = conversions.stamp(ros_s)
    message.reference = JointTrajectoryPoint(positions=desired.position.tolist(), velocities=desired.velocity.tolist())
    return message


def beat(count, ros_s):
    message = Heartbeat(count=count)
    message.header.stamp = conversions.stamp(ros_s)
    return message


def joy(pressed, ros_s):
    message = Joy(buttons=[int(pressed)])
    message.header.stamp = conversions.stamp(ros_s)
    return message
