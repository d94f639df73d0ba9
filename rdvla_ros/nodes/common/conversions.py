"""Between ROS messages and the package's types. Nothing here keeps state or reads a clock.

Input that cannot be trusted is refused with ObservationError: what was expected, what came. A = joints of the robot,
J = joints of one message, N = points of a trajectory.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration, Time
from sensor_msgs.msg import CompressedImage, Image, JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from rdvla_ros.control.motion.trajectory import Trajectory
from rdvla_ros.msg import Convergence
from rdvla_ros.nodes.common.image_header import compressed_size
from rdvla_ros.robot import Camera, Joint, RobotDescription
from rdvla_ros.types import Decision, ObservationError, nearest_names

NANOSECONDS = 1_000_000_000
RAW_CHANNELS = {"rgb8": 3, "bgr8": 3}  # colour encodings that are taken; anything else is refused, never guessed
# A measured position may lie this share of the joint's range outside its limits (sag, encoder offsets); degrees do not.
RANGE_MARGIN = 0.1
LEAST_MARGIN = 0.05  # [rad or m] also a finger of small range, which gives by centimetres when a whole arm presses on it
HEADER_BYTES = 65536 * 2 + 64  # the frame header of a JPEG comes after at most two large segments of notes
COMPRESSED_OVERHEAD = 65536  # [bytes] a compressed image may be this much larger than its pixels


@functools.cache
def _bridge() -> Any:
    """Made when the first image is decoded: the gate converts trajectories here and needs no OpenCV."""
    from rdvla_ros.compat import CvBridge

    return CvBridge()


def seconds(stamp: Time | Duration) -> float:
    return stamp.sec + stamp.nanosec / NANOSECONDS


def stamp(seconds_: float) -> Time:
    nanoseconds = round(seconds_ * NANOSECONDS)
    return Time(sec=nanoseconds // NANOSECONDS, nanosec=nanoseconds % NANOSECONDS)


def stamp_or_none(seconds_: float) -> Time:
    """0, which is no stamp, where the number is no time that a message can hold."""
    return stamp(seconds_) if 0.0 <= seconds_ < 2**31 else Time()


def duration(seconds_: float) -> Duration:
    nanoseconds = round(seconds_ * NANOSECONDS)
    return Duration(sec=nanoseconds // NANOSECONDS, nanosec=nanoseconds % NANOSECONDS)


@dataclass(frozen=True)
class JointGroup:
    """The joints of one arm, in its order, and the topic that brings them; other arms may share the topic."""

    arm: str
    topic: str
    joints: tuple[Joint, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(joint.name for joint in self.joints)


def joint_groups(robot: RobotDescription) -> tuple[JointGroup, ...]:
    """One group per arm, also on a shared topic: its messages may carry one arm each, when several drivers publish there."""
    return tuple(JointGroup(arm.name, arm.joint_states_topic, arm.joints) for arm in robot.arms)


class OtherJoints(ObservationError):
    """A message that names none of the group's joints: another arm's, or the wheels' on a combined topic."""


class Contradiction(ObservationError):
    """Input that is refused and shows besides that the robot is not the one described: moving arms are held."""


def joint_positions(message: JointState, group: JointGroup) -> np.ndarray:
    """(J,) positions in the group's order and the controller's units, found by name; joints of others are ignored.

    OtherJoints when the message has no joint of the group; ObservationError when it has, and they are in doubt.
    """
    names, positions = list(message.name), message.position
    if not set(names) & set(group.names):
        raise OtherJoints(
            f"{group.topic}: expected joints of arm '{group.arm}' such as '{group.names[0]}'. "
            f"{nearest_names(group.names[0], names)}"
        )
    if len(names) != len(positions):
        raise ObservationError(f"{group.topic}: expected as many positions as names, got {len(positions)} and {len(names)}.")
    column = {name: i for i, name in enumerate(names)}
    if twice := next((name for name in group.names if names.count(name) > 1), ""):
        raise Contradiction(f"{group.topic}: joint '{twice}' stands {names.count(twice)} times in one message, expected once.")
    missing = [name for name in group.names if name not in column]
    if missing:
        raise Contradiction(
            f"{group.topic}: expected joint '{missing[0]}', which the message lacks. {nearest_names(missing[0], names)}"
        )
    values = np.array([positions[column[name]] for name in group.names], dtype=np.float64)
    for joint, value in zip(group.joints, values, strict=True):
        margin = max(RANGE_MARGIN * (joint.upper - joint.lower), LEAST_MARGIN)
        if not math.isfinite(value):
            raise ObservationError(f"{group.topic}: joint '{joint.name}': expected a finite position, got {value}.")
        if not joint.lower - margin <= value <= joint.upper + margin:
            raise Contradiction(
                f"{group.topic}: joint '{joint.name}': expected a position within its limits {joint.lower:g} .. {joint.upper:g} "
                f"(rad or m), got {value:g}. Degrees, another zero, or wrong limits in the robot description?"
            )
    return values


def check_image(message: Image | CompressedImage, camera: Camera) -> None:
    """Refuse an image that is not what the robot description says, before any of its bytes are looked at."""
    if camera.frame_id and message.header.frame_id != camera.frame_id:
        raise Contradiction(
            f"{camera.topic}: expected frame_id '{camera.frame_id}', got {printable(message.header.frame_id)!r}. "
            "Are two cameras swapped?"
        )
    pixel_bytes = camera.width * camera.height * 3
    if camera.transport == "compressed":
        if not 0 < len(message.data) <= pixel_bytes + COMPRESSED_OVERHEAD:
            raise ObservationError(
                f"{camera.topic}: expected 1 .. {pixel_bytes + COMPRESSED_OVERHEAD} bytes for "
                f"{camera.width}x{camera.height}, got {len(message.data)}."
            )
        _check_header(message, camera)
        return
    if (message.width, message.height) != (camera.width, camera.height):
        raise ObservationError(
            f"{camera.topic}: expected {camera.width}x{camera.height} pixels, got {message.width}x{message.height}. "
            f"Set the camera or width and height of camera '{camera.name}' in the robot description."
        )
    if message.encoding not in RAW_CHANNELS:
        raise Contradiction(
            f"{camera.topic}: expected encoding {' or '.join(RAW_CHANNELS)}, got {printable(message.encoding)!r}. "
            "Let the camera driver convert it."
        )
    row_bytes = message.width * RAW_CHANNELS[message.encoding]
    if message.step < row_bytes or len(message.data) != message.step * message.height:
        raise ObservationError(
            f"{camera.topic}: expected {message.height} rows of at least {row_bytes} bytes, got a step of {message.step} and "
            f"{len(message.data)} bytes."
        )


def _check_header(message: CompressedImage, camera: Camera) -> None:
    """A header may ask the decoder for far more memory than the message has bytes."""
    size = compressed_size(bytes(message.data[:HEADER_BYTES]))
    if size is not None and size != (camera.width, camera.height):
        raise ObservationError(
            f"{camera.topic}: expected {camera.width}x{camera.height} pixels, got an image whose header says {size[0]}x{size[1]}."
        )
    if size is None:
        raise ObservationError(f"{camera.topic}: expected a JPEG or PNG image, got bytes that begin like neither.")


def rgb_image(message: Image | CompressedImage, camera: Camera) -> np.ndarray:
    """(height, width, 3) uint8 RGB. Shares the message's memory where it already is RGB."""
    check_image(message, camera)
    try:
        if camera.transport == "compressed":
            image = _bridge().compressed_imgmsg_to_cv2(message, desired_encoding="rgb8")
        else:
            image = _bridge().imgmsg_to_cv2(message, desired_encoding="rgb8")
    except Exception as error:  # OpenCV, the real bridge and the stand-in each raise classes of their own
        raise ObservationError(f"{camera.topic}: the image cannot be decoded: {error}") from None
    if image.shape != (camera.height, camera.width, 3):
        raise ObservationError(
            f"{camera.topic}: expected {camera.width}x{camera.height} pixels in colour, got an array of shape {image.shape}."
        )
    return image


def trajectory_message(trajectory: Trajectory, stamp_: Time) -> JointTrajectory:
    """One arm's motion as a message whose time base is stamp_."""
    message = JointTrajectory(joint_names=list(trajectory.joint_names))
    message.header.stamp = stamp_
    message.points = [
        JointTrajectoryPoint(positions=position.tolist(), velocities=velocity.tolist(), time_from_start=duration(time_s))
        for time_s, position, velocity in zip(
            trajectory.times_s.tolist(), trajectory.positions, trajectory.velocities, strict=True
        )
    ]
    return message


def trajectory(message: JointTrajectory) -> Trajectory:
    """Inverse of `trajectory_message`. Every point needs positions and velocities: without them the motion between is a guess."""
    joints, shape = len(message.joint_names), (len(message.points), len(message.joint_names))
    for number, point in enumerate(message.points):
        if joints and not len(point.velocities):
            raise ObservationError(f"Trajectory point {number} has no velocities; send positions and velocities.")
        if len(point.positions) != joints or len(point.velocities) != joints:
            raise ObservationError(
                f"Trajectory point {number}: expected {joints} positions and velocities, got {len(point.positions)} and "
                f"{len(point.velocities)}."
            )
    return Trajectory(
        joint_names=tuple(message.joint_names),
        times_s=np.array([seconds(point.time_from_start) for point in message.points]),
        positions=np.array([point.positions for point in message.points], dtype=np.float64).reshape(shape),
        velocities=np.array([point.velocities for point in message.points], dtype=np.float64).reshape(shape),
    )


def convergence_message(
    decision: Decision,
    *,
    sequence: int,
    now_s: float,
    instruction: str,
    horizon: int,
    published: bool,
    note: str,
    doubts: Sequence[str] = (),
) -> Convergence:
    """What became of one decision. horizon: rows to be executed; note: why nothing was published, empty when it was. doubts:
    about its images or its output."""
    message = Convergence(
        sequence=sequence,
        observation_stamp=stamp_or_none(decision.chunk.stamp_s),
        iterations=int(decision.iterations),
        limit=int(decision.limit),
        stop_reason=int(decision.stop_reason),
        converged=bool(decision.converged),
        threshold=float(decision.threshold),
        change=np.asarray(decision.change, dtype=np.float64).tolist(),
        spread=float(decision.spread),
        horizon=horizon if published else 0,
        chunk_length=len(decision.chunk.positions),
        step_s=float(decision.chunk.step_s),
        published=published,
        note=note,
        doubts=[printable(doubt) for doubt in doubts],
        instruction=instruction,
    )
    message.header.stamp = stamp(now_s)
    names = [name for name in decision.timings if name != "total"]
    total = decision.timings.get("total", sum(decision.timings.values()))
    message.timing_names = [*names, "total"]
    message.timings_s = [float(decision.timings[name]) for name in names] + [float(total)]
    return message


def printable(text: str, longest: int = 512) -> str:
    """Text from outside as it may stand in a log: no line breaks or control characters, not endless."""
    clean = "".join(c if c.isprintable() else "?" for c in text[:longest])
    return clean + ("..." if len(text) > longest else "")


def instruction_problem(text: str, longest: int = 512) -> str:
    """Why a text may not be the instruction; empty when it may."""
    if not text.strip():
        return f"expected 1 .. {longest} printable characters, got none"
    if len(text) > longest:
        return f"expected 1 .. {longest} printable characters, got {len(text)}"
    bad: Sequence[str] = [c for c in text if not c.isprintable()]
    return f"expected printable characters only, got {bad[0]!r}" if bad else ""
