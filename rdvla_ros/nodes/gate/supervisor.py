"""What stands in the way of moving, from everything the gate knows, and the decision to hold or to pause.

`watch` runs a hundred times a second beside the callbacks, whatever these do. Holds are for what is wrong with the robot, the
gate, the operator's sign or the policy's life; a pause for what a living policy reports of itself (a camera that is silent, say).
"""

from __future__ import annotations

import time
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import Joy

from rdvla_ros.control.supervision.clock import ClockWatch
from rdvla_ros.control.supervision.heartbeat import PeerMonitor
from rdvla_ros.control.supervision.modes import Mode
from rdvla_ros.control.supervision.operator_presence import ButtonPresence
from rdvla_ros.nodes.common import conversions, names, qos
from rdvla_ros.nodes.common.guard import Guard
from rdvla_ros.nodes.common.heartbeat import HeartbeatLink
from rdvla_ros.nodes.common.side_node import SideNode
from rdvla_ros.nodes.common.throttle import throttled
from rdvla_ros.nodes.gate.authority import Authority
from rdvla_ros.nodes.gate.parameters import GateParameters
from rdvla_ros.nodes.gate.robot_monitor import RobotMonitor


class GateSupervisor:
    """values.policy_prefix/heartbeat and values.operator_topic are listened to on the side."""

    def __init__(
        self,
        node: Node,
        side: SideNode,
        values: GateParameters,
        authority: Authority,
        robot: RobotMonitor,
        guard: Guard,
    ):
        self._node, self._values, self._authority, self._robot = node, values, authority, robot
        self._clock, self._button = ClockWatch(), None
        self._stopped_id = 0  # the hold since which the button counts
        self._watched_s: float | None = None
        self._policy_topic = names.heartbeat(values.policy_prefix)
        peers = {self._policy_topic: values.heartbeat_timeout_s} if values.policy_heartbeat else {}
        if values.operator == "heartbeat":
            peers[values.operator_topic] = values.operator_timeout_s
        elif values.operator == "joy":
            self._button = ButtonPresence(
                "joystick", timeout_s=values.operator_timeout_s, longest_press_s=values.operator_longest_press_s
            )
            side.node.create_subscription(
                Joy, values.operator_topic, guard.wrap(throttled(Joy, self._on_joy)), qos.HEARTBEAT, raw=True
            )
        self.heart = HeartbeatLink(
            node,
            peers,
            on_watch=guard.wrap(self.watch),
            period_s=values.heartbeat_period_s,
            stuck_s=2.0 * values.starved_s,
            alive_s={self._policy_topic: values.alive_timeout_s},
            side=side,
        )

    # -- what stands in the way

    def causes(self, for_takeover: bool = False) -> list[str]:
        """All of it, one sentence each. The policy is not needed while a teleoperation source moves the arms."""
        now_s = time.monotonic()
        policy = [] if for_takeover else self._policy_causes(now_s)
        return [*self._robot.causes(), *self._gate_causes(now_s), *self._operator_causes(now_s), *policy]

    def _gate_causes(self, now_s: float) -> list[str]:
        stuck = "The gate's callbacks do not run." if self.heart.stuck(now_s) else ""
        return [*filter(None, (stuck, self._clock.standing(now_s, self._simulated())))]

    def _operator_causes(self, now_s: float) -> list[str]:
        if self._button is not None:
            return [*filter(None, [self._button.problem(now_s)])]
        if self._values.operator == "heartbeat":
            return [*filter(None, [self.heart.peers[self._values.operator_topic].lost(now_s)])]
        return []

    def _policy_causes(self, now_s: float) -> list[str]:
        pulse = self.heart.peers.get(self._policy_topic)
        if pulse is None:
            return []
        return [*filter(None, [self._policy_gone(pulse, now_s)])] or list(map(conversions.printable, pulse.causes))

    def _policy_gone(self, pulse: PeerMonitor, now_s: float) -> str:
        """Why the policy is not to be relied on at all; empty when it lives and agrees on the time."""
        apart_s = self.heart.stamps.get(self._policy_topic, 0.0)
        if not (problem := pulse.lost(now_s)) and abs(apart_s) > self._values.clock_tolerance_s:
            problem = (
                f"The clock of {pulse.name} differs from the gate's by {apart_s:.3g} s, expected at most "
                f"{self._values.clock_tolerance_s:g} s. Do all nodes agree on use_sim_time, and all hosts on the time?"
            )
        return problem

    # -- what follows from it

    def watch(self, now_s: float) -> None:
        self._watch_time(now_s)
        mode = self._authority.mode
        if self._button is not None and mode in (Mode.HOLD, Mode.PAUSE):
            self._after_stop()
        if mode is not Mode.HOLD:
            self._watch_motion(now_s, mode)

    def _watch_motion(self, now_s: float, mode: Mode) -> None:
        """In AUTO, TAKEOVER and PAUSE: what is wrong is a hold; what a living policy reports of itself is a pause."""
        pulse = None if mode is Mode.TAKEOVER else self.heart.peers.get(self._policy_topic)
        gone = self._policy_gone(pulse, now_s) if pulse is not None else ""
        wrong = [*self._robot.causes(), *self._gate_causes(now_s), *self._operator_causes(now_s), gone]
        wrong.append("" if mode is Mode.PAUSE else self._robot.deviation())
        if reason := next(filter(None, wrong), ""):
            self._authority.hold(reason, "gate")
        elif pulse is not None and pulse.hold:
            self._authority.hold(conversions.printable(pulse.hold), "policy")
        elif mode is Mode.PAUSE:
            self._authority.review(self.causes())
        elif pulse is not None and pulse.causes:
            self._authority.pause(conversions.printable(pulse.causes[0]), "policy")

    def _watch_time(self, now_s: float) -> None:
        """A process that did not run cannot have watched; a clock that jumped makes nonsense of what was stamped before."""
        last_s, self._watched_s = self._watched_s, now_s
        jump = self._clock.look(self._node.get_clock().now().nanoseconds * 1e-9, now_s, self._simulated())
        if jump:
            self._authority.clock_jumped(jump)
        self._authority.catch_up(now_s)
        if self._authority.mode is Mode.HOLD:
            return
        if last_s is not None and now_s - last_s > self._values.starved_s:
            self._authority.hold(f"the gate itself did not run for {now_s - last_s:.2f} s", "gate")

    def _after_stop(self) -> None:
        """A button that was pressed before the arms stopped says nothing about now."""
        if self._authority.modes.state.hold_id != self._stopped_id:
            self._stopped_id = self._authority.modes.state.hold_id
            self._button.stopped()

    def _simulated(self) -> bool:
        return bool(self._node.get_clock().ros_time_is_active)

    def _on_joy(self, message: Any) -> None:
        pressed = self._values.operator_button < len(message.buttons) and message.buttons[self._values.operator_button] == 1
        stamp = (message.header.stamp.sec, message.header.stamp.nanosec)
        self._button.heard(time.monotonic(), stamp, pressed)
