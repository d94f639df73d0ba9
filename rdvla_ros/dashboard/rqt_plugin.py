"""The dashboard inside rqt: `rqt --standalone rdvla_ros`, or Plugins > Robot Tools > RD-VLA.

rqt keeps settings as text: robot, namespace, operator, spectator and the instructions that were sent.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import python_qt_binding.QtWidgets  # noqa: F401  (before binding.py, which then takes it)
from rqt_gui_py.plugin import Plugin

from rdvla_ros.dashboard.binding import QtWidgets
from rdvla_ros.dashboard.main import SIM_ROBOT, login
from rdvla_ros.dashboard.station import Station, make_node
from rdvla_ros.dashboard.widget import DashboardWidget
from rdvla_ros.nodes.common import names
from rdvla_ros.robot import RobotDescription, shipped
from rdvla_ros.types import RdvlaError

NAME = "RdvlaDashboard"


class DashboardPlugin(Plugin):
    """A node of its own in rqt's context: rqt's is spun by many threads at once, and its callbacks may overlap."""

    def __init__(self, context):
        super().__init__(context)
        self.setObjectName(NAME)
        self._context = context
        options = _options(context.argv())
        number = context.serial_number()
        self._station, self.widget = None, None
        try:
            robot = RobotDescription.load(options.robot or shipped(SIM_ROBOT))
        except RdvlaError as error:
            self._show(QtWidgets.QLabel(str(error), wordWrap=True), number)
            return
        node = make_node(context.node.context, name=f"rqt_rdvla_{os.getpid()}_{number}", namespace=options.namespace)
        self._station = Station(node, robot, spectator=options.spectator, heartbeat_topic=options.heartbeat or "")
        self.widget = DashboardWidget(self._station, operator=options.operator or login(), in_rqt=True)
        self._station.start()
        self._show(self.widget, number)

    def _show(self, widget, number: int) -> None:
        title = widget.windowTitle() or "RD-VLA"
        widget.setWindowTitle(f"{title} ({number})" if number > 1 else title)
        self._context.add_widget(widget)

    def shutdown_plugin(self) -> None:
        if self._station is not None:
            self.widget.close_feed()
            self._station.close()

    def save_settings(self, plugin_settings, instance_settings) -> None:
        if self.widget is not None and self.widget.controls:
            instance_settings.set_value("operator", self.widget.controls.name.text())
            instance_settings.set_value("instructions", "\n".join(self.widget.controls.instruction.edit.history))

    def restore_settings(self, plugin_settings, instance_settings) -> None:
        if self.widget is not None and self.widget.controls:
            controls = self.widget.controls
            controls.name.setText(str(instance_settings.value("operator", "") or controls.name.text()))
            for text in str(instance_settings.value("instructions", "") or "").splitlines():
                controls.instruction.edit.remember(text)


def _options(argv: Sequence[str]) -> argparse.Namespace:
    """rqt hands over what stands behind --args. Unknown words are not ours: rqt has its own."""
    parser = argparse.ArgumentParser(prog="rqt --standalone rdvla_ros --args", add_help=False)
    parser.add_argument("--robot", default="")
    parser.add_argument("--namespace", default="")
    parser.add_argument("--operator", default="")
    parser.add_argument("--spectator", action="store_true")
    parser.add_argument("--heartbeat", nargs="?", const=names.OPERATOR_HEARTBEAT)
    return parser.parse_known_args(list(argv))[0]


def main() -> int:
    from rqt_gui.main import Main

    return Main().main(sys.argv, standalone=f"{__name__}.{DashboardPlugin.__name__}")
