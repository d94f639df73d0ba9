"""The dashboard's window, real and offscreen, and around it whatever a test lets publish."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

os.environ["QT_QPA_PLATFORM"] = "offscreen"

import numpy as np
import pytest

pytest.importorskip("PySide6.QtWidgets", reason="needs PySide6: make setup")
pytest.importorskip("pyqtgraph", reason="needs pyqtgraph: make setup")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from gate_rig import HOME, ROBOT
from PySide6.QtTest import QTest
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from rdvla_ros.dashboard.binding import Qt, QtCore, QtWidgets
from rdvla_ros.dashboard.station import Station, make_node
from rdvla_ros.dashboard.widget import DashboardWidget
from rdvla_ros.msg import Convergence, GateStatus, Heartbeat, Uncertainty
from rdvla_ros.nodes.common import conversions, qos
from rdvla_ros.srv import Hold, Resume, SetInstruction, SetMode

PATIENCE_S = 20.0
TESTS = Path(__file__).resolve().parent


def application():
    return QtWidgets.QApplication.instance() or QtWidgets.QApplication(["test"])


class Window:
    """A dashboard with its own context, as a process of its own would have."""

    def __init__(self, operator="Anna", spectator=False, heartbeat="", size=(1920, 1080)):
        self.app = application()
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        node = make_node(self.context, name="dashboard_under_test")
        self.station = Station(node, ROBOT, spectator=spectator, heartbeat_topic=heartbeat)
        self.widget = DashboardWidget(self.station, operator=operator)
        self.widget.resize(*size)
        self.widget.show()
        self.station.start()
        self.controls, self.header = self.widget.controls, self.widget.header

    def run(self, seconds=0.02):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.app.processEvents(QtCore.QEventLoop.ProcessEventsFlag.AllEvents, 10)
            time.sleep(0.002)

    def until(self, condition, what, seconds=PATIENCE_S):
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}; the window says: {self.text()}"
            self.run()
        return value

    def until_says(self, *words):
        self.until(lambda: all(word in self.text() for word in words), f"the words {words}")

    def text(self):
        """All that can be read in the window."""
        widgets = [self.widget, *self.widget.findChildren(QtWidgets.QWidget)]
        labels = [w.text() for w in widgets if isinstance(w, (QtWidgets.QLabel, QtWidgets.QPushButton)) and w.isVisible()]
        pictures = [w.caption for w in self.widget.cameras.pictures.values()]
        return " | ".join([*labels, *pictures])

    def click(self, button):
        QTest.mouseClick(button, Qt.MouseButton.LeftButton)

    def key(self, key, modifier=Qt.KeyboardModifier.NoModifier):
        """To whatever has the keyboard, as a real key comes."""
        target = self.app.focusWidget() or self.widget
        QTest.keyClick(target, key, modifier)

    def close(self):
        self.widget.close_feed()
        self.station.close()
        self.widget.close()
        self.widget.deleteLater()
        self.app.processEvents()
        self.context.try_shutdown()


class System:
    """Stands for policy, monitor, robot and (where asked) gate: sends what a test says and serves from a thread of its own."""

    def __init__(self, gate=True):
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = node = Node("others", context=self.context)
        self.sequence, self.requests, self.answer = 0, [], {}
        self._state, self._count, self._lock = None, 0, threading.RLock()
        self.decisions = node.create_publisher(Convergence, "/policy/convergence", 10)
        self.scores = node.create_publisher(Uncertainty, "/monitor/uncertainty", 10)
        self.diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.beats = node.create_publisher(Heartbeat, "/policy/heartbeat", qos.HEARTBEAT)
        self.joints = {arm.name: node.create_publisher(JointState, arm.joint_states_topic, 10) for arm in ROBOT.arms}
        self.chunks = {
            arm.name: node.create_publisher(JointTrajectory, f"/policy/{arm.name}/joint_trajectory", 10) for arm in ROBOT.arms
        }
        self.pictures = {
            name: node.create_publisher(CompressedImage, f"/monitor/thumbnail/{name}", qos.HEARTBEAT)
            for name in ROBOT.camera_names
        }
        if gate:
            self.gate = node.create_publisher(GateStatus, "/gate/status", qos.LATCHED)
            for kind, name in ((Hold, "/gate/hold"), (Resume, "/gate/resume"), (SetMode, "/gate/set_mode")):
                node.create_service(kind, name, self._serve)
        node.create_service(SetInstruction, "/policy/set_instruction", self._serve)
        self._executor = rclpy.executors.SingleThreadedExecutor(context=self.context)
        self._executor.add_node(node)
        self._ends, self.hangs = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._spin, self._live_on)]
        for thread in self._threads:
            thread.start()

    def _spin(self):
        while not self._ends.is_set():
            self._executor.spin_once(timeout_sec=0.05)

    def _live_on(self):
        while not self._ends.wait(0.05):
            self._beat()

    def _serve(self, request, response):
        while self.hangs.is_set() and not self._ends.is_set():
            time.sleep(0.05)
        self.requests.append(request)
        for name, value in self.answer.items():
            if hasattr(response, name):
                setattr(response, name, value)
        return response

    def asked(self, kind):
        return [request for request in self.requests if isinstance(request, kind.Request)]

    def stamp(self, ago_s=0.0):
        return conversions.stamp(self.node.get_clock().now().nanoseconds * 1e-9 - ago_s)

    def status(self, mode=GateStatus.AUTO, since_s=5.0, **fields):
        values = {"hold_id": 7, "reason": "a hand in the way", "who": "Bob", **fields}
        message = GateStatus(mode=mode, since=self.stamp(since_s), **values)
        message.header.stamp = self.stamp()
        self.gate.publish(message)

    def decide(self, change=(np.nan, 1e-3, 1e-5, 3e-7), **fields):
        self.sequence = fields.pop("sequence", self.sequence + 1)
        values = {
            "limit": 16, "stop_reason": 1, "converged": True, "threshold": 1e-6, "published": True, "horizon": 6,
            "chunk_length": 8, "step_s": 0.1, "iterations": len(change), "instruction": "pick up the red cube", "note": "",
            "timing_names": ["vision", "head", "total"], "timings_s": [0.03, 0.02, 0.05],
        }  # fmt: skip
        message = Convergence(sequence=self.sequence, change=list(change), **{**values, **fields})
        message.header.stamp, message.observation_stamp = self.stamp(), self.stamp(0.08)
        self.decisions.publish(message)

    def score(self, window_score=0.2, **fields):
        values = {"score": window_score, "window": 5, "alarm_threshold": float("inf"), **fields}
        self.scores.publish(Uncertainty(sequence=self.sequence, window_score=window_score, **values))

    def live(self, mode=GateStatus.AUTO, **fields):
        """From now on everything gives signs of life, as the real nodes do by themselves, and the gate is in this mode."""
        with self._lock:
            self._state = (mode, fields)

    def silent(self):
        """Nothing is sent any more."""
        with self._lock:
            self._state = None

    def _beat(self):
        with self._lock:
            if self._state is None:
                return
            mode, fields = self._state
            if hasattr(self, "gate"):
                self.status(mode, **fields)
        self._count += 1
        self.beats.publish(Heartbeat(count=self._count))
        if self._count % 5 == 0:
            self.part("gate", 0, "AUTO")
            for arm in ROBOT.arms:
                self.move(arm)

    def part(self, name, level, text):
        status = DiagnosticStatus(name=f"rdvla: {name}", level=bytes([level]), message=text)
        self.diagnostics.publish(DiagnosticArray(status=[status]))

    def move(self, arm, positions=None):
        values = HOME[ROBOT.arm_slices[arm.name]] if positions is None else positions
        message = JointState(name=list(arm.joint_names), position=[float(v) for v in values])
        message.header.stamp = self.stamp()
        self.joints[arm.name].publish(message)
        points = [
            JointTrajectoryPoint(positions=message.position, time_from_start=conversions.duration(0.1 * i)) for i in range(1, 8)
        ]
        chunk = JointTrajectory(joint_names=list(arm.joint_names), points=points)
        chunk.header.stamp = message.header.stamp
        self.chunks[arm.name].publish(chunk)

    def show(self, name, data):
        self.pictures[name].publish(CompressedImage(format="jpeg", data=data))

    def close(self):
        self._ends.set()
        self._executor.shutdown(timeout_sec=1.0)
        for thread in self._threads:
            thread.join(2.0)
        self.node.destroy_node()
        self.context.try_shutdown()


def jpeg(colour=(200, 30, 30)):
    import cv2

    picture = np.full((120, 160, 3), colour[::-1], dtype=np.uint8)
    return cv2.imencode(".jpg", picture)[1].tobytes()


def start(program, *words, log=subprocess.DEVNULL):
    """A Python process of its own."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, *program, *words]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=log, stderr=log)
