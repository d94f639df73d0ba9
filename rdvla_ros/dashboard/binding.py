"""Which Qt the window is drawn with, chosen here and nowhere else.

Inside rqt its own python_qt_binding has been imported already and is taken. Alone it is PySide6, or python_qt_binding where
PySide6 is absent (a robot with ROS 2 from apt). pyqtgraph follows whichever was imported first. Enumerations are written in full
(Qt.AlignmentFlag.AlignLeft), which PyQt5 and PySide6 both understand.
"""

from __future__ import annotations

import importlib
import sys

from rdvla_ros.types import RdvlaError

PACKAGES = ("PySide6", "python_qt_binding")


class BindingError(RdvlaError):
    """No Qt that the window could be drawn with."""


def _choose() -> str:
    order = reversed(PACKAGES) if "python_qt_binding" in sys.modules else PACKAGES
    problems = []
    for name in order:
        try:
            importlib.import_module(f"{name}.QtWidgets")
            return name
        except Exception as error:  # absent, or a library of the system that it needs
            problems.append(f"{name}: {error}")
    raise BindingError(
        f"Expected PySide6 or python_qt_binding, got none ({'; '.join(problems)}). 'make setup' installs PySide6, as does "
        "'pip install -r requirements-dashboard.txt'; with ROS 2 from apt: "
        "'apt install ros-$ROS_DISTRO-rqt-gui-py python3-pyqtgraph'."
    )


NAME = _choose()
QtCore = importlib.import_module(f"{NAME}.QtCore")
QtGui = importlib.import_module(f"{NAME}.QtGui")
QtWidgets = importlib.import_module(f"{NAME}.QtWidgets")
Qt = QtCore.Qt
Signal = QtCore.Signal  # python_qt_binding gives PyQt's pyqtSignal this name
QShortcut = QtGui.QShortcut if hasattr(QtGui, "QShortcut") else QtWidgets.QShortcut  # Qt 6, Qt 5
try:
    pyqtgraph = importlib.import_module("pyqtgraph")
except ImportError as error:
    raise BindingError(
        f"Expected pyqtgraph, got: {error}. 'make setup' installs it, as do 'pip install -r requirements-dashboard.txt' and "
        "'apt install python3-pyqtgraph'."
    ) from None
