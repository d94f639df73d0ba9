"""The gate, real over DDS in one process, with a robot and a policy that do as the test says."""

import time
from pathlib import Path

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from rdvla_ros.msg import ControllerState, GateStatus
from rdvla_ros.srv import Hold, Resume, SetMode
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from rdvla_ros.control.limits import JointLimits
from rdvla_ros.control.trajectory import Reference, Trajectory, plan
from rdvla_ros.nodes import conversions
from rdvla_ros.nodes.gate_node import GateNode
from rdvla_ros.robot import RobotDescription

ROBOT_FILE = Path(__file__).parent.parent / "config" / "aloha_sim.yaml"
ROBOT = RobotDescription.load(ROBOT_FILE)
LIMITS = JointLimits.of_robot(ROBOT)
HOME = np.tile([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.03], len(ROBOT.arms))
SLICES = ROBOT.arm_slices
MOVES = np.array([name not in ROBOT.gripper_joints for name in ROBOT.joint_names])
PATIENCE_S = 20.0  # only ever waited when something is broken


def motion(start=HOME, change=0.1, rows=6, velocity=None):
    """A legal motion of all joints that begins at rest (or moving) at `start`: grippers stay."""
    targets = start + np.linspace(change / rows, change, rows)[:, None] * MOVES
    begin = Reference.at_rest(start) if velocity is None else Reference(start, velocity, np.zeros_like(start))
    return plan(targets, step_s=0.1, elapsed_s=0.0, horizon=rows, start=begin, limits=LIMITS, now=begin)


class GateRig:
    """The gate and everything around it, spun together: `robot` publishes joint states while the rig spins."""

    def __init__(self, *, states=True, controllers=True, wait=True, **parameters):
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        values = {"robot": str(ROBOT_FILE), "discovery_s": 0.0, **parameters}
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        self.gate = GateNode(context=self.context, parameter_overrides=overrides)
        self.node = node = Node("robot", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.gate)
        self.executor.add_node(node)
        self.positions, self.send_states = HOME.copy(), states
        self.statuses, self.received = [], {arm.name: [] for arm in ROBOT.arms}
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        node.create_subscription(GateStatus, "/gate/status", self.statuses.append, latched)
        self.joints = {arm.name: node.create_publisher(JointState, arm.joint_states_topic, 10) for arm in ROBOT.arms}
        self.reports = {arm.name: node.create_publisher(ControllerState, arm.controller_state_topic, 10) for arm in ROBOT.arms}
        self.sources = {
            prefix: {
                arm.name: node.create_publisher(JointTrajectory, f"{prefix}/{arm.name}/joint_trajectory", 10)
                for arm in ROBOT.arms
            }
            for prefix in ("/policy", "/teleop")
        }
        if controllers:
            for arm in ROBOT.arms:
                node.create_subscription(JointTrajectory, arm.trajectory_topic, self.received[arm.name].append, 10)
        node.create_timer(0.02, self.publish_states)
        self.clients = {
            kind: node.create_client(kind, f"/gate/{name}")
            for kind, name in ((Hold, "hold"), (Resume, "resume"), (SetMode, "set_mode"))
        }
        if wait:
            self.until(lambda: self.status and not self.status.causes, "a gate with nothing in the way")
            self.until(self.sources_matched, "the gate to listen")

    def sources_matched(self):
        return all(p.get_subscription_count() for by_arm in self.sources.values() for p in by_arm.values())

    @property
    def status(self):
        return self.statuses[-1] if self.statuses else None

    def now_s(self):
        return self.node.get_clock().now().nanoseconds * 1e-9

    def publish_states(self):
        if self.send_states:
            for arm in ROBOT.arms:
                self.send_joints(arm.name, arm.joint_names, self.positions[SLICES[arm.name]])

    def send_joints(self, arm, names, positions):
        message = JointState(name=list(names), position=[float(p) for p in positions])
        message.header.stamp = conversions.stamp(self.now_s())
        self.joints[arm].publish(message)

    def report(self, position, velocity):
        """What the controllers say that they command, all joints."""
        for arm in ROBOT.arms:
            message = ControllerState(joint_names=list(arm.joint_names))
            message.header.stamp = conversions.stamp(self.now_s())
            part = SLICES[arm.name]
            message.reference = JointTrajectoryPoint(positions=position[part].tolist(), velocities=velocity[part].tolist())
            self.reports[arm.name].publish(message)

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
        """Lift the hold in force."""
        answer = self.call(Resume, hold_id=self.status.hold_id, who="test")
        assert answer.accepted, answer.message
        self.until(lambda: self.status.mode == GateStatus.AUTO, "AUTO")

    def pass_motion(self, trajectory, **options):
        """Send, and wait until the controllers have it."""
        count = {arm: len(messages) for arm, messages in self.received.items()}
        stamp = self.send(trajectory, **options)
        self.until(lambda: all(len(self.received[arm]) > n for arm, n in count.items()), "the motion to pass")
        return stamp

    def held(self):
        return self.until(lambda: self.status.mode == GateStatus.HOLD and self.status, "a hold")

    def close(self):
        self.executor.shutdown(timeout_sec=1.0)
        self.gate.destroy_node()
        self.node.destroy_node()
        self.context.try_shutdown()
