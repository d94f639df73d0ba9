"""The gate, real over DDS in one process, with a robot and a policy that do as the test says."""

import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import rclpy
from rcl_interfaces.msg import ParameterValue
from rcl_interfaces.srv import GetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from rdvla_ros.control.motion.limits import JointLimits
from rdvla_ros.control.motion.trajectory import Reference, Trajectory, plan
from rdvla_ros.msg import ControllerState, GateStatus, Heartbeat
from rdvla_ros.nodes.common import conversions, qos
from rdvla_ros.nodes.common.executor import make_executor
from rdvla_ros.nodes.gate.node import GateNode
from rdvla_ros.nodes.sim_robot.node import _points
from rdvla_ros.robot import RobotDescription
from rdvla_ros.sim.controller import JointTrajectoryController
from rdvla_ros.srv import Hold, Resume, SetMode

ROBOT_FILE = Path(__file__).parent.parent / "config" / "aloha_sim.yaml"
ROBOT = RobotDescription.load(ROBOT_FILE).in_namespace("/")
LIMITS = JointLimits.of_robot(ROBOT)
HOME = np.tile([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.03], len(ROBOT.arms))
SLICES = ROBOT.arm_slices
MOVES = np.array([name not in ROBOT.gripper_joints for name in ROBOT.joint_names])
PATIENCE_S = 20.0  # only ever waited when something is broken
# One thread runs the gate, the robot and the test, on a machine that does other work.
PATIENT = {"heartbeat_timeout_s": 1.0, "starved_s": 2.0, "controller_timeout_s": 1.0, "joint_timeout_s": 1.0, "obey_s": 0.3,
           "skew_s": 0.5}  # fmt: skip


class Beats:
    """A policy's (or an operator's) heartbeat from a thread of its own, as a test wants it."""

    def __init__(self, node, topic="/policy/heartbeat", period_s=0.02):
        self.alive, self.grows, self.causes, self.hold, self.offset_s, self.count = True, True, [], "", 0.0, 0
        self._node, self._period_s = node, period_s
        self._publisher = node.create_publisher(Heartbeat, topic, qos.HEARTBEAT)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._ends.wait(self._period_s):
            if self.alive:
                self.count += self.grows
                message = Heartbeat(count=self.count, causes=list(self.causes), hold=self.hold)
                now_s = self._node.get_clock().now().nanoseconds * 1e-9
                message.header.stamp = conversions.stamp(now_s + self.offset_s)
                self._publisher.publish(message)

    def close(self):
        self._ends.set()
        self._thread.join()


def motion(start=HOME, change=0.1, rows=6, velocity=None):
    """A legal motion of all joints that begins at rest (or moving) at `start`: grippers stay."""
    targets = start + np.linspace(change / rows, change, rows)[:, None] * MOVES
    begin = Reference.at_rest(start) if velocity is None else Reference(start, velocity, np.zeros_like(start))
    return plan(targets, step_s=0.1, elapsed_s=0.0, horizon=rows, start=begin, limits=LIMITS, now=begin)


class GateRig:
    """The gate and everything around it, spun together. The robot's controllers follow what they are sent (while `follow`) and
    report it (while `send_reports`); joint states come while `send_states`."""

    def __init__(self, *, states=True, controllers=True, wait=True, reports=True, gate=True, settings=None, **parameters):
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = node = Node("robot", context=self.context)
        self.executor = make_executor(self.context)
        self.executor.add_node(node)
        self.gate = self.make_gate(**parameters) if gate else None
        self.send_states, self.send_reports, self.follow, self.rejects = states, reports and controllers, True, set()
        self.models = {arm.name: JointTrajectoryController(arm.joint_names, HOME[SLICES[arm.name]]) for arm in ROBOT.arms}
        self.statuses, self.received = [], {arm.name: [] for arm in ROBOT.arms}
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        node.create_subscription(GateStatus, "/gate/status", self.statuses.append, latched)
        self.joints = {arm.name: node.create_publisher(JointState, arm.joint_states_topic, 10) for arm in ROBOT.arms}
        self.reports, self.settings = {}, {}
        if settings:
            self.offer_settings(settings)
        if controllers:
            self.start_controllers()
        self.sources = {
            prefix: {
                arm.name: node.create_publisher(JointTrajectory, f"{prefix}/{arm.name}/joint_trajectory", 10)
                for arm in ROBOT.arms
            }
            for prefix in ("/policy", "/teleop")
        }
        self.policy = Beats(node)
        node.create_timer(0.02, self.publish_states)
        self.clients = {
            kind: node.create_client(kind, f"/gate/{name}", qos_profile=QoSProfile(depth=1000))
            for kind, name in ((Hold, "hold"), (Resume, "resume"), (SetMode, "set_mode"))
        }
        if wait:
            self.until(lambda: self.status and not self.status.causes, "a gate with nothing in the way")
            self.until(self.sources_matched, "the gate to listen")

    def make_gate(self, **parameters):
        values = {"robot": str(ROBOT_FILE), "discovery_s": 0.0, **PATIENT, **parameters}
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        gate = GateNode(context=self.context, parameter_overrides=overrides)
        self.executor.add_node(gate)
        return gate

    def offer_settings(self, settings):
        """The controllers' parameters; of one that a node does not have the service says nothing, as rclcpp's."""
        self.settings = dict(settings)

        def get(request, response):
            kinds = {bool: (1, "bool_value"), int: (2, "integer_value")}
            for name in request.names:
                if name in self.settings:
                    kind, field = kinds[type(self.settings[name])]
                    response.values.append(ParameterValue(type=kind, **{field: self.settings[name]}))
            return response

        for arm in ROBOT.arms:
            self.node.create_service(GetParameters, f"{arm.trajectory_topic.rsplit('/', 1)[0]}/get_parameters", get)

    def start_controllers(self, qos=10):
        """As ros2_control does: the publishers and subscriptions are others than before a restart."""
        for arm in ROBOT.arms:
            self.stop_controller(arm.name)
            receive = partial(self.receive, arm.name)
            self.reports[arm.name] = (
                self.node.create_publisher(ControllerState, arm.controller_state_topic, 10),
                self.node.create_subscription(JointTrajectory, arm.trajectory_topic, receive, qos),
            )

    def stop_controller(self, arm):
        """It neither reports nor listens any more."""
        if arm in self.reports:
            publisher, subscription = self.reports.pop(arm)
            self.node.destroy_publisher(publisher)
            self.node.destroy_subscription(subscription)

    def receive(self, arm, message):
        self.received[arm].append(message)
        if self.follow and arm not in self.rejects:
            self.models[arm].accept(_points(message), self.now_s())

    @property
    def positions(self):
        """(A,) where the arms are."""
        desired = [self.models[arm.name].update(self.now_s()).position for arm in ROBOT.arms]
        return np.concatenate(desired)

    @positions.setter
    def positions(self, positions):
        """The arms are moved by something else."""
        for arm in ROBOT.arms:
            self.models[arm.name].reset(positions[SLICES[arm.name]])

    def sources_matched(self):
        return all(p.get_subscription_count() for by_arm in self.sources.values() for p in by_arm.values())

    @property
    def status(self):
        return self.statuses[-1] if self.statuses else None

    def now_s(self):
        return self.node.get_clock().now().nanoseconds * 1e-9

    def publish_states(self):
        desired = {arm.name: self.models[arm.name].update(self.now_s()) for arm in ROBOT.arms}
        if self.send_states:
            for arm in ROBOT.arms:
                self.send_joints(arm.name, arm.joint_names, desired[arm.name].position)
        if self.send_reports:
            both = [desired[arm.name] for arm in ROBOT.arms]
            self.report(np.concatenate([d.position for d in both]), np.concatenate([d.velocity for d in both]))

    def send_joints(self, arm, names, positions):
        message = JointState(name=list(names), position=[float(p) for p in positions])
        message.header.stamp = conversions.stamp(self.now_s())
        self.joints[arm].publish(message)

    def report(self, position, velocity):
        """What the controllers say that they command, all joints."""
        for arm in ROBOT.arms:
            if arm.name not in self.reports:
                continue
            message = ControllerState(joint_names=list(arm.joint_names))
            message.header.stamp = conversions.stamp(self.now_s())
            part = SLICES[arm.name]
            message.accepted = self.models[arm.name].accepted
            message.reference = JointTrajectoryPoint(positions=position[part].tolist(), velocities=velocity[part].tolist())
            self.reports[arm.name][0].publish(message)

    def send(self, trajectory: Trajectory, *, stamp_s=None, arms=None, source="/policy", change=lambda message: None):
        """Publish a motion as the policy would; change: spoil a message before it is sent. Returns its stamp."""
        stamp = conversions.stamp(self.now_s() if stamp_s is None else stamp_s)
        for arm in ROBOT.arms:
            if arms is None or arm.name in arms:
                message = conversions.trajectory_message(trajectory.select(arm.joint_names), stamp)
                change(message)
                self.sources[source][arm.name].publish(message)
        return stamp

    def until(self, condition, what, seconds=PATIENCE_S):
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}; last status: {self.status}"
            self.executor.spin_once(timeout_sec=0.02)
        return value

    def spin_for(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.01)

    def call(self, kind, **fields):
        self.until(self.clients[kind].service_is_ready, "the service")
        future = self.clients[kind].call_async(kind.Request(**fields))
        self.until(future.done, "an answer")
        return future.result()

    def go(self):
        """Lift the hold in force, as soon as nothing stands in the way: this machine may have been busy for a moment."""

        def lifted():
            answer = self.call(Resume, hold_id=self.status.hold_id, who="test")
            if not answer.accepted:
                self.spin_for(0.1)
            return answer.accepted

        self.until(lifted, "an accepted resume")
        self.until(lambda: self.status.mode == GateStatus.AUTO, "AUTO")

    def pass_motion(self, trajectory, **options):
        """Send, and wait until the controllers have it; sent anew where this machine was too slow for the first one."""
        arms = options.get("arms") or self.received
        count = {arm: len(self.received[arm]) for arm in arms}

        def passed():
            return all(len(self.received[arm]) > n for arm, n in count.items())

        while True:
            before = self.status
            stamp = self.send(trajectory, **options)
            self.until(lambda before=before: passed() or self.status.refused > before.refused, "the motion to pass")
            if passed():
                return stamp
            late = any(
                word in self.status.last_refusal for word in ("old", "would jerk", "would jump", "were past", "should have left")
            )
            assert "stamp_s" not in options and late, self.status.last_refusal

    def held(self):
        return self.until(lambda: self.status.mode == GateStatus.HOLD and self.status, "a hold")

    def close(self):
        self.policy.close()
        self.executor.shutdown(timeout_sec=1.0)
        if self.gate is not None:
            self.gate.destroy_node()
        self.node.destroy_node()
        self.context.try_shutdown()


def stops(rig):
    """The newest message per arm, checked to be a stop from where the last motion was."""
    parts = {arm: conversions.trajectory(messages[-1]) for arm, messages in rig.received.items()}
    stamps = {conversions.seconds(messages[-1].header.stamp) for messages in rig.received.values()}
    assert len(stamps) == 1
    assert len({part.duration_s for part in parts.values()}) == 1
    assert all(part.duration_s <= 0.6 and not part.velocities[-1].any() for part in parts.values())
    return stamps.pop(), parts
