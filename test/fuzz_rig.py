"""The real gate and policy nodes, their callbacks called one after the other under a clock of the test's own."""

import array
import contextlib
import types
from concurrent.futures import Future
from unittest import mock

import numpy as np
import rclpy
import worker_cases
from fuzz_messages import beat, controller_state, joints, joy
from gate_rig import HOME, LIMITS, ROBOT, ROBOT_FILE, SLICES
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.clock_type import ClockType
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.time import Time
from sensor_msgs.msg import Image

from rdvla_ros.control.motion import cubic
from rdvla_ros.control.motion.limits import POSITION_MARGIN
from rdvla_ros.control.motion.trajectory import LONGEST_MOTION_S, LONGEST_STOP_S
from rdvla_ros.control.supervision import modes
from rdvla_ros.msg import GateStatus
from rdvla_ros.nodes.common import conversions, guard, heartbeat, names
from rdvla_ros.nodes.gate import authority, robot_monitor, supervisor
from rdvla_ros.nodes.gate import node as gate_node
from rdvla_ros.nodes.policy import decision_loop, gate_client, motion_sender
from rdvla_ros.nodes.policy import node as policy_node
from rdvla_ros.nodes.sim_robot.node import _points
from rdvla_ros.sim.controller import JointTrajectoryController

TIMED = (
    guard, decision_loop, authority, gate_node, gate_client, supervisor, heartbeat, motion_sender, policy_node, robot_monitor,
)  # fmt: skip
SLACK = 0.05  # share of a limit that rounding and the tolerance of what passes may add


class Clock:
    """Steady seconds, which all rigs of a process share as nodes share a host's, and a ROS clock that may jump."""

    _steady_s = 1000.0

    def __init__(self):
        self.ahead_s = 1.7e9

    @property
    def steady_s(self):
        return Clock._steady_s

    @steady_s.setter
    def steady_s(self, value):
        Clock._steady_s = value

    @property
    def ros_s(self):
        return self.steady_s + self.ahead_s

    ros_time_is_active = False

    def now(self):
        return Time(nanoseconds=int(self.ros_s * 1e9), clock_type=ClockType.ROS_TIME)

    def monotonic(self):
        return self.steady_s

    def sleep(self, seconds):
        assert 0.0 <= seconds < 1.0, f"a callback would wait for {seconds} s"
        self.steady_s += seconds


class Output:
    """Stands in for a publisher to a controller: keeps what is sent, checks it, and moves the controller's model."""

    def __init__(self, arm, clock, tally, broken, stopping=lambda: False):
        self.arm, self._clock, self._tally, self._broken, self._stopping = arm, clock, tally, broken, stopping
        self.qos_profile, self.topic_name = QoSProfile(depth=10), arm.trajectory_topic
        self.model = JointTrajectoryController(arm.joint_names, HOME[SLICES[arm.name]])
        self.count, self.is_activated = 0, True

    def get_subscription_count(self):
        return 1

    def wait_for_all_acked(self, timeout):
        return True

    def publish(self, message):
        self.count += 1
        try:
            check_wire(self.arm, message, self._stopping())
        except AssertionError as error:  # the node would take it for a failure of its own, and hold
            self._broken.append(f"{self.arm.name}: {error!r} {message.points[0]}")
        self._tally["sent"] += 1
        self.model.accept(_points(message), self._clock.ros_s)


def check_wire(arm, message, stop):
    """What a controller may be sent: the arm's joints, finite, inside every limit on the whole way, and an end at rest. A stop
    begins from what the controller is believed to follow, which a false report may have put at or beyond a limit."""
    motion = conversions.trajectory(message)
    assert set(motion.joint_names) == set(arm.joint_names) and len(motion.joint_names) == len(arm.joint_names)
    order = [motion.joint_names.index(name) for name in arm.joint_names]
    limits = types.SimpleNamespace(**{f: getattr(LIMITS, f)[SLICES[arm.name]] for f in vars(LIMITS) if f != "names"})
    positions, velocities = motion.positions[:, order], motion.velocities[:, order]
    assert np.isfinite(positions).all() and np.isfinite(velocities).all() and np.isfinite(motion.times_s).all()
    assert motion.times_s[0] >= 0.0 and (np.diff(motion.times_s) > 0.0).all()
    assert not velocities[-1].any() and motion.times_s[-1] <= LONGEST_MOTION_S + LONGEST_STOP_S
    peaks = cubic.peaks(motion.times_s, positions, velocities)
    begin, speed = positions[0], np.abs(velocities[0])
    margin = 1.01 * POSITION_MARGIN * (limits.upper - limits.lower) + stop * speed * (speed / limits.acceleration + 0.05)
    lower, upper = (np.minimum(limits.lower, begin), np.maximum(limits.upper, begin)) if stop else (limits.lower, limits.upper)
    assert (peaks["lower"] >= lower - margin).all() and (peaks["upper"] <= upper + margin).all(), peaks
    fastest = np.maximum(limits.velocity, speed) if stop else limits.velocity
    for what, limit in (("velocity", fastest), ("acceleration", limits.acceleration), ("jerk", limits.jerk)):
        assert (peaks[what] <= (1.0 + SLACK) * limit + 1e-9).all(), (what, peaks[what], limit)


class Fuzzed:
    """What gate and policy have in common. `tally`: how much of what was done."""

    def __init__(self):
        self.clock, self.tally, self.broken = Clock(), {"sent": 0}, []
        self._undo = contextlib.ExitStack()
        for module in TIMED:
            self._undo.enter_context(mock.patch.object(module, "time", self.clock))
        self._undo.enter_context(mock.patch.object(heartbeat.SideNode, "start", lambda side: None))  # one thread: the test's
        self._undo.enter_context(mock.patch.object(modes, "RACE_S", 0.0))
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.beats = 0

    def options(self, **values):
        values = {"robot": str(ROBOT_FILE), **values}
        return {"context": self.context, "parameter_overrides": [Parameter(k, value=v) for k, v in values.items()]}

    def settle(self, node):
        logger = node.get_logger()
        logger.set_level(rclpy.logging.LoggingSeverity.FATAL)
        self._undo.callback(logger.set_level, rclpy.logging.LoggingSeverity.UNSET)  # the name's level outlives the node
        node.get_clock = lambda: self.clock
        return node

    def parameter(self, name, value):
        """By the node's parameter service."""
        request = SetParametersAtomically.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        service = next(s for s in self.node.services if s.srv_name.endswith("/set_parameters_atomically"))
        result = service.callback(request, SetParametersAtomically.Response()).result
        assert result.successful or result.reason

    def by_hand(self, positions):
        for arm in ROBOT.arms:
            self.outputs[arm.name].model.reset(positions[SLICES[arm.name]])

    def close(self):
        self.node.destroy_node()
        self.context.try_shutdown()
        self._undo.close()


class FuzzedGate(Fuzzed):
    def __init__(self, **values):
        super().__init__()
        values = {"discovery_s": 0.0, "operator": "joy", "operator_timeout_s": 5.0, "auto_resume": True, **values}
        self.node = self.settle(gate_node.GateNode(**self.options(**values)))
        gate = self.node
        for arm in ROBOT.arms:
            gate.destroy_publisher(gate._arms.outputs[arm.name])
            gate._arms.outputs[arm.name] = Output(arm, self.clock, self.tally, self.broken, self.stopping)
        self.outputs = gate._arms.outputs
        self.services = {s.srv_name.rsplit("/", 1)[1]: s for s in gate._side.node.services}
        self.on_joints = gate._guard.wrap(gate._robot_watch._on_joints)
        self.on_controller = gate._guard.wrap(gate._robot_watch._on_controller)
        self.on_motion = gate._guard.wrap(gate._on_motion)
        self.on_joy = gate._guard.wrap(gate._watch._on_joy)
        self.tick = gate._guard.wrap(gate._tick)

    @property
    def state(self):
        return self.node._authority.modes.state

    def stopping(self):
        return self.state.mode in (modes.Mode.HOLD, modes.Mode.PAUSE)

    def exceptions(self):
        return self.node._authority.exceptions + self.node._side.guard.exceptions

    def desired(self, arm):
        return self.outputs[arm.name].model.update(self.clock.ros_s)

    def reference(self):
        return np.concatenate([self.desired(arm).position for arm in ROBOT.arms])

    def run(self, seconds, period_s=0.02, pressed=True):
        """Time passes with everything as it should be; the gate's own periodic work is done."""
        for _ in range(max(1, round(seconds / period_s))):
            self.clock.steady_s += period_s
            self.feed(pressed)
            self.node._watch.heart._callbacks_run()
            self.node._watch.watch(self.clock.steady_s)
        self.tick()

    def feed(self, pressed):
        for arm in ROBOT.arms:
            desired = self.desired(arm)
            self.on_joints(arm.joint_states_topic, joints(arm, desired.position, self.clock.ros_s))
            self.on_controller(arm, controller_state(arm, desired, self.clock.ros_s, self.outputs[arm.name].model.accepted))
        self.beats += 1
        self.node._watch.heart._on_heard(names.POLICY_HEARTBEAT, beat(self.beats, self.clock.ros_s))
        self.on_joy(joy(pressed, self.clock.ros_s))

    def call(self, name, **fields):
        service = self.services[name]
        answer = service.callback(service.srv_type.Request(**fields), service.srv_type.Response())
        assert type(answer) is service.srv_type.Response
        return answer


class Decider:
    """A keeper of a worker that decides what the test says: `next`, a Decision or an exception."""

    def __init__(self, loaded):
        self.first = Future()
        self.first.set_result(loaded)
        self.next, self.why, self.lost = None, "", ""

    def why_not(self):
        return self.why

    def loaded(self, timeout_s):
        return self.first.result()

    def watch(self, now_s):
        lost, self.lost = self.lost, ""
        return lost

    def submit(self, observation, now_s, deadline_s=None, executed_steps=None):
        future, what = Future(), self.next(observation)
        future.set_exception(what) if isinstance(what, Exception) else future.set_result(what)
        return future

    def close(self, timeout_s):
        pass


class Settled(policy_node.PolicyNode):
    """Its worker is the test's own."""

    def _started_worker(self, robot):
        self.decider = Decider(worker_cases.LOADED)
        return self.decider


class FuzzedPolicy(Fuzzed):
    def __init__(self):
        super().__init__()
        values = {"checkpoint": "none", "instruction": "calm", "healthy_s": 0.1, "first_latency_s": 0.05, "gate_heartbeat_s": 0.5}
        self.node = self.settle(Settled(**self.options(**values)))
        self.complaints, self.outputs = [], {}
        self.node._guard._repeat_s = 0.0
        self.node._guard.log = lambda severity, text: self.complaints.append(text)
        self.pixels = [array.array("B", bytes(230400 - 1) + bytes([level])) for level in (1, 2)]
        self.images = 0
        self.configure()

    def configure(self):
        """Cleaned up, configured and activated; the controllers' models take what it publishes."""
        policy = self.node
        policy.trigger_deactivate() if policy._active else None
        policy.trigger_cleanup() if policy._configured else None
        assert policy.trigger_configure() is policy_node.SUCCESS and policy.trigger_activate() is policy_node.SUCCESS
        models = {name: output.model for name, output in self.outputs.items()}
        for arm in ROBOT.arms:
            policy.destroy_lifecycle_publisher(policy._motions._publishers[arm.name])
            self.outputs[arm.name] = Output(arm, self.clock, self.tally, self.broken)
            self.outputs[arm.name].model = models.get(arm.name, self.outputs[arm.name].model)
        policy._motions._publishers = dict(self.outputs)
        policy._motions.destroy = []
        policy._resources = [r for r in policy._resources if getattr(r, "func", None) != policy.destroy_lifecycle_publisher
                             or r.args[0] is policy._deciding._p.publish.__self__]  # fmt: skip
        self.sources = {subscriber.topic: subscriber for subscriber in policy._inputs._subscribers}

    def desired(self, arm):
        return self.outputs[arm.name].model.update(self.clock.ros_s)

    def image(self, camera):
        self.images += 1
        data = self.pixels[self.images // len(ROBOT.cameras) % 2]
        message = Image(height=240, width=320, step=960, encoding="rgb8", data=data)
        message.header.stamp, message.header.frame_id = conversions.stamp(self.clock.ros_s), camera.frame_id
        return message

    def status(self, mode=GateStatus.AUTO, **fields):
        self.node._guard.wrap(self.node._gate._on_status)(GateStatus(mode=mode, **fields))

    def beat(self):
        self.beats += 1
        self.node._heart._on_heard(names.GATE_HEARTBEAT, beat(self.beats, self.clock.ros_s))

    def work(self):
        """What the node does by itself: its timers, and what it does when a decision is there."""
        guarded = self.node._guard.wrap
        for callback in (self.node._heart._callbacks_run, self.node._watch, self.node._take_result, self.node._tick):
            guarded(callback)()

    def run(self, seconds, period_s=0.05):
        """Time passes with everything as it should be; images come with every second sample of the joints."""
        for step in range(max(1, round(seconds / period_s))):
            self.clock.steady_s += period_s
            self.beat()
            self.status()
            for arm in ROBOT.arms:
                desired = self.desired(arm)
                self.sources[arm.joint_states_topic].callback(joints(arm, desired.position, self.clock.ros_s))
                self.node._arms._on_state(arm, controller_state(arm, desired, self.clock.ros_s, 0))
            if step % 2:
                for camera in ROBOT.cameras:
                    self.sources[camera.topic].callback(self.image(camera))
            self.work()

    def sent(self):
        return sum(output.count for output in self.outputs.values())
