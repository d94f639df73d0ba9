"""`rdvla bench dashboard`: from a click on Hold to the hold in the gate, and what the window costs, at 10 decisions a second.

Around the window, as processes of their own: the simulated robot with its cameras, the gate, the monitor, and a feeder in place
of the policy, which beats, decides and sends chunks at DECISIONS_HZ. (The chunks are old, so the gate refuses them and the arms
rest; what the window has to hear and draw is the same.) Clicks are put into the window's queue from another thread at random
moments, as a mouse does, also while it draws. The hold's time is the gate's own: GateStatus.since.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.node import Node
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from rdvla_ros.bench.machine import machine
from rdvla_ros.bringup.launcher import free_domain, start
from rdvla_ros.bringup.processes import SIM_ROBOT, BringupError, processes
from rdvla_ros.msg import Convergence, GateStatus, Heartbeat
from rdvla_ros.nodes.common import conversions, names, qos
from rdvla_ros.robot import RobotDescription, shipped

DECISIONS_HZ, BEATS_HZ = 10.0, 50.0
ITERATIONS, ROWS = 12, 12
OLD_S = 5.0  # how old the chunks are: never to be passed
PATIENCE_S = 90.0
WHO = "bench"


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(words)
    if options.feed:
        return feed()
    with free_domain() as domain, tempfile.TemporaryDirectory(prefix="rdvla_bench_") as folder, _system(domain, Path(folder)):
        result = {"machine": machine(), "command": f"rdvla bench dashboard {' '.join(words)}".strip(), **_measure(options)}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(text(result))
    print(f"saved in {options.out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("rdvla bench dashboard", description=__doc__)
    parser.add_argument("--clicks", type=int, default=60, help="holds that are measured")
    parser.add_argument("--seconds", type=float, default=60.0, help="over how long the processor's share is measured")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--out", type=Path, default=Path("docs/bench/dashboard.json"), help="file of the results")
    parser.add_argument("--feed", action="store_true", help=argparse.SUPPRESS)  # this process is the feeder
    return parser


def text(result: dict[str, Any]) -> str:
    p50, p90, largest = (result["click_to_hold_ms"][key] for key in ("p50", "p90", "max"))
    return (
        f"click to hold: n {result['clicks']}, p50 {p50:.1f}, p90 {p90:.1f}, max {largest:.1f} ms (goal 50); "
        f"{result['within_50_ms']} within 50 ms\n"
        f"processor: {100 * result['share_of_a_core']:.1f} % of a core over {result['seconds']:.0f} s at "
        f"{result['decisions_hz']:.1f} decisions/s, plots drawn every {result['period_s']:.2f} s (goal 10 %)"
    )


@contextlib.contextmanager
def _system(domain: dict[str, str], folder: Path) -> Iterator[None]:
    os.environ.update(domain)
    specs = {spec.node: spec for spec in processes({"sim": True}) if spec.node != names.POLICY}
    gate = {**specs[names.GATE].parameters, "policy_heartbeat": False, "start_mode": "hold"}
    specs[names.GATE] = replace(specs[names.GATE], parameters=gate)
    running = start(list(specs.values()), folder, domain)
    feeder = subprocess.Popen([sys.executable, "-m", "rdvla_ros.bench.dashboard", "--feed"])
    try:
        yield
        running.check()
    finally:
        feeder.terminate()
        feeder.wait()
        running.stop()


# -- the window


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    from rdvla_ros.dashboard.binding import QtCore, QtWidgets
    from rdvla_ros.dashboard.station import Station
    from rdvla_ros.dashboard.widget import DashboardWidget
    from rdvla_ros.nodes.common import transport

    transport.choose()
    sys.setswitchinterval(0.0005)  # as the dashboard's own process
    rclpy.init()
    application = QtWidgets.QApplication([])
    station = Station(Node("bench_window", start_parameter_services=False), RobotDescription.load(shipped(SIM_ROBOT)))
    widget = DashboardWidget(station, operator=WHO)
    widget.resize(1920, 1080)
    widget.show()
    station.start()
    worker = _Worker(widget, station, options)
    worker.start()
    look = QtCore.QTimer(widget, interval=200)
    look.timeout.connect(lambda: None if worker.is_alive() else application.quit())  # quit is for Qt's thread only
    look.start()
    application.exec()
    worker.join()
    widget.close_feed()
    station.close()
    rclpy.try_shutdown()
    if worker.problem is not None:
        raise worker.problem
    return worker.result


class _Worker(threading.Thread):
    """The operator: a thread beside Qt's, which does nothing but draw."""

    def __init__(self, widget: Any, station: Any, options: argparse.Namespace):
        super().__init__(daemon=True)
        self._widget, self._station, self._options = widget, station, options
        self._random = np.random.default_rng(options.seed)
        self.result: dict[str, Any] = {}
        self.problem: Exception | None = None

    def run(self) -> None:
        try:
            self._wait(lambda: self._all_live(), "all nodes, the cameras and the decisions")
            self.result = self._cost() | self._clicks()
        except Exception as error:
            self.problem = error

    def _snapshot(self) -> Any:
        return self._station.model.snapshot(time.monotonic())

    def _all_live(self) -> bool:
        return all(seen.live for seen in self._snapshot().sources.values())

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        end_s = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > end_s:
                sources = {name: seen.text() for name, seen in self._snapshot().sources.items()}
                raise BringupError(f"Waited {PATIENCE_S:g} s for {what}; sources: {sources}")
            time.sleep(0.02)

    def _cost(self) -> dict[str, Any]:
        """Processor time of this whole process, in which nothing but the window works."""
        time.sleep(5.0)
        begun, used_s = time.monotonic(), time.process_time()
        count = self._snapshot().decisions[-1].sequence
        time.sleep(self._options.seconds)
        passed_s = time.monotonic() - begun
        return {
            "seconds": passed_s,
            "share_of_a_core": (time.process_time() - used_s) / passed_s,
            "decisions_hz": (self._snapshot().decisions[-1].sequence - count) / passed_s,
            "period_s": self._widget._pace.period_s,
        }

    def _clicks(self) -> dict[str, Any]:
        took_ms: list[float] = []
        others = 0
        while len(took_ms) < self._options.clicks:
            took = self._one_click()
            if took is None:
                others += 1
            else:
                took_ms.append(took)
        quantiles = {"p50": 0.5, "p90": 0.9, "max": 1.0}
        return {
            "clicks": len(took_ms),
            "held_by_something_else": others,
            "click_to_hold_ms": {name: float(np.quantile(took_ms, q)) for name, q in quantiles.items()},
            "within_50_ms": int(np.sum(np.array(took_ms) <= 50.0)),
            "all_ms": [round(ms, 2) for ms in took_ms],
        }

    def _one_click(self) -> float | None:
        """Milliseconds; None where something else held the arms before (a simulator that was kept waiting, say)."""
        self._wait(self._resumed, "AUTO")
        time.sleep(self._random.uniform(0.3, 1.0))
        if self._snapshot().gate.mode != GateStatus.AUTO:
            return None
        clicked_s = time.time()
        _press(self._widget.controls.hold)
        self._wait(lambda: self._snapshot().gate.mode == GateStatus.HOLD, "the hold")
        gate = self._snapshot().gate
        return 1e3 * (gate.since_ros_s - clicked_s) if gate.who == WHO else None

    def _resumed(self) -> bool:
        gate = self._snapshot().gate
        if gate.mode == GateStatus.AUTO:
            return True
        if not gate.causes:
            self._station.acts.resume(WHO, gate.hold_id)
            time.sleep(0.2)
        return False


def _press(button: Any) -> None:
    """Into Qt's queue, from this thread: it waits behind whatever is drawn just then, as a real click does."""
    from rdvla_ros.dashboard.binding import Qt, QtCore, QtGui

    where = QtCore.QPointF(button.width() / 2, button.height() / 2)
    left, none, plain = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier
    kinds = ((QtCore.QEvent.Type.MouseButtonPress, left), (QtCore.QEvent.Type.MouseButtonRelease, none))
    for kind, held in kinds:
        event = QtGui.QMouseEvent(kind, where, where, left, held, plain)
        QtCore.QCoreApplication.postEvent(button, event)


# -- the feeder


class Feeder(Node):
    """Beats, decisions and chunks of a policy that wants the arms to stay where they are."""

    def __init__(self) -> None:
        super().__init__("feeder")
        self._robot = RobotDescription.load(shipped(SIM_ROBOT))
        self._random, self._count, self._beat = np.random.default_rng(0), 0, 0
        self._positions: dict[str, list[float]] = {}
        self._beats = self.create_publisher(Heartbeat, names.POLICY_HEARTBEAT, qos.HEARTBEAT)
        self._decisions = self.create_publisher(Convergence, names.POLICY_CONVERGENCE, qos.RELIABLE)
        self._chunks = {}
        for arm in self._robot.arms:
            self._chunks[arm.name] = self.create_publisher(JointTrajectory, names.motions(names.POLICY, arm.name), qos.NEWEST)
            self.create_subscription(JointState, arm.joint_states_topic, self._on_joints, qos.sensor(1))
        self.create_timer(1.0 / BEATS_HZ, self._send_beat)
        self.create_timer(1.0 / DECISIONS_HZ, self._decide)

    def _on_joints(self, message: JointState) -> None:
        self._positions.update(zip(message.name, ([p] for p in message.position), strict=False))

    def _send_beat(self) -> None:
        self._beat += 1
        message = Heartbeat(count=self._beat)
        message.header.stamp = self.get_clock().now().to_msg()
        self._beats.publish(message)

    def _decide(self) -> None:
        self._count += 1
        now_s = self.get_clock().now().nanoseconds * 1e-9
        iterations = int(self._random.integers(3, ITERATIONS + 1))
        change = [float("nan"), *(10.0 ** (-1.0 - 0.5 * np.arange(iterations - 1) + self._random.normal(0, 0.2, iterations - 1)))]
        message = Convergence(
            sequence=self._count,
            iterations=iterations,
            limit=16,
            stop_reason=Convergence.CONVERGED,
            converged=True,
            threshold=1e-6,
            change=change,
            horizon=int(self._random.integers(3, ROWS)),
            chunk_length=ROWS,
            step_s=0.1,
            published=True,
            instruction="stay",
            timing_names=["preprocess", "vision", "head", "total"],
            timings_s=[0.002, 0.03, 0.004 * iterations, 0.032 + 0.004 * iterations],
        )
        message.header.stamp, message.observation_stamp = conversions.stamp(now_s), conversions.stamp(now_s - 0.08)
        self._decisions.publish(message)
        for arm in self._robot.arms:
            self._chunks[arm.name].publish(self._chunk(arm, now_s - OLD_S))

    def _chunk(self, arm: Any, stamp_s: float) -> JointTrajectory:
        position = [self._positions.get(joint, [0.0])[0] for joint in arm.joint_names]
        points = [
            JointTrajectoryPoint(
                positions=position, velocities=[0.0] * len(position), time_from_start=conversions.duration(0.1 * (row + 1))
            )
            for row in range(ROWS)
        ]
        message = JointTrajectory(joint_names=list(arm.joint_names), points=points)
        message.header.stamp = conversions.stamp(stamp_s)
        return message


def feed() -> int:
    from rdvla_ros.nodes.common import transport

    transport.choose()
    rclpy.init()
    node = Feeder()
    with contextlib.suppress(KeyboardInterrupt):
        rclpy.spin(node)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
