"""ROS packages that may be absent (they are on no package index of Python's), each chosen in one place: here.

    from rdvla_ros.compat import message_filters, CvBridge, control_msgs

gives the real package where it can be used and otherwise a stand-in with the same interface; `control_msgs`, which holds
only message types, is None where it is absent. Nothing is imported before it is asked for, so a process that needs no
images loads no OpenCV.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any


def _message_filters() -> ModuleType:
    real = _importable("message_filters")
    if real is not None and hasattr(real, "ApproximateTimeSynchronizer"):
        return real
    return importlib.import_module("rdvla_ros.compat.message_filters_standin")


def _cv_bridge() -> type:
    """CvBridge. A package of that name on PyPI is a leftover of ROS 1 and fails on ROS 2 images, so the real one must
    first convert a pixel."""
    real = _importable("cv_bridge")
    if real is not None and _converts_a_pixel(real):
        return real.CvBridge
    return importlib.import_module("rdvla_ros.compat.cv_bridge_standin").CvBridge


def _control_msgs() -> ModuleType | None:
    return _importable("control_msgs.msg")


def _importable(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except Exception:  # absent, or of another ROS or numpy: what it raises then is up to the package
        return None


def _converts_a_pixel(package: ModuleType) -> bool:
    from sensor_msgs.msg import Image

    try:
        pixel = Image(height=1, width=1, encoding="rgb8", step=3, data=bytes((1, 2, 3)))
        return package.CvBridge().imgmsg_to_cv2(pixel, desired_encoding="rgb8")[0, 0].tolist() == [1, 2, 3]
    except Exception:
        return False


_CHOICES = {"message_filters": _message_filters, "CvBridge": _cv_bridge, "control_msgs": _control_msgs}


def __getattr__(name: str) -> Any:
    if name not in _CHOICES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = _CHOICES[name]()
    return globals()[name]
