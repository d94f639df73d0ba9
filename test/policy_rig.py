"""The policy node, real over DDS in one process, with a robot that does as the test says.

Its decision process runs worker_cases, which need no torch and begin within a second, or a tiny policy with random weights from a
checkpoint folder.
"""

import array
import dataclasses
import os
import time
from pathlib import Path

import numpy as np
import rclpy
from gate_rig import Beats
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from rdvla_ros.msg import Convergence, GateStatus, Heartbeat
from rdvla_ros.nodes.common import conversions, qos
from rdvla_ros.nodes.common.executor import make_executor
from rdvla_ros.nodes.policy.node import PolicyNode
from rdvla_ros.nodes.policy.worker.loading import LOAD
from rdvla_ros.robot import RobotDescription
from rdvla_ros.srv import SetInstruction

ROBOT_FILE = Path(__file__).resolve().parents[1] / "config" / "aloha_sim.yaml"
ROBOT = RobotDescription.load(ROBOT_FILE).in_namespace("/")
INSTRUCTION = "pick up the red cube"
CASES = "worker_cases:led"
HOME = np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.03])
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
# One thread runs the node, the robot and the test, on a machine that does other work.
PATIENT = {"decision_timeout_s": 20.0, "stall_s": 5.0, "pause_after_s": 1.0, "frozen_frames": 0}
UNCONFIGURED, INACTIVE, ACTIVE = 1, 2, 3


def save_calm_checkpoint(folder):
    """Actions of a few hundredths of a radian, so that every chunk is a legal motion."""
    from policy_cases import tiny_checkpoint

    from rdvla_ros.model.checkpoint import save_checkpoint
    from rdvla_ros.model.normalization import Scaler

    tiny = tiny_checkpoint()
    grippers = np.isin(ROBOT.joint_names, ROBOT.gripper_joints)
    action = Scaler(np.where(grippers, 0.2, -0.03), np.where(grippers, 0.3, 0.03))
    tiny = dataclasses.replace(tiny, space=dataclasses.replace(tiny.space, action=action))
    return save_checkpoint(folder, tiny)


class FakeGate:
    """Says what the test wants, 20 times a second, and beats. `heard`: what the policy beats."""

    def __init__(self, rig):
        latched = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.RELIABLE, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
        publisher = rig.robot.create_publisher(GateStatus, "/gate/status", latched)
        self.status = GateStatus(mode=GateStatus.HOLD, hold_id=1, reason="start-up")
        self.timer = rig.robot.create_timer(0.05, lambda: publisher.publish(self.status))
        self.beats, self.heard = Beats(rig.robot, "/gate/heartbeat"), []
        rig.robot.create_subscription(Heartbeat, "/policy/heartbeat", self.heard.append, qos.HEARTBEAT)

    def auto(self):
        self.status = GateStatus(mode=GateStatus.AUTO, hold_id=self.status.hold_id)

    def hold(self, reason):
        self.status = GateStatus(mode=GateStatus.HOLD, hold_id=self.status.hold_id + 1, reason=reason)

    def close(self):
        self.beats.close()


class Rig:
    """The policy node and a robot for it, spun together. A checkpoint among the parameters: its policy decides."""

    def __init__(self, capfd, remappings=(), load="", **parameters):
        self.capfd, self.log, self.closed = capfd, "", False
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        load = load or (LOAD if "checkpoint" in parameters else CASES)
        parameters.setdefault("checkpoint", "worker_cases")
        values = {"robot": str(ROBOT_FILE), "instruction": INSTRUCTION, "gate": False, **PATIENT, **parameters}
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        arguments = ["--ros-args", *(word for pair in remappings for word in ("-r", ":=".join(pair)))]
        self.policy = PolicyNode(context=self.context, parameter_overrides=overrides, cli_args=arguments)
        self.policy.load = load
        self.robot = node = Node("robot", context=self.context)
        self.executor = make_executor(self.context, PolicyNode.EXECUTOR)
        self.executor.add_node(self.policy)
        self.executor.add_node(node)
        self.decisions, self.sent = [], {arm.name: [] for arm in ROBOT.arms}
        self.still, self.spoil_image, self.spoil_joints = False, lambda camera, message: None, lambda arm, message: None
        self.silent, self.positions, self.delay_s = set(), {arm.name: HOME.copy() for arm in ROBOT.arms}, 0.0
        self.images = {camera.topic: node.create_publisher(Image, camera.topic, 1) for camera in ROBOT.cameras}
        self.joints = {
            arm.joint_states_topic: node.create_publisher(JointState, arm.joint_states_topic, 10) for arm in ROBOT.arms
        }
        for arm in ROBOT.arms:
            node.create_subscription(JointTrajectory, f"/policy/{arm.name}/joint_trajectory", self.sent[arm.name].append, 10)
        self.predicted = []
        node.create_subscription(JointTrajectory, "/policy/left/chunk", self.predicted.append, 10)
        node.create_subscription(Convergence, "/policy/convergence", self.decisions.append, 10)
        node.create_timer(0.1, self.publish_images)
        node.create_timer(0.02, self.publish_joints)
        self.pixels = array.array("B", np.random.default_rng(0).integers(0, 255, 320 * 240 * 3, dtype=np.uint8).tobytes())

    def stamp(self):
        return conversions.stamp(self.robot.get_clock().now().nanoseconds / 1e9 - self.delay_s)

    def publish_images(self):
        stamp = self.stamp()
        self.pixels[0] = self.pixels[0] if self.still else (self.pixels[0] + 1) % 256
        for camera in ROBOT.cameras:
            if camera.topic not in self.silent:
                message = Image(height=240, width=320, step=960, encoding="rgb8", data=self.pixels)
                message.header.stamp, message.header.frame_id = stamp, camera.frame_id
                self.spoil_image(camera, message)
                self.images[camera.topic].publish(message)

    def publish_joints(self):
        for arm in ROBOT.arms:
            if arm.joint_states_topic not in self.silent:
                message = JointState(name=list(arm.joint_names), position=self.positions[arm.name].tolist())
                message.header.stamp = self.stamp()
                self.spoil_joints(arm, message)
                self.joints[arm.joint_states_topic].publish(message)

    def spin(self, seconds):
        self.until(lambda: False, seconds)

    def until(self, condition, seconds=20.0):
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)
        return condition()

    def decides_no_more(self, seconds):
        """Whether no further decision comes within `seconds`, once the one that was under way is done."""
        end, count = time.monotonic() + 5.0, -1
        while count != len(self.decisions) and time.monotonic() < end:
            count = len(self.decisions)
            self.spin(0.4)
        count = len(self.decisions)
        self.spin(seconds)
        return len(self.decisions) == count

    def call(self, kind, name, request, seconds=120.0):
        client = self.robot.create_client(kind, name)
        assert self.until(client.service_is_ready, seconds)
        future = client.call_async(request)
        assert self.until(future.done, seconds), f"{name} was not answered"
        return future.result()

    def change(self, transition):
        return self.call(ChangeState, "/policy/change_state", ChangeState.Request(transition=Transition(id=transition))).success

    def start(self):
        assert self.change(Transition.TRANSITION_CONFIGURE), self.log
        assert self.change(Transition.TRANSITION_ACTIVATE)
        return self

    def instruct(self, text):
        """What the decisions do from now on, where worker_cases makes them."""
        answer = self.call(SetInstruction, "/policy/set_instruction", SetInstruction.Request(instruction=text))
        assert answer.accepted, answer.message

    def moving(self):
        """Start, if that is still to be done, and wait for motions that follow from here on."""
        if self.state() != ACTIVE:
            self.start()
        count = len(self.sent["right"])
        assert self.until(lambda: len(self.sent["right"]) >= count + 2), self.log
        return self

    def rests(self, seconds=0.5):
        """No motion is sent for a while; one that is on its way does not count."""
        self.spin(0.2)
        count = sum(map(len, self.sent.values()))
        self.spin(seconds)
        return sum(map(len, self.sent.values())) == count

    def holds(self, words):
        """Both arms come to rest for a reason with these words, and nothing follows."""
        assert self.until(lambda: self.line("Hold: ", words)), self.log
        assert self.rests(), "nothing follows a hold"
        ends = {name: conversions.trajectory(messages[-1]) for name, messages in self.sent.items() if messages}
        return all(not motion.velocities[-1].any() for motion in ends.values())

    def line(self, *words, severity=""):
        """The first line of the log that has all the words; empty where there is none."""
        lines = (line for line in self.lines() if line.startswith(f"[{severity}"))
        return next((line for line in lines if all(word in line for word in words)), "")

    def state(self):
        return self.policy._state_machine.current_state[0]

    def said(self, words, severity=""):
        """Whether a line of the log contains the words."""
        return any(words in line for line in self.lines() if line.startswith(f"[{severity}"))

    def lines(self):
        self.log += self.capfd.readouterr().err
        return self.log.splitlines()

    def close(self):
        """Once: a second rig in one test would find two publishers on every camera's topic while the first one lives."""
        if self.closed:
            return
        self.closed = True
        self.policy.close()
        self.executor.shutdown(timeout_sec=0.5)
        for node in (self.policy, self.robot):
            node.destroy_node()
        rclpy.shutdown(context=self.context)


QUICK = {"pause_after_s": 0.5, "healthy_s": 0.3}  # parameters of a policy that pauses and goes on soon


def again(rig):
    """An operator starts it anew."""
    assert rig.change(Transition.TRANSITION_DEACTIVATE) and rig.change(Transition.TRANSITION_ACTIVATE)
    return rig.moving()


def paused(rig, *words):
    """The arms are brought to rest, and a warning has the words; a late message may have done so before."""
    return rig.until(lambda: rig.line("Pause: ", severity="WARN") and rig.line(*words, severity="WARN"))
