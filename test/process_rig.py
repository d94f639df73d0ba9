"""Gate and policy as processes of their own, around a robot that lives in the test: for faults that only a process can have."""

import array
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from gate_rig import PATIENT, ROBOT, ROBOT_FILE, GateRig
from sensor_msgs.msg import Image

from rdvla_ros.msg import GateStatus, Heartbeat
from rdvla_ros.nodes.common import conversions, qos, transport
from rdvla_ros.robot import shipped
from rdvla_ros.srv import Resume

TESTS = Path(__file__).resolve().parent
# The policy node with a stand-in for the network: what it decides needs no torch, so that its process starts in a moment.
POLICY = "from rdvla_ros.nodes.policy import node;node.PolicyNode.load = 'worker_cases:{}';raise SystemExit(node.main())"
PROGRAMS = {
    "gate": ["-m", "rdvla_ros.nodes.gate.node"],
    "policy": ["-c", POLICY.format("led")],
    "thoughtful policy": ["-c", POLICY.format("thoughtful")],
    "monitor": ["-m", "rdvla_ros.nodes.monitor.node"],
}
MOVING = ("gate", "policy")  # what arms need to move
VALUES = {
    "gate": {**PATIENT, "heartbeat_timeout_s": 1.5, "longest_age_s": 1.0, "clock_tolerance_s": 10.0, "predecessor_s": 60.0},
    "policy": {
        "checkpoint": "worker_cases", "instruction": "calm", "autostart": True, "gate_heartbeat_s": 1.5, "gate_timeout_s": 3.0,
        "decision_timeout_s": 20.0, "stall_s": 5.0, "pause_after_s": 2.0, "max_observation_age_s": 0.6, "frozen_frames": 0,
    },
    "monitor": {},
}  # fmt: skip
VALUES["thoughtful policy"] = VALUES["policy"]
LEASE_S = 3  # after so long without a sign of life the discovery forgets a process; 20 by default
LEASE = f"<discovery_config><leaseDuration><sec>{LEASE_S}</sec></leaseDuration>" \
    "<leaseAnnouncement><sec>1</sec></leaseAnnouncement></discovery_config>"  # fmt: skip
PROFILE = shipped(transport.LOOPBACK).read_text().replace("<builtin>", f"<builtin>{LEASE}")


class ProcessRig(GateRig):
    """`start` and `kill` processes by name; robot, cameras and the operator are this one's. `beats`: what the policy beats."""

    def __init__(self):
        super().__init__(gate=False, wait=False)
        self.policy.alive = False  # the real one beats
        self.processes, self._folder = {}, tempfile.TemporaryDirectory()
        self._profile = Path(self._folder.name) / "profile.xml"
        self._profile.write_text(PROFILE)
        self.beats = []
        self.node.create_subscription(Heartbeat, "/policy/heartbeat", self.beats.append, qos.HEARTBEAT)
        self._images = {camera.name: self.node.create_publisher(Image, camera.topic, 1) for camera in ROBOT.cameras}
        self._pixels = array.array("B", np.random.default_rng(0).integers(0, 255, 320 * 240 * 3, dtype=np.uint8).tobytes())
        self.node.create_timer(0.1, self.publish_images)

    def publish_images(self):
        for camera in ROBOT.cameras:
            message = Image(height=240, width=320, step=960, encoding="rgb8", data=self._pixels)
            message.header.stamp, message.header.frame_id = conversions.stamp(self.now_s()), camera.frame_id
            self._images[camera.name].publish(message)

    def start(self, name, again="", **values):
        """A process; its standard error goes to `log(name)`. again: it is a second one, known by this name."""
        program, parameters = PROGRAMS[name], {"robot": ROBOT_FILE, **VALUES[name], **values}
        name = again or name
        words = [
            word
            for key, value in parameters.items()
            for word in ("-p", f"{key}:={str(value).lower() if value is True else value}")
        ]
        path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, **dict.fromkeys(transport.PROFILES, str(self._profile))}
        command = [sys.executable, *program, "--ros-args", *words]
        with self._log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        return self.processes[name]

    def _log(self, name):
        return Path(self._folder.name) / f"{name}.log"

    def log(self, name):
        return self._log(name).read_text() if self._log(name).exists() else ""

    def kill(self, *names):
        """At once, as the kernel does it."""
        for name in names:
            self.processes[name].kill()
        for name in names:
            self.processes.pop(name).wait()

    def move(self):
        """Start what is missing, lift the hold in force, and wait until the arms move."""
        for name in MOVING:
            if name not in self.processes:
                self.start(name)
        if "gate" not in self.log("gate") or not self.status:
            self.until(lambda: self.status, "a status of the gate", 60.0)
        self.until(self._resumed, "a resume", 60.0)
        count = self.received_count()
        self.until(lambda: self._resumed() and self.received_count() >= count + 4, "motions", 60.0)

    def _resumed(self):
        for name, process in self.processes.items():
            assert process.poll() is None, f"{name} ended:\n{self.log(name)[-2000:]}"
        if self.status.mode == GateStatus.AUTO:
            return True
        if not self.status.causes:
            self.call(Resume, hold_id=self.status.hold_id, who="test")
            self.spin_for(0.1)
        return False

    def received_count(self):
        return sum(map(len, self.received.values()))

    def resting(self):
        """No arm is moved by its controller any more."""
        return all(not self.models[arm.name].update(self.now_s()).velocity.any() for arm in ROBOT.arms)

    def nothing_comes(self, seconds=0.5):
        count = self.received_count()
        self.spin_for(seconds)
        return self.received_count() == count

    def close(self):
        for process in self.processes.values():
            process.kill()
            process.wait()
        super().close()
        self._folder.cleanup()
