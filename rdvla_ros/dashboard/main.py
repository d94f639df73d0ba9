"""`rdvla dashboard`, `ros2 run rdvla_ros dashboard`, `dashboard:=true`: the window alone.

Its settings are parameters of its node (as the launch file sets them) and options of the command line, which win.
"""

from __future__ import annotations

import argparse
import getpass
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from rdvla_ros.nodes.common import names, transport
from rdvla_ros.nodes.common.parameters import Schema, declare, parameter
from rdvla_ros.robot import RobotDescription, shipped
from rdvla_ros.types import RdvlaError

SIM_ROBOT = "config/aloha_sim.yaml"
SIZE = (1920, 1080)  # of the window before it is moved to a screen, and of a screenshot
WAKE_MS = 200  # Python looks for signals this often
SWITCH_S = 0.0005  # see nodes/common/run.py


@dataclass(frozen=True)
class DashboardParameters(Schema):
    robot: str = parameter("", f"robot description, a YAML file; empty: the simulated robot ({SIM_ROBOT})", unit="path")
    operator: str = parameter("", "name that every act carries; empty: the login name")
    spectator: bool = parameter(False, "only look: no act is offered and no service called")
    heartbeat: str = parameter(
        "", "topic of the operator's sign of life, such as operator/heartbeat, for a gate with operator:=heartbeat; empty: none"
    )
    screenshot: str = parameter("", "draw the window without a screen, save it to this file and end", unit="path")
    after_s: float = parameter(10.0, "screenshot: this long after the start", unit="s", low=0.0, high=3600.0)


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="rdvla dashboard", description="The operator's window.")
    options.add_argument("--robot", help=f"robot description, a YAML file (default: the simulated robot, {SIM_ROBOT})")
    options.add_argument("--namespace", default="", help="namespace of the robot's nodes")
    options.add_argument("--operator", help="name that every act carries (default: the login name)")
    options.add_argument("--spectator", action="store_true", default=None, help="only look: no act is offered")
    heartbeat_help = "send the operator's sign of life, for a gate with operator:=heartbeat: it holds when this window is lost"
    options.add_argument("--heartbeat", nargs="?", const=names.OPERATOR_HEARTBEAT, metavar="TOPIC", help=heartbeat_help)
    options.add_argument("--screenshot", metavar="FILE", help="draw the window without a screen, save it as a picture, and end")
    options.add_argument("--after", dest="after_s", type=float, metavar="SECONDS", help="screenshot: this long after the start")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    options = vars(parser().parse_args(remove_ros_args(["dashboard", *words])[1:]))
    namespace = options.pop("namespace")
    overrides = [Parameter(name, value=value) for name, value in options.items() if value is not None]
    try:
        transport.choose()  # a window that is killed must not leave a lock that the robot's nodes wait for
        rclpy.init(args=words, signal_handler_options=SignalHandlerOptions.NO)
        return _run(overrides, namespace)
    except RdvlaError as error:
        print(f"rdvla dashboard: {error}", file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()


def _run(overrides: list[Parameter], namespace: str) -> int:
    node = Node("dashboard", namespace=namespace or None, parameter_overrides=overrides, start_parameter_services=False)
    try:
        values = declare(node, DashboardParameters)
        robot = RobotDescription.load(values.robot or shipped(SIM_ROBOT))
        if values.screenshot:
            os.environ["QT_QPA_PLATFORM"] = "offscreen"
        _need_screen()
        # Qt only now: a mistake in the arguments is told without it
        from rdvla_ros.dashboard.station import Station

        station = Station(node, robot, spectator=values.spectator, heartbeat_topic=values.heartbeat)
    except BaseException:
        node.destroy_node()
        raise
    try:
        return _show(station, values)
    finally:
        station.close()


def _need_screen() -> None:
    """Qt ends the process where there is none; this says what to do instead."""
    if sys.platform.startswith("linux") and not any(map(os.environ.get, ("QT_QPA_PLATFORM", "DISPLAY", "WAYLAND_DISPLAY"))):
        raise RdvlaError(
            "Expected a screen (DISPLAY or WAYLAND_DISPLAY), found none. Run it on the operator's computer "
            "(docs/dashboard.md), or draw one picture: rdvla dashboard --screenshot window.png --after 10."
        )


def _show(station, values: DashboardParameters) -> int:
    sys.setswitchinterval(SWITCH_S)
    from rdvla_ros.dashboard.binding import QtCore, QtWidgets
    from rdvla_ros.dashboard.widget import DashboardWidget

    application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["rdvla dashboard"])
    widget = DashboardWidget(station, operator=values.operator or login())
    widget.resize(*SIZE)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: application.quit())
    wake = QtCore.QTimer()
    wake.timeout.connect(lambda: None)  # signals are seen by Python only when it runs
    wake.start(WAKE_MS)
    station.start()
    code = [0]
    if values.screenshot:
        widget.show()
        QtCore.QTimer.singleShot(int(1000 * values.after_s), lambda: _save(widget, values.screenshot, code, application))
    else:
        widget.showMaximized()
    application.exec() if hasattr(application, "exec") else application.exec_()
    widget.close_feed()
    return code[0]


def _save(widget, path: str, code: list[int], application) -> None:
    folder = Path(path).resolve().parent
    if folder.is_dir() and widget.grab().save(path):
        print(f"Saved {path}", flush=True)
    else:
        print(f"rdvla dashboard: expected a picture file that can be written (.png, .jpg), got {path}", file=sys.stderr)
        code[0] = 1
    application.quit()


def login() -> str:
    """The name of the user, as a first guess of the operator's."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        return ""


if __name__ == "__main__":
    raise SystemExit(main())
