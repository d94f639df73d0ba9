"""ROS packages that may be absent (they are on no package index of Python's), each chosen in one place: here.

    from rdvla_ros.compat import message_filters, control_msgs

gives the real package where it can be used and otherwise a stand-in with the same interface; `control_msgs`, which holds
only message types, is None where it is absent. Nothing is imported before it is asked for.
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


def _control_msgs() -> ModuleType | None:
    return _importable("control_msgs.msg")


def _importable(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except Exception:  # absent, or of another ROS or numpy: what it raises then is up to the package
        return None


_CHOICES = {"message_filters": _message_filters, "control_msgs": _control_msgs}


def __getattr__(name: str) -> Any:
    if name not in _CHOICES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = _CHOICES[name]()
    return globals()[name]
