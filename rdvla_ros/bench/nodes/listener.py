"""What the bench hears and asks, in a thread of its own: the controllers' messages with their times, the gate, the heartbeats.

Times are seconds of the steady clock, which all processes of a host share; stamps are seconds of the ROS clock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from trajectory_msgs.msg import JointTrajectory

from rdvla_ros.bringup.processes import BringupError
from rdvla_ros.msg import ControllerState, Convergence, GateStatus, Heartbeat
from rdvla_ros.nodes.common import conversions, names, qos
from rdvla_ros.nodes.common.controller_states import commanded
from rdvla_ros.nodes.common.gate_client import GateClient
from rdvla_ros.robot import Arm, RobotDescription
from rdvla_ros.srv import Hold, Resume, SetInstruction

WHO = "rdvla bench"
MOVING = 0.03  # commanded speed of the fastest joint [rad/s or m/s]
ANSWER_S, LOST_S = 20.0, 2.0


@dataclass(frozen=True)
class Command:
    """One message to one controller. at_s: when it came (steady). The rest is ROS time: when it came, its base and last point."""

    arm: str
    at_s: float
    ros_s: float
    stamp_s: float
    last_s: float


class Listener:
    """hear_states: also subscribe to the states of the simulated robot's controllers; else somebody tells `state_heard`."""

    def __init__(self, robot: RobotDescription, domain_id: int, *, hear_states: bool = True):
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain_id)
        self.node = node = Node("rdvla_bench", context=self._context)
        self.arms = tuple(arm.name for arm in robot.arms)
        self.commands: list[Command] = []
        self.beats: dict[str, list[float]] = {"gate": [], "policy": []}
        self.stands_back_s: list[float] = []  # when beats of the policy came that say why it does not move the arms
        self.decisions: list[tuple[float, Convergence]] = []
        self.speeds: dict[str, list[tuple[float, float, float]]] = {name: [] for name in self.arms}  # at_s, commanded, measured
        self.commanded: dict[str, list[tuple[float, np.ndarray]]] = {name: [] for name in self.arms}  # ROS time, (J,) velocity
        for arm in robot.arms:
            node.create_subscription(JointTrajectory, arm.trajectory_topic, partial(self._on_command, arm.name), 50)
            if hear_states:
                node.create_subscription(ControllerState, arm.controller_state_topic, partial(self.state_heard, arm), 10)
        for name in self.beats:
            node.create_subscription(Heartbeat, names.heartbeat(name), partial(self._on_beat, name), qos.sensor(5))
        node.create_subscription(Convergence, names.POLICY_CONVERGENCE, self._on_decision, 20)
        self._gate = GateClient(node, (Hold, Resume))
        self._holding, self._resuming = self._gate.client(Hold), self._gate.client(Resume)
        self._instructing = node.create_client(SetInstruction, names.POLICY_SET_INSTRUCTION)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._executor.shutdown(timeout_sec=2.0)
        self._thread.join(timeout=5.0)
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def _spin(self) -> None:
        while rclpy.ok(context=self._context):
            try:
                self._executor.spin_once(timeout_sec=0.2)
            except Exception:  # the end of the bench, or of a service it called
                if not rclpy.ok(context=self._context):
                    return
                time.sleep(0.01)

    @property
    def gate(self) -> GateStatus | None:
        """Its newest status."""
        return self._gate.status

    # -- what comes

    def _on_command(self, arm: str, message: JointTrajectory) -> None:
        at_s, ros_s = time.monotonic(), time.time()
        stamp_s = conversions.seconds(message.header.stamp)
        last_s = stamp_s + conversions.seconds(message.points[-1].time_from_start)
        self.commands.append(Command(arm, at_s, ros_s, stamp_s, last_s))

    def state_heard(self, arm: Arm, message: Any) -> None:
        speeds = (float(np.abs(part.velocities).max()) for part in (message.reference, message.feedback))
        self.speeds[arm.name].append((time.monotonic(), *speeds))
        del self.speeds[arm.name][:-3000]
        if (reference := commanded(message, arm)) is not None:
            self.commanded[arm.name].append((conversions.seconds(message.header.stamp), reference.velocity))
            del self.commanded[arm.name][:-20000]

    def _on_beat(self, name: str, message: Heartbeat) -> None:
        at_s = time.monotonic()
        self.beats[name].append(at_s)
        if name == "policy" and (message.hold or message.causes):
            self.stands_back_s.append(at_s)

    def _on_decision(self, message: Convergence) -> None:
        self.decisions.append((time.monotonic(), message))

    # -- what is asked

    def call(self, client: Any, request: Any, seconds: float = ANSWER_S) -> tuple[Any, float, float]:
        """The answer, when it was asked for, and when it came."""
        if not client.wait_for_service(timeout_sec=ANSWER_S):
            raise BringupError(f"The service {client.srv_name} did not appear within {ANSWER_S:g} s.")
        done, came_s = threading.Event(), []
        asked_s = time.monotonic()
        future = client.call_async(request)
        future.add_done_callback(lambda _: (came_s.append(time.monotonic()), done.set()))
        if not done.wait(seconds):
            raise BringupError(f"The service {client.srv_name} did not answer within {seconds:g} s.")
        return future.result(), asked_s, came_s[0]

    def hold(self, reason: str = "bench") -> tuple[Any, float, float]:
        return self.call(self._holding, Hold.Request(reason=reason, who=WHO))

    def hold_later(self, answered: Callable[[], None]) -> None:
        """A call whose answer is not waited for."""
        self._gate.hold("bench", WHO).add_done_callback(lambda _: answered())

    def wrong_resume(self) -> None:
        """A call that the gate must answer, with a refusal."""
        self._gate.resume(0, WHO)

    def resume(self, seconds: float = 300.0) -> None:
        """Lift whatever hold is in force, as soon as nothing stands in the way."""
        end_s = time.monotonic() + seconds
        while True:
            if self.gate is not None and self.gate.mode == GateStatus.AUTO:
                return
            said = self._try_to_resume()
            if not said:
                return
            if time.monotonic() > end_s:
                raise BringupError(f"The gate did not resume within {seconds:g} s: {said}")
            time.sleep(0.1)

    def _try_to_resume(self) -> str:
        """Why not; empty when the hold is lifted. A call that is lost among a hundred others is made again."""
        request = Resume.Request(hold_id=self.gate.hold_id if self.gate else 0, who=WHO)
        try:
            answer, _, _ = self.call(self._resuming, request, LOST_S)
        except BringupError as error:
            return str(error)
        return "" if answer.accepted else answer.message

    def instruct(self, text: str) -> None:
        self.call(self._instructing, SetInstruction.Request(instruction=text, who=WHO))

    # -- what is waited for

    def wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        end_s = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end_s:
                raise BringupError(f"Waited {seconds:g} s for {what}")
            time.sleep(0.005)

    def run_until_moving(self, seconds: float = 300.0) -> None:
        """AUTO, a motion on the wire, and arms that are commanded to move. What holds the arms meanwhile is lifted."""
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self.resume(seconds)
            begun_s = time.monotonic()
            while time.monotonic() - begun_s < 5.0:
                if self.gate is None or self.gate.mode != GateStatus.AUTO:
                    break
                if self.moving():
                    return
                time.sleep(0.005)
        raise BringupError(
            f"The arms did not move within {seconds:g} s. The gate: {self.gate.reason if self.gate else 'silent'}."
        )

    def moving(self) -> bool:
        return any(speeds and speeds[-1][1] > MOVING for speeds in self.speeds.values())

    def last_commands(self, since_s: float) -> dict[str, Command]:
        """The newest message to each controller since then."""
        return {command.arm: command for command in self.commands if command.at_s >= since_s}
