"""Between the messages of further sensors (force, touch, sound) and plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from geometry_msgs.msg import Vector3, Vector3Stamped, Wrench, WrenchStamped
from sensor_msgs.msg import FluidPressure, Range
from std_msgs.msg import Float32MultiArray, Float64MultiArray

from rdvla_ros.nodes.common.conversions import Contradiction, printable
from rdvla_ros.robot import Sensor
from rdvla_ros.sensor_messages import NUMBERS, SENSOR_MESSAGES
from rdvla_ros.types import ObservationError

TYPES = {
    "geometry_msgs/WrenchStamped": WrenchStamped,
    "geometry_msgs/Vector3Stamped": Vector3Stamped,
    "sensor_msgs/FluidPressure": FluidPressure,
    "sensor_msgs/Range": Range,
    "std_msgs/Float32MultiArray": Float32MultiArray,
    "std_msgs/Float64MultiArray": Float64MultiArray,
}
assert set(TYPES) == set(SENSOR_MESSAGES)


def reading(message: Any, sensor: Sensor) -> np.ndarray:
    """(w,) float64 numbers of the sensor; ObservationError where they are in doubt; a Contradiction where they are another
    sensor's: another count, another frame."""
    values = np.asarray(NUMBERS[sensor.message](message), dtype=np.float64)
    if values.shape != (sensor.size,):
        raise Contradiction(f"{sensor.topic}: expected {sensor.size} numbers of sensor '{sensor.name}', got {values.size}.")
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ObservationError(
            f"{sensor.topic}: expected finite numbers of sensor '{sensor.name}', number {bad} is {values[bad]}."
        )
    frame = message.header.frame_id if hasattr(message, "header") else ""
    if sensor.frame_id and frame != sensor.frame_id:
        raise Contradiction(
            f"{sensor.topic}: expected frame_id '{sensor.frame_id}' of sensor '{sensor.name}', got '{printable(frame, 60)}'. "
            "Are two sensors swapped?"
        )
    return values


def wrench_message(values: Sequence[float], stamp: Any, frame_id: str) -> WrenchStamped:
    """values: force x y z [N], torque x y z [Nm]."""
    force, torque = (Vector3(**dict(zip("xyz", map(float, part), strict=True))) for part in (values[:3], values[3:]))
    message = WrenchStamped(wrench=Wrench(force=force, torque=torque))
    message.header.stamp, message.header.frame_id = stamp, frame_id
    return message
