"""A node for tests over real DDS: it keeps what it hears and waits for conditions, never for a time alone."""

import time
from collections import defaultdict

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from rdvla_ros.msg import ControllerState, Convergence, GateStatus, TaskStage, Uncertainty
from rdvla_ros.srv import Hold, ResetTask, Resume

OURS = ("/policy/", "/monitor/", "/gate/", "/sim_robot/", "/diagnostics")
PATIENCE_S = 60.0  # only ever waited when something is broken


class Wire:
    """Hears a robot's topics. `heard[topic]` is the list of messages so far, by the names without a namespace. check: raises when
    waiting is of no use."""

    def __init__(self, robot, domain, check=lambda: None, namespace=""):
        self.robot, self._check = robot, check
        self.context = rclpy.Context()
        rclpy.init(args=[], context=self.context, domain_id=domain, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node("wire", context=self.context, namespace=namespace)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.heard = defaultdict(list)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        for arm in robot.arms:
            self._hear(JointTrajectory, arm.trajectory_topic)
            self._hear(JointTrajectory, f"/policy/{arm.name}/joint_trajectory")
            self._hear(ControllerState, arm.controller_state_topic)
        for topic in {arm.joint_states_topic for arm in robot.arms}:
            self._hear(JointState, topic)
        self._hear(Image, robot.cameras[-1].topic)
        self._hear(Convergence, "/policy/convergence")
        self._hear(Uncertainty, "/monitor/uncertainty")
        self._hear(DiagnosticArray, "/diagnostics")
        self._hear(TaskStage, "/sim_robot/task_stage")
        self._hear(GateStatus, "/gate/status", latched)

    def _hear(self, kind, topic, qos=50):
        name = topic.lstrip("/") if topic.startswith(OURS) else topic  # the robot's are in full already
        self.node.create_subscription(kind, name, self.heard[topic].append, qos)

    def until(self, condition, what, seconds=PATIENCE_S):
        """Spin until the condition holds, and return its value."""
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
            self.executor.spin_once(timeout_sec=0.05)
            self._check()
        return value

    def expect_exits(self):
        """From now on processes may end."""
        self._check = lambda: None

    def more(self, topic, count):
        """Wait for `count` further messages of a topic that always flows: a measure of time for what must NOT happen."""
        target = len(self.heard[topic]) + count
        self.until(lambda: len(self.heard[topic]) >= target, f"{count} more messages on {topic}")

    def call(self, kind, name, **fields):
        client = self.node.create_client(kind, name.lstrip("/"))
        try:
            self.until(client.service_is_ready, f"service {name}")
            future = client.call_async(kind.Request(**fields))
            self.until(future.done, f"an answer of {name}")
            return future.result()
        finally:
            self.node.destroy_client(client)

    def hold(self, reason="a test", who="test"):
        return self.call(Hold, "/gate/hold", reason=reason, who=who)

    def resume(self, hold_id, who="test"):
        return self.call(Resume, "/gate/resume", hold_id=hold_id, who=who)

    def resume_in_force(self):
        """Lift whatever hold is in force as soon as nothing stands in the way."""
        self.until(lambda: not self.gate.causes and self.resume(self.gate.hold_id).accepted, "an accepted resume")
        self.until(lambda: self.gate.mode == GateStatus.AUTO, "mode AUTO")

    def reset(self, seed=0, task=""):
        return self.call(ResetTask, "/sim_robot/reset", task=task, seed=seed)

    def set_parameter(self, node, name, value):
        request = [Parameter(name, value=value).to_parameter_msg()]
        (result,) = self.call(SetParameters, f"{node}/set_parameters", parameters=request).results
        assert result.successful, result.reason

    @property
    def gate(self):
        return self.until(lambda: self.heard["/gate/status"], "a gate status")[-1]

    def trajectories(self):
        """What went to the controllers so far: arm -> messages."""
        return {arm.name: list(self.heard[arm.trajectory_topic]) for arm in self.robot.arms}

    def trajectory_count(self):
        return sum(map(len, self.trajectories().values()))

    def positions(self):
        """(A,) newest measured positions, controller units."""
        return self._joints("position")

    def velocities(self):
        return self._joints("velocity")

    def commanded(self):
        """(A,) newest positions that the controllers command."""
        values = {}
        for arm in self.robot.arms:
            topic = arm.controller_state_topic
            message = self.until(lambda topic=topic: self.heard[topic], f"a message on {topic}")[-1]
            values.update(zip(message.joint_names, message.reference.positions, strict=True))
        return np.array([values[name] for name in self.robot.joint_names])

    def _joints(self, field):
        values = {}
        for topic in {arm.joint_states_topic for arm in self.robot.arms}:
            message = self.until(lambda topic=topic: self.heard[topic], f"a message on {topic}")[-1]
            values.update(zip(message.name, getattr(message, field), strict=True))
        return np.array([values[name] for name in self.robot.joint_names])

    def at_rest(self, samples=10, limit=0.02):
        """The newest samples of every joint state topic are all slower than the limit [rad/s or m/s]."""
        for topic in {arm.joint_states_topic for arm in self.robot.arms}:
            newest = self.heard[topic][-samples:]
            if len(newest) < samples or max(abs(v) for m in newest for v in m.velocity) > limit:
                return False
        return True

    def close(self):
        self.executor.shutdown(timeout_sec=1.0)
        self.node.destroy_node()
        self.context.try_shutdown()
