"""Messages of further sensors (force, touch, sound): how many numbers each carries, and which these are.

No ROS is needed: a message is anything with the fields of the ROS message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

# how many numbers a message carries; 0: as many as the robot description says
SENSOR_MESSAGES = {
    "geometry_msgs/WrenchStamped": 6,
    "geometry_msgs/Vector3Stamped": 3,
    "sensor_msgs/FluidPressure": 1,
    "sensor_msgs/Range": 1,
    "std_msgs/Float32MultiArray": 0,
    "std_msgs/Float64MultiArray": 0,
}


def _xyz(vector: Any) -> list[float]:
    return [vector.x, vector.y, vector.z]


NUMBERS: dict[str, Callable[[Any], Sequence[float]]] = {
    "geometry_msgs/WrenchStamped": lambda message: [*_xyz(message.wrench.force), *_xyz(message.wrench.torque)],
    "geometry_msgs/Vector3Stamped": lambda message: _xyz(message.vector),
    "sensor_msgs/FluidPressure": lambda message: [message.fluid_pressure],
    "sensor_msgs/Range": lambda message: [message.range],
    "std_msgs/Float32MultiArray": lambda message: message.data,  # no header: its time is that of the receipt
    "std_msgs/Float64MultiArray": lambda message: message.data,
}
assert set(NUMBERS) == set(SENSOR_MESSAGES)
